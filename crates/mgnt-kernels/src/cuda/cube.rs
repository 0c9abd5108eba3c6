use std::sync::Arc;

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Int, Tensor};
use burn_cubecl::cubecl::RuntimeId;
use mgnt_model::kernels::{
    AdamW, Aim, Attended, Branch, Dropped, Embedded, Entropy, GoesOn, Heads, Kernels, LearnedStream, Normed,
    Parameter, Samples, Scales, Stream,
};

use crate::cuda::{between_steps, dense_on_tape, learned, library, passes, shared, table_on_tape};
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
        passes::product(x, weight, outputs, parts, if parts == 1 { to } else { DType::F32 })
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
        passes::heads(x, weight, bias, keys, values, from)
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
        passes::attend_anew([x, weight], bias, [keys, values], from, keep)
    }

    fn attend(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, positions: usize) -> Tensor<2> {
        passes::attend(queries, keys, values, positions)
    }

    fn gelu(&self, x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, outputs: usize, to: DType) -> Tensor<2> {
        passes::gelu(x, weight, bias, outputs, to)
    }

    fn add_norm(
        &self,
        stream: Stream,
        branch: Option<Branch>,
        norm: Scales,
        on: GoesOn,
        to: DType,
    ) -> Normed {
        passes::add_norm(stream, branch, norm, on, to)
    }

    fn embed(&self, embedded: Embedded, norm: Scales, on: GoesOn, to: DType) -> Normed {
        passes::embed(embedded, norm, on, to)
    }

    fn draw(&self, logits: Tensor<2>, uniform: Tensor<2>, temperature: f64) -> (Tensor<2, Int>, Tensor<2>) {
        passes::draw(logits, uniform, temperature)
    }

    fn decide(
        &self,
        scores: Tensor<2>,
        codes: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        count: usize,
    ) -> [Tensor<2, Int>; 2] {
        passes::decide(scores, codes, positions, count)
    }

    fn dense(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize) -> Tensor<3> {
        dense_on_tape::dense(x, weight, outputs)
    }

    fn dense_of_three(&self, x: Tensor<2>, weights: Tensor<3>, outputs: usize) -> Tensor<3> {
        dense_on_tape::dense(x, weights, outputs)
    }

    fn shared_matrix(&self, parameter: Tensor<2>, to: DType) -> Tensor<2> {
        shared::shared(parameter, to)
    }

    fn shared_vector(&self, parameter: Tensor<1>) -> Tensor<1> {
        let to = parameter.dtype();
        shared::shared(parameter, to)
    }

    fn shared_matrices(&self, parameters: [Tensor<2>; 3], to: DType) -> Tensor<3> {
        shared::shared_three(parameters, to)
    }

    fn shared_vectors(&self, parameters: [Tensor<1>; 3]) -> Tensor<2> {
        let to = parameters[0].dtype();
        shared::shared_three(parameters, to)
    }

    fn attention(
        &self,
        sums: Tensor<3>,
        biases: Tensor<2>,
        dropped: Option<Dropped>,
        of: Samples,
    ) -> Tensor<2> {
        learned::attention(sums, biases, dropped, of)
    }

    fn rows_of(&self, table: Tensor<2>, numbers: Tensor<1, Int>) -> Tensor<2> {
        table_on_tape::rows_of(table, numbers)
    }

    fn picked(&self, x: Tensor<2>, rows: Tensor<1, Int>) -> Tensor<2> {
        table_on_tape::picked(x, rows)
    }

    fn with_bias(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
        learned::with_bias(sums, bias)
    }

    fn hidden(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
        learned::hidden(sums, bias)
    }

    fn normed(
        &self,
        stream: Option<LearnedStream>,
        sums: Tensor<3>,
        parameters: Tensor<2>,
        dropped: Option<Dropped>,
        to: DType,
    ) -> LearnedStream {
        learned::normed(stream, sums, parameters, dropped, to)
    }

    fn factors(&self, dropped: &Dropped, rows: usize, columns: usize) -> Tensor<2> {
        learned::factors(dropped, rows, columns)
    }

    fn cross_entropy(&self, logits: Tensor<2>, aim: Aim) -> Entropy {
        learned::cross_entropy(logits, aim)
    }

    fn squares(&self, tensors: Vec<Tensor<1>>) -> Option<Tensor<1>> {
        between_steps::squares(tensors)
    }

    fn adamw(&self, parameter: Parameter, gradient: Tensor<1>, how: AdamW) -> Parameter {
        between_steps::adamw(parameter, gradient, how)
    }

    fn averaged(&self, pairs: Vec<[Tensor<1>; 2]>, decay: f64) -> Vec<Tensor<1>> {
        between_steps::averaged(pairs, decay)
    }
}
