use std::array::from_fn;
use std::sync::Arc;

use burn::backend::{Dispatch, DispatchDevice, DispatchTensor};
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cubecl::cubecl::RuntimeId;
use mgnt_model::kernels::{
    AdamW, Aim, Attended, Branch, Dropped, Embedded, Entropy, GoesOn, Heads, Kernels, LearnedStream, Normed,
    Parameter, Samples, Scaled, Scales, Stream,
};

use crate::cuda::between_steps::BetweenSteps;
use crate::cuda::dense_on_tape::Products;
use crate::cuda::dropped::Dropout;
use crate::cuda::gradients::GradientPasses;
use crate::cuda::learned::Learned;
use crate::cuda::library;
use crate::cuda::norm_on_tape::StreamAs;
use crate::cuda::passes::Passes;
use crate::cuda::shared::Shared;
use crate::cuda::table_on_tape::Picked;
use crate::cuda::update::{AT_ONCE, Factors, SQUARES};
use crate::parts::parts;

/// The kernels of a CUDA device, with a tape or without; `None` for any other.
pub fn on(device: &Device) -> Option<Arc<dyn Kernels>> {
    let device = device.clone().without_autodiff();
    let DispatchDevice::Cube(device) = device.as_dispatch() else { return None };
    (device.runtime() == RuntimeId::Cuda).then(|| Arc::new(Cube) as Arc<dyn Kernels>)
}

#[derive(Debug)]
struct Cube;

impl Kernels for Cube {
    fn product(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize, to: DType) -> Tensor<3> {
        let [rows, inputs] = x.dims();
        // The library splits long sums of itself.
        let parts = if library::is_there() { 1 } else { parts(rows, inputs, outputs) };
        let to = if parts == 1 { to } else { DType::F32 };
        Tensor::from_dispatch(Dispatch::product(
            x.into_dispatch(),
            weight.into_dispatch(),
            outputs,
            parts,
            to,
        ))
    }

    fn bias_type(&self, of: DType) -> DType {
        if library::is_there() { of } else { DType::F32 }
    }

    fn heads(
        &self,
        x: Tensor<2>,
        weight: Tensor<2>,
        bias: Tensor<1>,
        keys: Tensor<4>,
        values: Tensor<4>,
        from: usize,
    ) -> Heads {
        let (queries, keys, values) = Dispatch::heads(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            keys.into_dispatch(),
            values.into_dispatch(),
            from,
        );
        let [queries, keys, values] = [queries, keys, values].map(Tensor::from_dispatch);
        Heads { queries, keys, values }
    }

    fn attend_anew(
        &self,
        x: Tensor<2>,
        weight: Tensor<2>,
        bias: Tensor<1>,
        keys: Tensor<4>,
        values: Tensor<4>,
        from: usize,
        keep: usize,
    ) -> Attended {
        let (mixed, keys, values) = Dispatch::attend_anew(
            x.into_dispatch(),
            weight.into_dispatch(),
            bias.into_dispatch(),
            keys.into_dispatch(),
            values.into_dispatch(),
            from,
            keep,
        );
        let [keys, values] = [keys, values].map(Tensor::from_dispatch);
        Attended { mixed: Tensor::from_dispatch(mixed), keys, values }
    }

    fn attend(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, positions: usize) -> Tensor<2> {
        let [queries, keys, values] = [queries, keys, values].map(Tensor::into_dispatch);
        Tensor::from_dispatch(Dispatch::attend(queries, keys, values, positions))
    }

    fn gelu(&self, x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, outputs: usize, to: DType) -> Tensor<2> {
        let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
        Tensor::from_dispatch(Dispatch::gelu(x, weight, bias, outputs, to))
    }

    fn add_norm(
        &self,
        stream: Stream,
        branch: Option<Branch>,
        norm: Scales,
        on: GoesOn,
        to: DType,
    ) -> Normed {
        // An operation has all of its tensors: others stand for what is not there, and are not read.
        let has_branch = branch.is_some();
        let is_in_halves = stream.rest.is_some();
        let rest = stream.rest.unwrap_or_else(|| stream.first.clone()).into_dispatch();
        let stream = stream.first.into_dispatch();
        let (parts, bias) = match branch {
            Some(Branch { parts, bias }) => (parts.into_dispatch(), bias.into_dispatch()),
            None => (stream.clone(), norm.beta.clone().into_dispatch()),
        };
        let (next, input) = Dispatch::add_norm(
            stream,
            rest,
            parts,
            bias,
            norm.gamma.into_dispatch(),
            norm.beta.into_dispatch(),
            is_in_halves,
            has_branch,
            on,
            to,
        );
        going_on([next, input].map(Tensor::from_dispatch), on)
    }

