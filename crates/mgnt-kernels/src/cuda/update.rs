//! What a training does with each parameter between two steps.

use std::array::from_fn;

use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::rows::{self, PLANES, by_piece, empty, vector};

/// Tensors of a launch, where it takes several: launches are most of what small ones cost.
pub const AT_ONCE: usize = 4;

/// Units of a cube.
const UNITS: u32 = 256;

/// Columns of the sums of squares: those of a row together are the sum of a tensor's.
pub const SQUARES: usize = 2048;

/// What a step of AdamW multiplies by, and the epsilon.
#[derive(Debug, Clone, Copy)]
pub struct Factors {
    /// What stays of the parameter.
    pub kept: f32,
    /// What stays of the first average.
    pub beta1: f32,
    /// What stays of the second.
    pub beta2: f32,
    /// The first average's share of the change.
    pub rate: f32,
    /// Of the second average, below the root.
    pub of_second: f32,
    /// Beside the root.
    pub epsilon: f32,
    /// What gradients are multiplied by.
    pub clip: f32,
}

/// [`Kernels::adamw`](mgnt_model::kernels::Kernels::adamw): the parameter and both averages, written over where nobody else
/// holds them.
pub fn adamw(
    [value, first, second]: [CubeTensor; 3],
    gradient: CubeTensor,
    factors: Factors,
) -> [CubeTensor; 3] {
    let gradient = into_contiguous(gradient);
    let before = [value, first, second].map(into_contiguous);
    // Where somebody else holds a tensor, what comes of it goes to a new one.
    let after = before.each_ref().map(to_write);
    let (client, count) = (gradient.client.clone(), gradient.meta.num_elements());
    let size = vector(&client, gradient.dtype.size(), &[count]);
    let (cubes, dim) = by_piece(&client, count / size);
    let Factors { kept, beta1, beta2, rate, of_second, epsilon, clip } = factors;
    let [value, first, second] = before;
    let [to_value, to_first, to_second] = after.clone().map(CubeTensor::into_tensor_arg);
    // SAFETY: units beyond the last piece end at once, and the others stay within their tensors, which have no gaps. A unit reads what
    // it writes over before it does.
    unsafe {
        move_parameter::launch_unchecked(
            &client,
            cubes,
            dim,
            size,
            value.into_tensor_arg(),
            first.into_tensor_arg(),
            second.into_tensor_arg(),
            gradient.into_tensor_arg(),
            to_value,
            to_first,
            to_second,
            (count / size) as u32,
            kept,
            beta1,
            beta2,
            rate,
            of_second,
            epsilon,
            clip,
        );
    }
    after
}

/// The squares of the first `count` tensors, in rows of `sums [_, SQUARES]` from `row` on, where zeros were before: each column has
/// the sum of a warp's share of a tensor's numbers.
pub fn squares(tensors: [CubeTensor; AT_ONCE], count: usize, sums: CubeTensor, row: usize) -> CubeTensor {
    let tensors = tensors.map(into_contiguous);
    let sums = rows::own(sums);
    let client = sums.client.clone();
    let (size, pieces) = pieces(&tensors);
    let plane = client.properties().hardware.plane_size_min;
    // As many columns as have something to add up.
    let columns = SQUARES.min(most(&pieces, count).div_ceil(plane as usize));
    let cubes = CubeCount::Static((columns as u32).div_ceil(PLANES), count as u32, 1);
    let [first, second, third, fourth] = tensors.map(CubeTensor::into_tensor_arg);
    let [pieces_1, pieces_2, pieces_3, pieces_4] = pieces.map(|pieces| pieces as u32);
    // SAFETY: units beyond the last column or piece end or read nothing, and the others stay within their tensors, which have no gaps.
    unsafe {
        sum_squares::launch_unchecked(
            &client,
            cubes,
            CubeDim::new_2d(plane, PLANES),
            size,
            first,
            second,
            third,
            fourth,
            sums.clone().into_tensor_arg(),
            pieces_1,
            pieces_2,
            pieces_3,
            pieces_4,
            row as u32,
            SQUARES,
            plane as usize,
        );
    }
    sums
}

