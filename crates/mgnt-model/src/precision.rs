//! Half precision, and products in more than an accelerator's.
//!
//! Only matrices become half: the weights of products, the token and position tables, and with them the keys and
//! values, cached ones too. All else stays in `f32`: biases, LayerNorm with its epsilon of 1e-12 (which no half type
//! can hold), gelu, the residual stream and the logits. Attention takes its softmax in `f32` inside the kernel. So
//! a type is a property of the weights, and the code of the layers is one for all types.
//!
//! Tensor cores round the operands of a product of `f32` to TF32, which has ten bits of fraction (cubek-matmul 0.3.1
//! takes them wherever they are). Where that is too little, a product is taken in parts that TF32 holds.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor};

/// The product of `x [R, n]` with a weight `[n, m]` in the weight's type; the result is in `f32`.
pub(crate) fn product(x: Tensor<2>, weight: Tensor<2>, exact: bool) -> Tensor<2> {
    let compute = weight.dtype();
    full(matmul(cast(x, compute), weight, exact))
}

/// The product of two tensors of one type. `exact` ones of `f32` are so on tensor cores too.
pub(crate) fn matmul<const D: usize>(a: Tensor<D>, b: Tensor<D>, exact: bool) -> Tensor<D> {
    if exact && a.dtype() == DType::F32 { in_parts(a, b, Tensor::matmul) } else { a.matmul(b) }
}

/// `a b` by four products of operands that TF32 holds, or to 2^-20: the values in bf16, and what those leave.
fn in_parts<const D: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
    multiply: impl Fn(Tensor<D>, Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    let parts = |x: Tensor<D>| {
        let coarse = full(cast(x.clone(), DType::BF16));
        (coarse.clone(), x - coarse)
    };
    let ((a, rest_of_a), (b, rest_of_b)) = (parts(a), parts(b));
    // Small terms first.
    multiply(rest_of_a.clone(), rest_of_b.clone())
        + multiply(rest_of_a, b.clone())
        + multiply(a.clone(), rest_of_b)
        + multiply(a, b)
}

/// The tensor in `f32`.
pub(crate) fn full<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast(x, DType::F32)
}

/// The tensor in a float type; itself where it has that type.
pub(crate) fn cast<const D: usize>(x: Tensor<D>, to: DType) -> Tensor<D> {
    if x.dtype() == to { x } else { x.cast(FloatDType::from(to)) }
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
        param.map(|matrix| cast(matrix, self.0.into()))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;

    /// As tensor cores take it: operands are rounded to ten bits of fraction.
    fn on_tensor_cores(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
        let rounded = |x: Tensor<2>| {
            let (shape, device) = (x.dims(), x.device());
            let values: Vec<f32> = x.into_data().try_into_vec().unwrap();
            let round = |x: f32| f32::from_bits((x.to_bits() + 0x1000) & !0x1fff);
            let values: Vec<f32> = values.into_iter().map(round).collect();
            Tensor::from_data(TensorData::new(values, shape), &device)
        };
        rounded(a).matmul(rounded(b))
    }

    #[test]
    fn parts_make_up_for_what_tensor_cores_round() {
        let device = Device::flex();
        for scale in [1e-3, 1.0, 1e3] {
            let drawn = |shape: [usize; 2], scale: f64| {
                Tensor::<2>::random(shape, Distribution::Normal(0.0, scale), &device)
            };
            let (a, b) = (drawn([8, 1024], scale), drawn([1024, 16], 0.02));
            let exact = a.clone().matmul(b.clone());
            let largest = exact.clone().abs().max().into_scalar::<f32>();
            let off = |got: Tensor<2>| (got - exact.clone()).abs().max().into_scalar::<f32>() / largest;
            let rounded = off(on_tensor_cores(a.clone(), b.clone()));
            let in_parts = off(in_parts(a.clone(), b.clone(), on_tensor_cores));
            assert!(rounded > 1e-4 && in_parts < 2e-6, "{scale}: {rounded} rounded, {in_parts} in parts");
        }
    }
}