    fn embed(&self, embedded: Embedded, norm: Scales, on: GoesOn, to: DType) -> Normed {
        let Embedded { tokens, positions, of_token, of_position } = embedded;
        let (next, input) = Dispatch::embed(
            tokens.into_dispatch(),
            positions.into_dispatch(),
            of_token.into_dispatch(),
            of_position.into_dispatch(),
            norm.gamma.into_dispatch(),
            norm.beta.into_dispatch(),
            on,
            to,
        );
        going_on([next, input].map(Tensor::from_dispatch), on)
    }

    fn draw(&self, logits: Tensor<2>, uniform: Tensor<2>, temperature: f64) -> (Tensor<2, Int>, Tensor<2>) {
        let (logits, uniform) = (logits.into_dispatch(), uniform.into_dispatch());
        let (codes, logarithms) = Dispatch::draw(logits, uniform, temperature as f32);
        (Tensor::from_dispatch(codes), Tensor::from_dispatch(logarithms))
    }

    fn decide(
        &self,
        scores: Tensor<2>,
        codes: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        count: usize,
    ) -> [Tensor<2, Int>; 2] {
        let (codes, positions) = (codes.into_dispatch(), positions.into_dispatch());
        let (codes, positions) = Dispatch::decide(scores.into_dispatch(), codes, positions, count);
        [codes, positions].map(Tensor::from_dispatch)
    }

    fn dense(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize) -> Tensor<3> {
        Tensor::from_dispatch(Dispatch::dense(x.into_dispatch(), weight.into_dispatch(), outputs))
    }

    fn dense_of_three(&self, x: Tensor<2>, weights: Tensor<3>, outputs: usize) -> Tensor<3> {
        Tensor::from_dispatch(Dispatch::dense(x.into_dispatch(), weights.into_dispatch(), outputs))
    }

