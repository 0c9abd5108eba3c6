use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, s};

use super::{
    AdamW, Aim, Branch, Dropped, Embedded, Entropy, GoesOn, Heads, Kernels, LearnedStream, NORM_EPSILON,
    Normed, Parameter, Samples, Scales, Stream,
};
use crate::gelu::gelu;
use crate::precision::full;

/// Each kernel by Burn's operations: the definition that kernels of a device are held against. It is no faster than a model
/// without kernels.
#[derive(Debug, Clone, Copy)]
pub struct Operations;

impl Kernels for Operations {
    fn product(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize, to: DType) -> Tensor<3> {
        let [_, inputs] = x.dims();
        full(x).matmul(full(weight.slice(s![0..inputs, 0..outputs]))).cast(to).unsqueeze()
    }

    fn bias_type(&self, _: DType) -> DType {
        DType::F32
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
        let ([batch, heads, room, width], [rows, _]) = (keys.dims(), x.dims());
        let active = rows / batch;
        let sums = self.product(x, weight, 3 * heads * width, DType::F32);
        let all = (sums + bias.unsqueeze()).reshape([batch, active, 3 * heads, width]);
        let all = all.cast(keys.dtype()).swap_dims(1, 2);
        let part = |i: usize| all.clone().slice(s![.., i * heads..(i + 1) * heads, .., ..]);
        let into = |buffer: Tensor<4>, part: Tensor<4>| {
            let (device, dtype, behind) = (part.device(), part.dtype(), room - from - active);
            let part = match behind {
                0 => part,
                _ => {
                    let zeros = Tensor::zeros([batch, heads, behind, width], (&device, dtype));
                    Tensor::cat(vec![part, zeros], 2)
                }
            };
            buffer.slice_assign(s![.., .., from.., ..], part)
        };
        Heads { queries: part(0), keys: into(keys, part(1)), values: into(values, part(2)) }
    }

    fn attend(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, positions: usize) -> Tensor<2> {
        let of_context = |all: Tensor<4>| all.slice(s![.., .., 0..positions, ..]);
        attend(queries, of_context(keys), of_context(values), None)
    }

    fn gelu(&self, x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, outputs: usize, to: DType) -> Tensor<2> {
        let sums = self.product(x, weight, outputs, DType::F32).squeeze_dim::<2>(0);
        gelu(sums + bias.slice(s![0..outputs]).unsqueeze(), false).cast(to)
    }

    fn add_norm(
        &self,
        stream: Stream,
        branch: Option<Branch>,
        norm: Scales,
        on: GoesOn,
        to: DType,
    ) -> Normed {
        let sum = match branch {
            Some(Branch { parts, bias }) => stream.full() + summed(full(parts), bias),
            None => stream.full(),
        };
        let normed = normed(sum.clone(), norm);
        let input = normed.clone().cast(to);
        let stream = match on {
            GoesOn::Past => sum.into(),
            GoesOn::Through => normed.into(),
            GoesOn::InHalves => {
                let rest = (normed - full(input.clone())).cast(to);
                Stream { first: input.clone(), rest: Some(rest) }
            }
        };
        Normed { stream, input }
    }

    fn embed(&self, embedded: Embedded, norm: Scales, on: GoesOn, to: DType) -> Normed {
        let Embedded { tokens, positions, of_token, of_position } = embedded;
        let sum = full(of_token.select(0, tokens)) + full(of_position.select(0, positions));
        self.add_norm(sum.into(), None, norm, on, to)
    }

    fn draw(&self, logits: Tensor<2>, uniform: Tensor<2>, temperature: f64) -> (Tensor<2, Int>, Tensor<2>) {
        let [_, codes] = logits.dims();
        let sums = softmax(logits.clone() / temperature, 1).cumsum(1);
        let target = sums.clone().slice(s![.., codes - 1..]) * uniform;
        let drawn = sums.lower_equal(target).int().sum_dim(1).clamp_max(codes as i64 - 1);
        (drawn.clone(), log_softmax(logits, 1).gather(1, drawn))
    }

