use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use mgnt_model::kernels::{GoesOn, NORM_EPSILON};

use crate::cuda::rows::{by_row, element, empty, is_in_row, vector};

/// The residual stream: in `f32`, or in halves.
pub struct Stream {
    pub first: CubeTensor,
    /// What rounding left of it; otherwise it is not read.
    pub rest: CubeTensor,
    pub is_in_halves: bool,
}

/// What is added to the stream.
pub struct Branch {
    pub parts: CubeTensor,
    pub bias: CubeTensor,
    /// Otherwise neither is read.
    pub is_there: bool,
}

/// Parameters of the LayerNorm.
pub struct Scales {
    pub gamma: CubeTensor,
    pub beta: CubeTensor,
}

/// [`Kernels::add_norm`](mgnt_model::kernels::Kernels::add_norm).
pub fn add_norm(
    stream: Stream,
    branch: Branch,
    norm: Scales,
    on: GoesOn,
    to: DType,
) -> (CubeTensor, CubeTensor) {
    let is_in_halves = stream.is_in_halves;
    let [stream, rest, parts, bias, gamma, beta] =
        [stream.first, stream.rest, branch.parts, branch.bias, norm.gamma, norm.beta].map(into_contiguous);
    let (rows, width) = (stream.meta.shape()[0], stream.meta.shape()[1]);
    let count_of_parts = if branch.is_there { parts.meta.shape()[0] } else { 0 };
    // What nothing is added to is there already.
    let is_written = on != GoesOn::Past || branch.is_there;
    let of_next = next_type(on, to);
    let next = if is_written { empty([rows, width], of_next, &stream) } else { stream.clone() };
    let input = empty([rows, width], to, &stream);
    let client = stream.client.clone();
    let bytes = if is_in_halves || on == GoesOn::InHalves { to.size() } else { DType::F32.size() };
    let size = vector(&client, bytes, &[width]);
    let (count, dim, plane) = by_row(&client, rows);
    let elements = [stream.dtype, parts.dtype, next.dtype, to].map(element);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        add_norm_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            stream.into_tensor_arg(),
            rest.into_tensor_arg(),
            parts.into_tensor_arg(),
            bias.into_tensor_arg(),
            gamma.into_tensor_arg(),
            beta.into_tensor_arg(),
            next.clone().into_tensor_arg(),
            input.clone().into_tensor_arg(),
            rows as u32,
            NORM_EPSILON as f32,
            is_in_halves,
            is_written.then_some(on),
            count_of_parts,
            width,
            width / size,
            plane,
            elements,
        );
    }
    (next, input)
}

/// Of the stream that goes on.
pub fn next_type(on: GoesOn, to: DType) -> DType {
    match on {
        GoesOn::Past | GoesOn::Through => DType::F32,
        GoesOn::InHalves => to,
    }
}

/// A plane has a row, which its units keep in registers.
#[cube(launch_unchecked)]
fn add_norm_of_rows<S: Float, P: Float, L: Float, E: Float, N: Size>(
    stream: &Tensor<Vector<S, N>>,
    rest: &Tensor<Vector<S, N>>,
    parts: &Tensor<Vector<P, N>>,
    bias: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    next: &mut Tensor<Vector<L, N>>,
    input: &mut Tensor<Vector<E, N>>,
    rows: u32,
    epsilon: f32,
    #[comptime] is_in_halves: bool,
    #[comptime] written: Option<GoesOn>,
    #[comptime] count_of_parts: usize,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(S, P, L, E)] _elements: [ElemType; 4],
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let first = row * vectors;
    let a_part = rows as usize * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let mut held = Array::<Vector<f32, N>>::new(each);
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        let mut vector = Vector::<f32, N>::new(0.0);
        if is_in_row(at, vectors, plane) {
            vector = Vector::cast_from(stream[first + at]);
            if comptime!(is_in_halves) {
                vector += Vector::cast_from(rest[first + at]);
            }
            if comptime!(count_of_parts > 0) {
                vector += bias[at];
            }
            #[unroll]
            for part in 0..count_of_parts {
                vector += Vector::cast_from(parts[part * a_part + first + at]);
            }
            if comptime!(written == Some(GoesOn::Past)) {
                next[first + at] = Vector::cast_from(vector);
            }
        }
        sum += vector.vector_sum();
        held[i] = vector;
    }
    let scale = centre::<N>(&mut held, plane_sum(sum), unit, epsilon, width, vectors, plane);
    leave::<L, E, N>(&held, scale, gamma, beta, next, input, first, unit, written, vectors, plane);
}

/// Writes what a unit holds of a row as the stream goes on, and as products take it.
#[cube]
pub fn leave<L: Float, E: Float, N: Size>(
    held: &Array<Vector<f32, N>>,
    scale: f32,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    next: &mut Tensor<Vector<L, N>>,
    input: &mut Tensor<Vector<E, N>>,
    first: usize,
    unit: usize,
    #[comptime] written: Option<GoesOn>,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
) {
    #[unroll]
    for i in 0..comptime!(vectors.div_ceil(plane)) {
        let at = unit + i * plane;
        if is_in_row(at, vectors, plane) {
            let normed = held[i] * Vector::new(scale) * gamma[at] + beta[at];
            let rounded = Vector::<E, N>::cast_from(normed);
            if comptime!(written == Some(GoesOn::Through)) {
                next[first + at] = Vector::cast_from(normed);
            }
            if comptime!(written == Some(GoesOn::InHalves)) {
                next[first + at] = Vector::cast_from(normed - Vector::<f32, N>::cast_from(rounded));
            }
            input[first + at] = rounded;
        }
    }
}

/// Takes the mean of a row from what a unit holds of it, by the row's sum, and returns one over the row's deviation.
#[cube]
pub fn centre<N: Size>(
    held: &mut Array<Vector<f32, N>>,
    sum: f32,
    unit: usize,
    epsilon: f32,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
) -> f32 {
    let mean = sum / (width as f32);
    let mut squares = 0.0f32;
    #[unroll]
    for i in 0..comptime!(vectors.div_ceil(plane)) {
        // What is beyond the row stays nothing.
        if is_in_row(unit + i * plane, vectors, plane) {
            let centred = held[i] - Vector::new(mean);
            squares += (centred * centred).vector_sum();
            held[i] = centred;
        }
    }
    let variance = plane_sum(squares) / (width as f32);
    1.0 / (variance + epsilon).sqrt()
}
