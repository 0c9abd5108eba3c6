//! Exponentials on the host, many at a time: the CPU backend takes them one by one.
//!
//! No operation is fused across a rounding, so results do not depend on the processor.

use burn::tensor::{Tensor, TensorData};
use pulp::Arch;
use rayon::prelude::*;

/// Entries that a thread takes at once.
const PIECE: usize = 1 << 14;
/// Sums and maxima of a row are taken in so many lanes.
const LANES: usize = 16;

/// `exp(x)` within two units in the last place of f32; zero below -87, and the value at 88 above that.
///
/// The exponent splits into a whole power of two and a rest, whose exponential is a polynomial (coefficients of
/// Cephes' `expf`).
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    const HIGHEST: f32 = 88.0;
    // Written so that what is no number stays so.
    let x = if x > HIGHEST { HIGHEST } else { x };
    let above = if x < LOWEST { LOWEST } else { x };
    // Adding 1.5 x 2^23 leaves the nearest whole number in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    let shifted = above * std::f32::consts::LOG2_E + SHIFT;
    let power = shifted - SHIFT;
    // ln 2 in two parts: the first is short, so that its multiples are exact.
    let rest = above - power * 0.693_359_4;
    let rest = rest - power * -2.121_944_4e-4;
    let mut y = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        y = y * rest + coefficient;
    }
    let y = y * rest * rest + rest + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    let y = y * scale;
    if x < LOWEST { 0.0 } else { y }
}

/// Tanh gelu, written as in [`gelu`](crate::gelu::gelu).
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let device = x.device();
    let mut data = data(x);
    numbers(&mut data).par_chunks_mut(PIECE).for_each(|piece| {
        Arch::new().dispatch(|| {
            for x in piece {
                *x /= 1.0 + exp(exponent(*x, *x * *x));
            }
        });
    });
    Tensor::from_data(data, &device)
}

/// Slope of the tanh gelu at `x`, and what its value is beside `x` times that.
pub(crate) fn gelu_line<const D: usize>(x: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
    let (device, shape) = (x.device(), x.shape());
    let mut data = data(apart(x));
    let slopes = numbers(&mut data);
    let mut rests = vec![0.0; slopes.len()];
    slopes.par_chunks_mut(PIECE).zip(rests.par_chunks_mut(PIECE)).for_each(|(slopes, rests)| {
        Arch::new().dispatch(|| {
            for (slope, rest) in slopes.iter_mut().zip(rests) {
                let x = *slope;
                let square = x * x;
                let gate = 1.0 / (1.0 + exp(exponent(x, square)));
                let value = x * gate;
                let of_exponent = square * (3.0 * TWICE_SQRT_2_OVER_PI * CUBIC) + TWICE_SQRT_2_OVER_PI;
                *slope = (1.0 - gate) * of_exponent * value + gate;
                *rest = value - x * *slope;
            }
        });
    });
    let rests = TensorData::new(rests, shape);
    (Tensor::from_data(data, &device), Tensor::from_data(rests, &device))
}

const TWICE_SQRT_2_OVER_PI: f32 = crate::gelu::TWICE_SQRT_2_OVER_PI as f32;
const CUBIC: f32 = crate::gelu::CUBIC as f32;

/// `-2u`, at most 40.
#[inline(always)]
fn exponent(x: f32, square: f32) -> f32 {
    let exponent = x * (square * (-TWICE_SQRT_2_OVER_PI * CUBIC) - TWICE_SQRT_2_OVER_PI);
    if exponent > 40.0 { 40.0 } else { exponent }
}

/// Softmax over the last dimension.
pub(crate) fn softmax<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let (device, width) = (x.device(), x.shape()[D - 1]);
    let mut data = data(x);
    if width > 0 {
        let rows = PIECE.div_ceil(width);
        numbers(&mut data).par_chunks_mut(rows * width).for_each(|rows| {
            Arch::new().dispatch(|| {
                for row in rows.chunks_exact_mut(width) {
                    softmax_of_row(row);
                }
            });
        });
    }
    Tensor::from_data(data, &device)
}

#[inline(always)]
fn softmax_of_row(row: &mut [f32]) {
    let mut highest = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (highest, &x) in highest.iter_mut().zip(chunk) {
            *highest = if x > *highest { x } else { *highest };
        }
    }
    let rest = chunks.remainder().iter().copied();
    let highest = highest.into_iter().chain(rest).fold(f32::NEG_INFINITY, f32::max);

    let mut sums = [0.0; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *x = exp(*x - highest);
            *sum += *x;
        }
    }
    let mut sum: f32 = sums.into_iter().sum();
    for x in chunks.into_remainder() {
        *x = exp(*x - highest);
        sum += *x;
    }
    let scale = 1.0 / sum;
    row.iter_mut().for_each(|x| *x *= scale);
}

/// A tensor of the same numbers that nobody else holds, as a tape does: by an operation, since [`data`] would copy it twice.
pub(crate) fn apart<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x * 1.0
}

/// The entries in order, without a copy where the tensor is held once.
fn data<const D: usize>(x: Tensor<D>) -> TensorData {
    x.into_data().convert::<f32>()
}

/// Those entries, to write over them where they are.
fn numbers(data: &mut TensorData) -> &mut [f32] {
    data.as_mut_slice().expect("data of the type that it was converted to, on the host")
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use burn::tensor::activation;

    use super::*;

    #[test]
    fn exponentials_are_those_of_f64() {
        let mut worst: f64 = 0.0;
        for i in -870_000..=880_000 {
            let x = i as f32 / 1e4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!((exp(-87.1), exp(f32::NEG_INFINITY)), (0.0, 0.0));
        assert_eq!(exp(f32::INFINITY), exp(88.0));
        assert!(exp(f32::NAN).is_nan());
    }

    fn drawn(shape: [usize; 2], scale: f32) -> Tensor<2> {
        let values: Vec<f32> = (0..shape[0] * shape[1])
            .map(|i| ((i * 2_654_435_761) % 10_007) as f32 / 5_003.5 - 1.0)
            .map(|x| x * scale)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    #[test]
    fn softmax_is_the_backends() {
        for shape in [[7, 257], [3, 16], [5, 5], [1, 1], [40, 1024], [0, 3]] {
            let x = drawn(shape, 9.0);
            let (ours, theirs) = (softmax(x.clone()), activation::softmax(x, 1));
            let [ours, theirs] = [ours, theirs].map(|y| data(y).try_into_vec::<f32>().unwrap());
            let farthest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(farthest < 1e-6 && ours.len() == shape[0] * shape[1], "{shape:?}: {farthest}");
        }
        let x = Tensor::<2>::from_floats([[1.0, f32::NAN, 2.0], [0.0, 1e30, -1e30]], &Device::flex());
        let y = data(softmax(x)).try_into_vec::<f32>().unwrap();
        assert!(y[..3].iter().all(|y| y.is_nan()), "{y:?}");
        assert_eq!(y[3..], [0.0, 1.0, 0.0]);
    }

    #[test]
    fn a_line_goes_through_the_value() {
        let x = drawn([3, 20_000], 6.0);
        let value = gelu(x.clone());
        let (slope, rest) = gelu_line(x.clone());
        let farthest = (x * slope + rest - value).abs().max().into_scalar::<f32>();
        assert!(farthest < 1e-5, "{farthest}");
    }
}
