use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::rows::{by_row, element, empty, vector};

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
    pub epsilon: f32,
}

/// [`Kernels::add_norm`](mgnt_model::kernels::Kernels::add_norm).
pub fn add_norm(
    stream: CubeTensor,
    branch: Branch,
    norm: Scales,
    is_post: bool,
    to: DType,
) -> (CubeTensor, CubeTensor) {
    let [stream, parts, bias, gamma, beta] =
        [stream, branch.parts, branch.bias, norm.gamma, norm.beta].map(into_contiguous);
    let (rows, width) = (stream.meta.shape()[0], stream.meta.shape()[1]);
    let count_of_parts = if branch.is_there { parts.meta.shape()[0] } else { 0 };
    let (next, input) = (empty([rows, width], DType::F32, &stream), empty([rows, width], to, &stream));
    let client = stream.client.clone();
    let size = vector(&client, stream.dtype.size(), &[width]);
    let (count, dim, plane) = by_row(&client, rows);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        add_norm_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            stream.into_tensor_arg(),
            parts.into_tensor_arg(),
            bias.into_tensor_arg(),
            gamma.into_tensor_arg(),
            beta.into_tensor_arg(),
            next.clone().into_tensor_arg(),
            input.clone().into_tensor_arg(),
            rows as u32,
            norm.epsilon,
            is_post,
            count_of_parts,
            width,
            width / size,
            plane,
            element(to),
        );
    }
    (next, input)
}

/// A plane has a row, which its units keep in registers.
#[cube(launch_unchecked)]
fn add_norm_of_rows<E: Float, N: Size>(
    stream: &Tensor<Vector<f32, N>>,
    parts: &Tensor<Vector<f32, N>>,
    bias: &Tensor<Vector<f32, N>>,
    gamma: &Tensor<Vector<f32, N>>,
    beta: &Tensor<Vector<f32, N>>,
    next: &mut Tensor<Vector<f32, N>>,
    input: &mut Tensor<Vector<E, N>>,
    rows: u32,
    epsilon: f32,
    #[comptime] is_post: bool,
    #[comptime] count_of_parts: usize,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(E)] _element: ElemType,
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
        if at < vectors {
            vector = stream[first + at];
            if comptime!(count_of_parts > 0) {
                vector += bias[at];
            }
            #[unroll]
            for part in 0..count_of_parts {
                vector += parts[part * a_part + first + at];
            }
            if comptime!(!is_post) {
                next[first + at] = vector;
            }
        }
        sum += vector.vector_sum();
        held[i] = vector;
    }
    let scale = centre::<N>(&mut held, plane_sum(sum), unit, epsilon, width, vectors, plane);
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let normed = held[i] * Vector::new(scale) * gamma[at] + beta[at];
            if comptime!(is_post) {
                next[first + at] = normed;
            }
            input[first + at] = Vector::cast_from(normed);
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
        if unit + i * plane < vectors {
            let centred = held[i] - Vector::new(mean);
            squares += (centred * centred).vector_sum();
            held[i] = centred;
        }
    }
    let variance = plane_sum(squares) / (width as f32);
    1.0 / (variance + epsilon).sqrt()
}
