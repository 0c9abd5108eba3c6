//! What a training does with each parameter between two steps.

use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use mgnt_model::kernels::SQUARES;

use crate::cuda::rows::{by_piece, by_row, empty, vector};

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
    let after = before.each_ref().map(own);
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

/// [`Kernels::squares`](mgnt_model::kernels::Kernels::squares): each column has the sum of a warp's share of the numbers.
pub fn squares(numbers: CubeTensor, sums: CubeTensor, row: usize) -> CubeTensor {
    let numbers = into_contiguous(numbers);
    let sums = into_contiguous(if sums.can_mut() { sums } else { sums.copy() });
    let (client, count) = (numbers.client.clone(), numbers.meta.num_elements());
    let size = vector(&client, numbers.dtype.size(), &[count]);
    let pieces = count / size;
    // As many columns as have something to add up.
    let columns = SQUARES.min(pieces.div_ceil(client.properties().hardware.plane_size_min as usize));
    let (cubes, dim, plane) = by_row(&client, columns);
    // SAFETY: units beyond the last column or piece end or read nothing, and the others stay within their tensors, which have no gaps.
    unsafe {
        sum_squares::launch_unchecked(
            &client,
            cubes,
            dim,
            size,
            numbers.into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            pieces as u32,
            row as u32,
            columns as u32,
            SQUARES,
            plane,
        );
    }
    sums
}

/// [`Kernels::averaged`](mgnt_model::kernels::Kernels::averaged), in the place of the average where nobody else holds it.
pub fn averaged(average: CubeTensor, value: CubeTensor, decay: f32) -> CubeTensor {
    let [average, value] = [average, value].map(into_contiguous);
    let after = own(&average);
    let (client, count) = (value.client.clone(), value.meta.num_elements());
    let size = vector(&client, value.dtype.size(), &[count]);
    let (cubes, dim) = by_piece(&client, count / size);
    // SAFETY: as above.
    unsafe {
        blend::launch_unchecked(
            &client,
            cubes,
            dim,
            size,
            average.into_tensor_arg(),
            value.into_tensor_arg(),
            after.clone().into_tensor_arg(),
            (count / size) as u32,
            decay,
        );
    }
    after
}

/// The tensor itself, where nobody else holds it, or another of its size.
fn own(tensor: &CubeTensor) -> CubeTensor {
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

/// A plane has a column.
#[cube(launch_unchecked)]
fn sum_squares<N: Size>(
    numbers: &Tensor<Vector<f32, N>>,
    sums: &mut Tensor<f32>,
    pieces: u32,
    row: u32,
    columns: u32,
    #[comptime] all_columns: usize,
    #[comptime] plane: usize,
) {
    let columns = columns as usize;
    let column = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if column >= columns {
        terminate!();
    }
    let mut sum = Vector::<f32, N>::new(0.0);
    let mut at = column * plane + UNIT_POS_X as usize;
    while at < pieces as usize {
        let number = numbers[at];
        sum += number * number;
        at += columns * plane;
    }
    let sum = plane_sum(sum.vector_sum());
    if UNIT_POS_X == 0 {
        sums[row as usize * all_columns + column] = sum;
    }
}

#[cube(launch_unchecked)]
fn blend<N: Size>(
    average: &Tensor<Vector<f32, N>>,
    value: &Tensor<Vector<f32, N>>,
    to: &mut Tensor<Vector<f32, N>>,
    pieces: u32,
    decay: f32,
) {
    let piece = ABSOLUTE_POS;
    if piece >= pieces as usize {
        terminate!();
    }
    to[piece] = average[piece] * Vector::new(decay) + value[piece] * Vector::new(1.0 - decay);
}
