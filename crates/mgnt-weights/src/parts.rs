//! Products of `f32` as exact as `f32`, where a device's tensor cores would round their operands to ten bits.

use burn::tensor::{DType, FloatDType, Tensor};

/// `multiply(a, b)`, which is linear in both, by four such products of operands that TF32 holds, or to 2^-20: the values
/// in bf16, and what those leave. All in `f32`.
pub fn in_parts<const A: usize, const B: usize, const C: usize>(
    a: Tensor<A>,
    b: Tensor<B>,
    multiply: impl Fn(Tensor<A>, Tensor<B>) -> Tensor<C>,
) -> Tensor<C> {
    let ((a, rest_of_a), (b, rest_of_b)) = (parts(a), parts(b));
    // Small terms first.
    multiply(rest_of_a.clone(), rest_of_b.clone())
        + multiply(rest_of_a, b.clone())
        + multiply(a.clone(), rest_of_b)
        + multiply(a, b)
}

fn parts<const D: usize>(x: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
    let coarse = x.clone().cast(FloatDType::from(DType::BF16)).cast(FloatDType::from(DType::F32));
    (coarse.clone(), x - coarse)
}

#[cfg(test)]
mod tests {
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{Device, Distribution, TensorData};

    use super::*;

    /// As tensor cores take it: rounded to ten bits of fraction.
    fn rounded<const D: usize>(x: Tensor<D>) -> Tensor<D> {
        let (shape, device) = (x.dims(), x.device());
        let values: Vec<f32> = x.into_data().try_into_vec().unwrap();
        let round = |x: f32| f32::from_bits((x.to_bits() + 0x1000) & !0x1fff);
        let values: Vec<f32> = values.into_iter().map(round).collect();
        Tensor::from_data(TensorData::new(values, shape), &device)
    }

    /// How far `multiply` of rounded operands is off, alone and in parts, relative to the largest result.
    fn off<const A: usize, const B: usize, const C: usize>(
        a: Tensor<A>,
        b: Tensor<B>,
        multiply: impl Fn(Tensor<A>, Tensor<B>) -> Tensor<C>,
    ) -> (f32, f32) {
        let exact = multiply(a.clone(), b.clone());
        let largest = exact.clone().abs().max().into_scalar::<f32>();
        let off = |got: Tensor<C>| (got - exact.clone()).abs().max().into_scalar::<f32>() / largest;
        let on_tensor_cores = |a, b| multiply(rounded(a), rounded(b));
        (off(on_tensor_cores(a.clone(), b.clone())), off(in_parts(a, b, on_tensor_cores)))
    }

    #[test]
    fn parts_make_up_for_what_tensor_cores_round() {
        let device = Device::flex();
        device.seed(1);
        for scale in [1e-3, 1.0, 1e3] {
            let a = Tensor::<2>::random([8, 1024], Distribution::Normal(0.0, scale), &device);
            let b = Tensor::<2>::random([1024, 16], Distribution::Normal(0.0, 0.02), &device);
            let (rounded, in_parts) = off(a, b, Tensor::matmul);
            assert!(rounded > 1e-4 && in_parts < 2e-6, "{scale}: {rounded} rounded, {in_parts} in parts");
        }
        let maps = Tensor::<4>::random([2, 16, 8, 8], Distribution::Normal(0.0, 1.0), &device);
        let kernel = Tensor::<4>::random([8, 16, 3, 3], Distribution::Normal(0.0, 0.1), &device);
        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        let (rounded, in_parts) = off(maps, kernel, |x, kernel| conv2d(x, kernel, None, options.clone()));
        assert!(rounded > 1e-4 && in_parts < 2e-6, "convolution: {rounded} rounded, {in_parts} in parts");
    }
}
