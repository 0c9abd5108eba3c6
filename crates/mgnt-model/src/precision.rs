//! Half precision, and products in more than an accelerator's.
//!
//! Only matrices become half: the weights of products, the token and position tables, and with them the keys and
//! values, cached ones too. All else stays in `f32`: biases, LayerNorm with its epsilon of 1e-12 (which no half type
//! can hold), gelu, the residual stream and the logits. Attention takes its softmax in `f32`. So
//! a type is a property of the weights, and the code of the layers is one for all types.
//!
//! Tensor cores round the operands of a product of `f32` to TF32, which has ten bits of fraction (cubek-matmul 0.3.1
//! takes them wherever they are). Where that is too little, a product is taken in parts that TF32 holds.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor};
use mgnt_weights::in_parts;

/// The product of `x [1, R, n]` with a weight `[n, m]` of its type; the result `[1, R, m]` is in `f32`.
///
/// Rows are two-dimensional in the product alone. That is so for the weight, whose view Burn would copy to fold a batch; and
/// a backend that fuses leaves a product by itself where its rank changes, with what follows in one pass of its own: on an
/// H100 its fused products take up to twice the time of the others (docs/cuda.md).
pub(crate) fn product(x: Tensor<3>, weight: Tensor<2>, exact: bool) -> Tensor<3> {
    let ([_, rows, inputs], [_, outputs]) = (x.dims(), weight.dims());
    full(matmul(x.reshape([rows, inputs]), weight, exact).reshape([1, rows, outputs]))
}

/// The product of two tensors of one type. `exact` ones of `f32` are so on tensor cores too.
pub(crate) fn matmul<const D: usize>(a: Tensor<D>, b: Tensor<D>, exact: bool) -> Tensor<D> {
    if exact && a.dtype() == DType::F32 { in_parts(a, b, Tensor::matmul) } else { a.matmul(b) }
}

/// The tensor in `f32`.
pub(crate) fn full<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.cast(DType::F32)
}

/// A module whose matrices have another type.
pub(crate) fn with_matrices<M: Module>(module: M, to: FloatDType) -> M {
    module.map(&mut Matrices(to))
}

struct Matrices(FloatDType);

impl ModuleMapper for Matrices {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param;
        }
        param.map(|matrix| matrix.cast(self.0))
    }
}