    fn decide(
        &self,
        scores: Tensor<2>,
        codes: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        count: usize,
    ) -> [Tensor<2, Int>; 2] {
        let [batch, masked] = scores.dims();
        let (column, row) = (scores.clone().reshape([batch, masked, 1]), scores.reshape([batch, 1, masked]));
        let numbers = Tensor::<1, Int>::arange(0..masked as i64, &codes.device());
        let is_before = numbers.clone().reshape([1, 1, masked]).lower(numbers.reshape([1, masked, 1]));
        // How many come before each place, by score and then as they stand.
        let higher =
            row.clone().greater(column.clone()).bool_or(row.equal(column).bool_and(is_before.clone()));
        let rank = higher.int().sum_dim(2).reshape([batch, masked]);
        let is_chosen = rank.clone().lower_elem(count as i64);
        let chosen_before = is_chosen
            .clone()
            .int()
            .reshape([batch, 1, masked])
            .repeat_dim(1, masked)
            .mask_fill(is_before.bool_not(), 0);
        let behind = Tensor::<1, Int>::arange(0..masked as i64, &codes.device()).unsqueeze()
            - chosen_before.sum_dim(2).reshape([batch, masked])
            + count as i64;
        let to = behind.mask_where(is_chosen, rank);
        [codes, positions].map(|all| {
            Tensor::zeros([batch, masked], &all.device()).scatter(1, to.clone(), all, IndexingUpdateOp::Add)
        })
    }

    fn dense(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize) -> Tensor<3> {
        let ([_, inputs], to) = (x.dims(), weight.dtype());
        x.cast(to).matmul(weight.slice(s![0..inputs, 0..outputs])).unsqueeze()
    }

    fn dense_of_three(&self, x: Tensor<2>, weights: Tensor<3>, outputs: usize) -> Tensor<3> {
        let of = |part: usize| weights.clone().slice(s![part..part + 1, .., ..]).squeeze_dim(0);
        Tensor::cat((0..3).map(|part| self.dense(x.clone(), of(part), outputs)).collect(), 2)
    }

    fn attention(
        &self,
        sums: Tensor<3>,
        biases: Tensor<2>,
        dropped: Option<Dropped>,
        of: Samples,
    ) -> Tensor<2> {
        let Samples { count: samples, heads } = of;
        let ([_, rows, outputs], compute) = (sums.dims(), sums.dtype());
        let bias = biases.slice(s![.., 0..outputs / 3]).reshape([1, 1, outputs]);
        let all = full(sums) + bias;
        let all = all.reshape([samples, rows / samples, 3 * heads, outputs / (3 * heads)]);
        let all = all.cast(compute).swap_dims(1, 2);
        let part = |i: usize| all.clone().slice(s![.., i * heads..(i + 1) * heads, .., ..]);
        let active = rows / samples;
        let factors = dropped.map(|dropped| {
            dropped.factors(samples * heads * active, active).reshape([samples, heads, active, active])
        });
        attend(part(0), part(1), part(2), factors)
    }

    fn hidden(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
        let to = sums.dtype();
        let [_, _, outputs] = sums.dims();
        let sums = full(sums).squeeze_dim::<2>(0) + bias.slice(s![0..outputs]).unsqueeze();
        gelu(sums, false).cast(to)
    }

    fn normed(
        &self,
        stream: Option<LearnedStream>,
        sums: Tensor<3>,
        parameters: Tensor<2>,
        dropped: Option<Dropped>,
        _: DType,
    ) -> LearnedStream {
        let part = |part: usize| parameters.clone().slice(s![part..part + 1, ..]).squeeze_dim(0);
        let norm = Scales { gamma: part(1), beta: part(2) };
        let branch = summed(full(sums), part(0));
        let branch = match dropped {
            Some(dropped) => {
                let [rows, width] = branch.dims();
                branch * dropped.factors(rows, width)
            }
            None => branch,
        };
        let sum = match stream {
            // What comes of these operations is not rounded.
            Some(stream) => stream.input + branch,
            None => branch,
        };
        normed(sum, norm).into()
    }

