//! What the networks for pictures and for videos share.

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Device, Tensor};

/// GroupNorm epsilon of the published models.
const NORM_EPSILON: f64 = 1e-6;

/// `x sigmoid(x)`, written with an exponential only, which is faster on the CPU; the exponent is held where the
/// derivative's square would overflow.
pub(crate) fn swish<const R: usize>(x: Tensor<R>) -> Tensor<R> {
    x.clone() / ((-x).clamp_max(40.0).exp() + 1.0)
}

pub(crate) fn norm(width: usize, groups: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(groups, width).with_epsilon(NORM_EPSILON).init(device)
}

/// Means of the squares of four, `[B, C, H, W]` to `[B, C, H/2, W/2]` rounded up; the last square of an odd side is
/// the mean of its real cells.
pub(crate) fn halve(x: Tensor<4>) -> Tensor<4> {
    avg_pool2d(even(even(x, 2), 3), AvgPoolOptions::new([2, 2]))
}

/// Repeats the last cell of an axis of odd length, so that the mean of the last pair is that cell.
pub(crate) fn even<const R: usize>(x: Tensor<R>, axis: usize) -> Tensor<R> {
    let length = x.dims()[axis];
    if length.is_multiple_of(2) {
        return x;
    }
    let last = x.clone().narrow(axis, length - 1, 1);
    Tensor::cat(vec![x, last], axis)
}

/// Nearest-neighbour upsampling by two, `[B, C, H, W]` to `[B, C, 2 H, 2 W]`: a broadcast, whose backward is a plain
/// sum.
pub(crate) fn twice(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch * channels, height, 1, width, 1])
        .expand([batch * channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// Latents `[B, D, ..]` to one row a cell, `[B ..., D]`, cells in raster order.
pub(crate) fn to_rows<const R: usize>(latents: Tensor<R>) -> Tensor<2> {
    let dims = latents.dims();
    let (batch, width) = (dims[0], dims[1]);
    let cells = dims[2..].iter().product::<usize>();
    latents.reshape([batch, width, cells]).swap_dims(1, 2).reshape([batch * cells, width])
}

/// One row a cell, `[B ..., D]`, to `[B, D, ..]`.
pub(crate) fn from_rows<const R: usize>(rows: Tensor<2>, dims: [usize; R]) -> Tensor<R> {
    let (batch, width) = (dims[0], dims[1]);
    let cells = dims[2..].iter().product::<usize>();
    rows.reshape([batch, cells, width]).swap_dims(1, 2).reshape(dims)
}

/// Draws every parameter now: Burn draws them at first use, which may come after who knows what other draws.
pub(crate) fn draw<M: Module>(module: &M) {
    module.visit(&mut Drawn);
}

struct Drawn;

impl ModuleVisitor for Drawn {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const R: usize>(x: Tensor<R>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    #[test]
    fn every_pixel_becomes_a_square() {
        let x = Tensor::<4>::from_floats([[[[1.0, 2.0], [3.0, 4.0]]]], &Device::flex());
        assert_eq!(values(twice(x)), [1., 1., 2., 2., 1., 1., 2., 2., 3., 3., 4., 4., 3., 3., 4., 4.]);
    }

    #[test]
    fn the_last_square_of_an_odd_side_is_the_mean_of_its_real_cells() {
        let x = Tensor::<4>::from_floats(
            [[[[1.0, 3.0, 10.0], [5.0, 7.0, 20.0], [8.0, 10.0, 30.0]]]],
            &Device::flex(),
        );
        let half = halve(x);
        assert_eq!(half.dims(), [1, 1, 2, 2]);
        assert_eq!(values(half), [4.0, 15.0, 9.0, 30.0]);
    }

    #[test]
    fn cells_become_rows_and_come_back() {
        let x = Tensor::<4>::from_floats([[[[1.0, 2.0, 3.0]], [[4.0, 5.0, 6.0]]]], &Device::flex());
        let rows = to_rows(x.clone());
        assert_eq!(values(rows.clone()), [1., 4., 2., 5., 3., 6.]);
        assert_eq!(values(from_rows(rows, x.dims())), values(x));
    }
}