/// [`Kernels::averaged`](mgnt_model::kernels::Kernels::averaged) of the first `count` averages and a value each; what stood for others
/// stays as it was.
pub fn averaged(
    averages: [CubeTensor; AT_ONCE],
    values: [CubeTensor; AT_ONCE],
    count: usize,
    decay: f32,
) -> [CubeTensor; AT_ONCE] {
    let [averages, values] = [averages, values].map(|tensors| tensors.map(into_contiguous));
    // New ones: a training holds the averages until all of the next are there.
    let like = |average: &CubeTensor| empty([average.meta.num_elements()], average.dtype, average);
    let after: [CubeTensor; AT_ONCE] =
        from_fn(|index| if index < count { like(&averages[index]) } else { averages[index].clone() });
    let client = values[0].client.clone();
    let (size, pieces) = pieces(&averages);
    let dim = CubeDim::new_1d(UNITS);
    let cubes = CubeCount::Static((most(&pieces, count) as u32).div_ceil(UNITS), count as u32, 1);
    let [first, second, third, fourth] = averages.map(CubeTensor::into_tensor_arg);
    let [of_first, of_second, of_third, of_fourth] = values.map(CubeTensor::into_tensor_arg);
    let [to_first, to_second, to_third, to_fourth] = after.clone().map(CubeTensor::into_tensor_arg);
    let [pieces_1, pieces_2, pieces_3, pieces_4] = pieces.map(|pieces| pieces as u32);
    // SAFETY: as above.
    unsafe {
        blend::launch_unchecked(
            &client, cubes, dim, size, first, second, third, fourth, of_first, of_second, of_third,
            of_fourth, to_first, to_second, to_third, to_fourth, pieces_1, pieces_2, pieces_3, pieces_4,
            decay,
        );
    }
    after
}

/// The largest vector that divides all of these tensors, and how many of it each has.
fn pieces(tensors: &[CubeTensor; AT_ONCE]) -> (usize, [usize; AT_ONCE]) {
    let counts = tensors.each_ref().map(|tensor| tensor.meta.num_elements());
    let size = vector(&tensors[0].client, tensors[0].dtype.size(), &counts);
    (size, counts.map(|count| count / size))
}

/// Of the first `count`.
fn most(pieces: &[usize; AT_ONCE], count: usize) -> usize {
    pieces.iter().take(count).copied().max().unwrap_or(0)
}

/// The tensor itself, where nobody else holds it, or another of its size.
fn to_write(tensor: &CubeTensor) -> CubeTensor {
    if tensor.can_mut() { tensor.clone() } else { empty([tensor.meta.num_elements()], tensor.dtype, tensor) }
}

#[cube(launch_unchecked)]
fn move_parameter<N: Size>(
    value: &Tensor<Vector<f32, N>>,
    first: &Tensor<Vector<f32, N>>,
    second: &Tensor<Vector<f32, N>>,
    gradient: &Tensor<Vector<f32, N>>,
    to_value: &mut Tensor<Vector<f32, N>>,
    to_first: &mut Tensor<Vector<f32, N>>,
    to_second: &mut Tensor<Vector<f32, N>>,
    pieces: u32,
    kept: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    of_second: f32,
    epsilon: f32,
    clip: f32,
) {
    let piece = ABSOLUTE_POS;
    if piece >= pieces as usize {
        terminate!();
    }
    let slope = gradient[piece] * Vector::new(clip);
    let first = first[piece] * Vector::new(beta1) + slope * Vector::new(1.0 - beta1);
    let second = second[piece] * Vector::new(beta2) + slope * slope * Vector::new(1.0 - beta2);
    let root = (second * Vector::new(of_second)).sqrt() + Vector::new(epsilon);
    to_value[piece] = value[piece] * Vector::new(kept) - first * Vector::new(rate) / root;
    to_first[piece] = first;
    to_second[piece] = second;
}