    fn shared_matrix(&self, parameter: Tensor<2>, to: DType) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::shared(parameter.into_dispatch(), to))
    }

    fn shared_vector(&self, parameter: Tensor<1>) -> Tensor<1> {
        let to = parameter.dtype();
        Tensor::from_dispatch(Dispatch::shared(parameter.into_dispatch(), to))
    }

    fn shared_matrices(&self, parameters: [Tensor<2>; 3], to: DType) -> Tensor<3> {
        let [first, second, third] = parameters.map(Tensor::into_dispatch);
        Tensor::from_dispatch(Dispatch::shared_three(first, second, third, to))
    }

    fn shared_vectors(&self, parameters: [Tensor<1>; 3]) -> Tensor<2> {
        let to = parameters[0].dtype();
        let [first, second, third] = parameters.map(Tensor::into_dispatch);
        Tensor::from_dispatch(Dispatch::shared_three(first, second, third, to))
    }

    fn attention(
        &self,
        sums: Tensor<3>,
        biases: Tensor<2>,
        dropped: Option<Dropped>,
        of: Samples,
    ) -> Tensor<2> {
        let (sums, biases) = (sums.into_dispatch(), biases.into_dispatch());
        let (key, dropout) = drawn_by(dropped, &biases);
        Tensor::from_dispatch(Dispatch::nested_attention(sums, biases, key, of.count, of.heads, dropout))
    }

    fn rows_of(&self, table: Tensor<2>, numbers: Tensor<1, Int>) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::pick(table.into_dispatch(), numbers.into_dispatch(), true))
    }

    fn picked(&self, x: Tensor<2>, rows: Tensor<1, Int>) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::pick(x.into_dispatch(), rows.into_dispatch(), false))
    }

    fn with_bias(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::with_bias(sums.into_dispatch(), bias.into_dispatch()))
    }

    fn hidden(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::hidden(sums.into_dispatch(), bias.into_dispatch()))
    }

    fn normed(
        &self,
        stream: Option<LearnedStream>,
        sums: Tensor<3>,
        parameters: Tensor<2>,
        dropped: Option<Dropped>,
        to: DType,
    ) -> LearnedStream {
        // What of them is needed off the tape; and an operation has all of its tensors, so that they stand for others that are not
        // there and are not read.
        let fixed = parameters.clone().detach().into_dispatch();
        let (key, dropout) = drawn_by(dropped, &fixed);
        let (input, stream, scales, is) = match stream {
            None => (fixed.clone(), fixed.clone(), fixed.clone(), StreamAs::Nothing),
            Some(LearnedStream { input, exact: None }) => {
                let input = input.into_dispatch();
                (input.clone(), input, fixed.clone(), StreamAs::Whole)
            }
            Some(LearnedStream { input, exact: Some(Scaled { normal, parameters }) }) => {
                (input.into_dispatch(), normal.into_dispatch(), parameters.into_dispatch(), StreamAs::Normal)
            }
        };
        let [sums, parameters] = [sums.into_dispatch(), parameters.into_dispatch()];
        let (input, normal) = Dispatch::normed(input, stream, scales, sums, parameters, key, is, dropout, to);
        let exact = (to != DType::F32).then(|| {
            let [normal, parameters] = [normal, fixed].map(Tensor::from_dispatch);
            Scaled { normal, parameters }
        });
        LearnedStream { input: Tensor::from_dispatch(input), exact }
    }

    fn factors(&self, dropped: &Dropped, rows: usize, columns: usize) -> Tensor<2> {
        let key = dropped.key.clone().inner().into_dispatch();
        Tensor::from_dispatch(Dispatch::factors(key, Dropout::new(dropped), rows, columns))
    }

    fn cross_entropy(&self, logits: Tensor<2>, aim: Aim) -> Entropy {
        let fixed = logits.clone().inner();
        let share = aim.teacher.as_ref().map_or(0.0, |(_, share)| *share as f32);
        // An operation has all of its tensors: another stands for a teacher that is not there, and is not read.
        let taught = aim.teacher.map_or_else(|| fixed.clone(), |(taught, _)| taught.inner());
        let (loss, truth, gradient, probabilities) = Dispatch::entropy(
            fixed.into_dispatch(),
            aim.targets.inner().into_dispatch(),
            aim.weights.inner().into_dispatch(),
            taught.into_dispatch(),
            aim.smoothing as f32,
            share,
        );
        // What is on no tape is constant on that of the logits, if they are on one.
        let loss = Dispatch::known(logits.into_dispatch(), gradient, loss);
        let [loss, truth] = [loss, truth].map(Tensor::from_dispatch);
        Entropy { loss, truth, probabilities: Tensor::from_dispatch(probabilities) }
    }

    fn squares(&self, tensors: Vec<Tensor<1>>) -> Option<Tensor<1>> {
        let device = tensors.first()?.device();
        let mut sums = Tensor::<2>::zeros([tensors.len(), SQUARES], &device);
        for (index, some) in tensors.chunks(AT_ONCE).enumerate() {
            let [first, second, third, fourth] = at_once(some);
            let row = index * AT_ONCE;
            sums = Tensor::from_dispatch(Dispatch::squares(
                first,
                second,
                third,
                fourth,
                sums.into_dispatch(),
                row,
                some.len(),
            ));
        }
        // In an order that is always the same, which Burn's sum of all is not.
        let column = sums.reshape([-1, 1]).into_dispatch();
        Some(Tensor::from_dispatch(Dispatch::sum_of_columns(column.clone(), column, false, [1].into())))
    }

    fn adamw(&self, parameter: Parameter, gradient: Tensor<1>, how: AdamW) -> Parameter {
        let [kept, rate, of_second] = how.factors();
        let AdamW { beta1, beta2, epsilon, clip, .. } = how;
        let factors = Factors { kept, beta1, beta2, rate, of_second, epsilon, clip };
        let (value, first, second) = Dispatch::adamw(
            parameter.value.into_dispatch(),
            parameter.first.into_dispatch(),
            parameter.second.into_dispatch(),
            gradient.into_dispatch(),
            factors,
        );
        let [value, first, second] = [value, first, second].map(Tensor::from_dispatch);
        Parameter { value, first, second }
    }

    fn averaged(&self, pairs: Vec<[Tensor<1>; 2]>, decay: f64) -> Vec<Tensor<1>> {
        let (averages, values): (Vec<_>, Vec<_>) =
            pairs.into_iter().map(|[average, value]| (average, value)).unzip();
        let mut all = Vec::with_capacity(averages.len());
        for (averages, values) in averages.chunks(AT_ONCE).zip(values.chunks(AT_ONCE)) {
            let count = averages.len();
            let [first, second, third, fourth] = at_once(averages);
            let [of_first, of_second, of_third, of_fourth] = at_once(values);
            let (first, second, third, fourth) = Dispatch::averaged(
                first,
                second,
                third,
                fourth,
                of_first,
                of_second,
                of_third,
                of_fourth,
                count,
                decay as f32,
            );
            all.extend([first, second, third, fourth].into_iter().take(count).map(Tensor::from_dispatch));
        }
        all
    }
}

/// What a LayerNorm left: the stream as it goes on, and what the next product takes.
fn going_on([next, input]: [Tensor<2>; 2], on: GoesOn) -> Normed {
    let stream = match on {
        GoesOn::Past | GoesOn::Through => next.into(),
        GoesOn::InHalves => Stream { first: input.clone(), rest: Some(next) },
    };
    Normed { stream, input }
}

/// Key and dropout: an operation has all of its tensors, and another stands for a key that is not there and is not read.
fn drawn_by(dropped: Option<Dropped>, other: &DispatchTensor) -> (DispatchTensor, Dropout) {
    match dropped {
        Some(dropped) => {
            let dropout = Dropout::new(&dropped);
            (dropped.key.into_dispatch(), dropout)
        }
        None => (other.clone(), Dropout::NONE),
    }
}

/// The tensors of a launch: where there are fewer, the first stands for the others, which are not taken.
fn at_once(some: &[Tensor<1>]) -> [DispatchTensor; AT_ONCE] {
    from_fn(|index| some.get(index).unwrap_or(&some[0]).clone().into_dispatch())
}