    fn cross_entropy(&self, logits: Tensor<2>, aim: Aim) -> Entropy {
        let [rows, _] = logits.dims();
        let logarithms = log_softmax(logits.clone(), 1);
        let of_targets = logarithms.clone().gather(1, aim.targets.reshape([rows, 1]));
        let of_truth = of_targets * (1.0 - aim.smoothing) + logarithms.clone().mean_dim(1) * aim.smoothing;
        let mean = |of_rows: Tensor<2>| (of_rows * aim.weights.clone().reshape([rows, 1])).sum().neg();
        let probabilities = logarithms.clone().exp();
        let all = match aim.teacher {
            Some((taught, share)) => {
                of_truth.clone() * (1.0 - share) + (logarithms * taught).sum_dim(1) * share
            }
            None => of_truth.clone(),
        };
        let (loss, truth) = (mean(all), mean(of_truth));
        if logits.device().is_autodiff() {
            return Entropy { loss, truth: truth.inner(), probabilities: probabilities.inner() };
        }
        Entropy { loss, truth, probabilities }
    }

    fn squares(&self, tensors: Vec<Tensor<1>>) -> Option<Tensor<1>> {
        // A product: processors take powers one by one.
        let squares = tensors.into_iter().map(|numbers| (numbers.clone() * numbers).sum());
        squares.reduce(|sum, square| sum + square)
    }

    fn adamw(&self, parameter: Parameter, gradient: Tensor<1>, how: AdamW) -> Parameter {
        let [kept, rate, of_second] = how.factors();
        let gradient = gradient * how.clip;
        let first = parameter.first * how.beta1 + gradient.clone() * (1.0 - how.beta1);
        let second = parameter.second * how.beta2 + gradient.square() * (1.0 - how.beta2);
        let change = first.clone() * rate / ((second.clone() * of_second).sqrt() + how.epsilon);
        Parameter { value: parameter.value * kept - change, first, second }
    }

    fn averaged(&self, pairs: Vec<[Tensor<1>; 2]>, decay: f64) -> Vec<Tensor<1>> {
        pairs.into_iter().map(|[average, value]| average * decay + value * (1.0 - decay)).collect()
    }
}

/// `[R, heads * head width]`.
fn attend(queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, factors: Option<Tensor<4>>) -> Tensor<2> {
    let ([batch, heads, active, width], compute) = (queries.dims(), queries.dtype());
    let scores = full(queries.matmul(keys.swap_dims(2, 3))) * (width as f64).powf(-0.5);
    let weights = softmax(scores, 3).cast(compute);
    let weights = match factors {
        Some(factors) => (full(weights) * factors).cast(compute),
        None => weights,
    };
    let mixed = weights.matmul(values);
    mixed.swap_dims(1, 2).reshape([batch * active, heads * width])
}

/// Parts `[P, R, D]` and a bias together, `[R, D]`.
fn summed(parts: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
    let [_, rows, width] = parts.dims();
    parts.sum_dim(0).reshape([rows, width]) + bias.unsqueeze()
}

fn normed(sum: Tensor<2>, norm: Scales) -> Tensor<2> {
    let centred = sum.clone() - sum.mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    let normal = centred / (variance + NORM_EPSILON).sqrt();
    normal * norm.gamma.unsqueeze() + norm.beta.unsqueeze()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// What a decode finds out by the logarithms, and computes with until then.
    #[test]
    fn rows_that_are_no_numbers_give_a_code_that_there_is() {
        let device = Device::flex();
        for logit in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            let uniform = Tensor::full([2, 1], 0.5, &device);
            let (codes, logarithms) = Operations.draw(Tensor::full([2, 40], logit, &device), uniform, 1.0);
            assert_eq!(codes.into_data().try_into_vec::<i32>().unwrap(), [0, 0], "{logit}");
            assert!(logarithms.is_nan().all().into_scalar::<bool>(), "{logit}");
        }
    }
}
