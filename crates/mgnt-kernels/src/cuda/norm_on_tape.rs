use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use mgnt_model::kernels::NORM_EPSILON;

use crate::cuda::dropped::{Dropout, draws, factors};
use crate::cuda::norm::centre;
use crate::cuda::rows::{by_row, element, empty, is_in_row, vector};

/// The residual stream before a LayerNorm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamAs {
    /// There is none.
    Nothing,
    /// In `f32`.
    Whole,
    /// What another LayerNorm scaled it from, in `f32`, with the parameters `[3, D]` of that: what goes from one to the other is
    /// read and written in one place, and not once more where it is rounded for products.
    Normal,
}

/// A residual stream, a branch and what some of it is dropped by.
pub struct Summands {
    /// `[R, D]`; not read where there is nothing.
    pub stream: CubeTensor,
    /// `[3, D]`; not read where the stream is not a normal.
    pub scales: CubeTensor,
    pub is: StreamAs,
    /// `[1, R, D]`.
    pub sums: CubeTensor,
    /// Not read where nothing is dropped.
    pub key: CubeTensor,
    pub dropout: Dropout,
}

/// [`Kernels::normed`](mgnt_model::kernels::Kernels::normed) `[R, D]` in type `to`; and for its backward pass the normal
/// before it was scaled, and one over the deviations `[R, 1]`.
pub fn norm(summands: Summands, parameters: CubeTensor, to: DType) -> (CubeTensor, CubeTensor, CubeTensor) {
    let Summands { stream, scales, is, sums, key, dropout } = summands;
    let [stream, scales, sums, parameters] = [stream, scales, sums, parameters].map(into_contiguous);
    let (rows, width) = (sums.meta.shape()[1], sums.meta.shape()[2]);
    let [input, normal] = [to, DType::F32].map(|of| empty([rows, width], of, &sums));
    let inverse = empty([rows, 1], DType::F32, &sums);
    let client = sums.client.clone();
    let size = vector(&client, DType::F32.size(), &[width]);
    let (count, dim, plane) = by_row(&client, rows);
    let elements = [sums.dtype, to].map(element);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        norm_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            stream.into_tensor_arg(),
            scales.into_tensor_arg(),
            sums.into_tensor_arg(),
            parameters.into_tensor_arg(),
            key.into_tensor_arg(),
            input.clone().into_tensor_arg(),
            normal.clone().into_tensor_arg(),
            inverse.clone().into_tensor_arg(),
            rows as u32,
            NORM_EPSILON as f32,
            dropout.site,
            dropout.threshold,
            dropout.of_rest,
            dropout.drops(),
            is,
            size,
            width,
            width / size,
            plane,
            elements,
        );
    }
    (input, normal, inverse)
}

/// A plane has a row, which its units keep in registers.
#[cube(launch_unchecked)]
fn norm_of_rows<S: Float, E: Float, N: Size>(
    stream: &Tensor<Vector<f32, N>>,
    scales: &Tensor<Vector<f32, N>>,
    sums: &Tensor<Vector<S, N>>,
    parameters: &Tensor<Vector<f32, N>>,
    key: &Tensor<f32>,
    input: &mut Tensor<Vector<E, N>>,
    normal: &mut Tensor<Vector<f32, N>>,
    inverse: &mut Tensor<f32>,
    rows: u32,
    epsilon: f32,
    site: u32,
    threshold: u32,
    of_rest: f32,
    #[comptime] drops: bool,
    #[comptime] is: StreamAs,
    #[comptime] size: usize,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(S, E)] _elements: [ElemType; 2],
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let first = row * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let draws = draws(key, site, threshold, of_rest, drops);
    let mut held = Array::<Vector<f32, N>>::new(each);
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        let mut vector = Vector::<f32, N>::new(0.0);
        if is_in_row(at, vectors, plane) {
            vector = Vector::cast_from(sums[first + at]) + parameters[at];
            if comptime!(drops) {
                vector *= factors::<N>(&draws, row as u32, (at * size) as u32, size);
            }
            if comptime!(is == StreamAs::Whole) {
                vector += stream[first + at];
            }
            if comptime!(is == StreamAs::Normal) {
                vector += stream[first + at] * scales[vectors + at] + scales[2 * vectors + at];
            }
        }
        sum += vector.vector_sum();
        held[i] = vector;
    }
    let scale = centre::<N>(&mut held, plane_sum(sum), unit, epsilon, width, vectors, plane);
    if unit == 0 {
        inverse[row] = scale;
    }
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        if is_in_row(at, vectors, plane) {
            let vector = held[i] * Vector::new(scale);
            normal[first + at] = vector;
            let normed = vector * parameters[vectors + at] + parameters[2 * vectors + at];
            input[first + at] = Vector::cast_from(normed);
        }
    }
}
