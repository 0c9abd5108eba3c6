use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use mgnt_model::kernels::{GoesOn, NORM_EPSILON};

use crate::cuda::norm::{Scales, centre, leave, next_type};
use crate::cuda::rows::{by_row, element, empty, is_in_row, vector};

/// [`Kernels::embed`](mgnt_model::kernels::Kernels::embed): numbers of rows, and the tables that they are of.
pub fn embed(
    numbers: [CubeTensor; 2],
    tables: [CubeTensor; 2],
    norm: Scales,
    on: GoesOn,
    to: DType,
) -> (CubeTensor, CubeTensor) {
    let [tokens, positions] = numbers.map(into_contiguous);
    let [of_token, of_position] = tables.map(into_contiguous);
    let [gamma, beta] = [norm.gamma, norm.beta].map(into_contiguous);
    let (rows, width) = (tokens.meta.shape()[0], of_token.meta.shape()[1]);
    let (next, input) = (empty([rows, width], next_type(on, to), &tokens), empty([rows, width], to, &tokens));
    let client = tokens.client.clone();
    let bytes = of_token.dtype.size().min(next.dtype.size());
    let size = vector(&client, bytes, &[width]);
    let (count, dim, plane) = by_row(&client, rows);
    let elements = [tokens.dtype, of_token.dtype, next.dtype, to].map(element);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps, as long
    // as tokens and positions are of the tables.
    unsafe {
        embed_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            tokens.into_tensor_arg(),
            positions.into_tensor_arg(),
            of_token.into_tensor_arg(),
            of_position.into_tensor_arg(),
            gamma.into_tensor_arg(),
            beta.into_tensor_arg(),
            next.clone().into_tensor_arg(),
            input.clone().into_tensor_arg(),
            rows as u32,
            NORM_EPSILON as f32,
            Some(on),
            width,
            width / size,
            plane,
            elements,
        );
    }
    (next, input)
}

/// A plane has a row, which its units keep in registers.
#[cube(launch_unchecked)]
fn embed_of_rows<I: Int, T: Float, L: Float, E: Float, N: Size>(
    tokens: &Tensor<I>,
    positions: &Tensor<I>,
    of_token: &Tensor<Vector<T, N>>,
    of_position: &Tensor<Vector<T, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    next: &mut Tensor<Vector<L, N>>,
    input: &mut Tensor<Vector<E, N>>,
    rows: u32,
    epsilon: f32,
    #[comptime] written: Option<GoesOn>,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(I, T, L, E)] _elements: [ElemType; 4],
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let token = usize::cast_from(tokens[row]) * vectors;
    let position = usize::cast_from(positions[row]) * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let mut held = Array::<Vector<f32, N>>::new(each);
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        let mut vector = Vector::<f32, N>::new(0.0);
        if is_in_row(at, vectors, plane) {
            vector = Vector::cast_from(of_token[token + at]);
            vector += Vector::cast_from(of_position[position + at]);
            if comptime!(written == Some(GoesOn::Past)) {
                next[row * vectors + at] = Vector::cast_from(vector);
            }
        }
        sum += vector.vector_sum();
        held[i] = vector;
    }
    let scale = centre::<N>(&mut held, plane_sum(sum), unit, epsilon, width, vectors, plane);
    leave::<L, E, N>(&held, scale, gamma, beta, next, input, row * vectors, unit, written, vectors, plane);
}