/// A plane has a column of the row of its tensor, of which a launch has as many as it has cubes along y.
#[cube(launch_unchecked)]
fn sum_squares<N: Size>(
    first: &Tensor<Vector<f32, N>>,
    second: &Tensor<Vector<f32, N>>,
    third: &Tensor<Vector<f32, N>>,
    fourth: &Tensor<Vector<f32, N>>,
    sums: &mut Tensor<f32>,
    pieces_1: u32,
    pieces_2: u32,
    pieces_3: u32,
    pieces_4: u32,
    row: u32,
    #[comptime] all_columns: usize,
    #[comptime] plane: usize,
) {
    let column = CUBE_POS_X as usize * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    let mut sum = 0.0f32;
    if CUBE_POS_Y == 0 {
        sum = of_column::<N>(first, pieces_1, column, all_columns, plane);
    } else if CUBE_POS_Y == 1 {
        sum = of_column::<N>(second, pieces_2, column, all_columns, plane);
    } else if CUBE_POS_Y == 2 {
        sum = of_column::<N>(third, pieces_3, column, all_columns, plane);
    } else if CUBE_POS_Y == 3 {
        sum = of_column::<N>(fourth, pieces_4, column, all_columns, plane);
    }
    let sum = plane_sum(sum);
    if UNIT_POS_X == 0 && column < all_columns {
        sums[(row + CUBE_POS_Y) as usize * all_columns + column] = sum;
    }
}

/// A unit's share of the squares of a column.
#[cube]
fn of_column<N: Size>(
    numbers: &Tensor<Vector<f32, N>>,
    pieces: u32,
    column: usize,
    #[comptime] all_columns: usize,
    #[comptime] plane: usize,
) -> f32 {
    let columns = min((pieces as usize).div_ceil(plane), all_columns);
    let mut sum = Vector::<f32, N>::new(0.0);
    if column < columns {
        let mut at = column * plane + UNIT_POS_X as usize;
        while at < pieces as usize {
            let number = numbers[at];
            sum += number * number;
            at += columns * plane;
        }
    }
    sum.vector_sum()
}

/// A launch has as many pairs as it has cubes along y.
#[cube(launch_unchecked)]
fn blend<N: Size>(
    first: &Tensor<Vector<f32, N>>,
    second: &Tensor<Vector<f32, N>>,
    third: &Tensor<Vector<f32, N>>,
    fourth: &Tensor<Vector<f32, N>>,
    of_first: &Tensor<Vector<f32, N>>,
    of_second: &Tensor<Vector<f32, N>>,
    of_third: &Tensor<Vector<f32, N>>,
    of_fourth: &Tensor<Vector<f32, N>>,
    to_first: &mut Tensor<Vector<f32, N>>,
    to_second: &mut Tensor<Vector<f32, N>>,
    to_third: &mut Tensor<Vector<f32, N>>,
    to_fourth: &mut Tensor<Vector<f32, N>>,
    pieces_1: u32,
    pieces_2: u32,
    pieces_3: u32,
    pieces_4: u32,
    decay: f32,
) {
    if CUBE_POS_Y == 0 {
        blend_piece::<N>(first, of_first, to_first, pieces_1, decay);
    } else if CUBE_POS_Y == 1 {
        blend_piece::<N>(second, of_second, to_second, pieces_2, decay);
    } else if CUBE_POS_Y == 2 {
        blend_piece::<N>(third, of_third, to_third, pieces_3, decay);
    } else {
        blend_piece::<N>(fourth, of_fourth, to_fourth, pieces_4, decay);
    }
}

#[cube]
fn blend_piece<N: Size>(
    average: &Tensor<Vector<f32, N>>,
    value: &Tensor<Vector<f32, N>>,
    to: &mut Tensor<Vector<f32, N>>,
    pieces: u32,
    decay: f32,
) {
    let piece = CUBE_POS_X as usize * CUBE_DIM_X as usize + UNIT_POS_X as usize;
    if piece < pieces as usize {
        to[piece] = average[piece] * Vector::new(decay) + value[piece] * Vector::new(1.0 - decay);
    }
}
