use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::columns::sum_of_columns;
use crate::cuda::product::view_from;
use crate::cuda::rows::{by_row, element, empty, largest_of_plane, vector};

/// Below every logit.
pub const LOWEST: f32 = f32::MIN;

/// What rows of logits are held against.
pub struct Aim {
    /// `[R]`.
    pub targets: CubeTensor,
    /// `[R]`.
    pub weights: CubeTensor,
    /// Share of the truth that all codes have alike.
    pub smoothing: f32,
    /// `[R, V]`, read where it has a share.
    pub taught: CubeTensor,
    /// The teacher's.
    pub share: f32,
}

/// [`Kernels::cross_entropy`](mgnt_model::kernels::Kernels::cross_entropy) of `logits [R, V]`: loss and cross-entropy with the truth,
/// both `[1]`; the gradient of the logits, and their softmax, both `[R, V]`.
pub fn cross_entropy(logits: CubeTensor, aim: Aim) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
    let [logits, targets, weights, taught] =
        [logits, aim.targets, aim.weights, aim.taught].map(into_contiguous);
    let (rows, codes) = (logits.meta.shape()[0], logits.meta.shape()[1]);
    let [gradient, probabilities] = [(); 2].map(|()| empty([rows, codes], DType::F32, &logits));
    let of_rows = empty([rows, 2], DType::F32, &logits);
    let client = logits.client.clone();
    let size = vector(&client, logits.dtype.size(), &[codes]);
    let (count, dim, plane) = by_row(&client, rows);
    let of_targets = element(targets.dtype);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        entropy_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            logits.into_tensor_arg(),
            targets.into_tensor_arg(),
            weights.into_tensor_arg(),
            taught.into_tensor_arg(),
            gradient.clone().into_tensor_arg(),
            probabilities.clone().into_tensor_arg(),
            of_rows.clone().into_tensor_arg(),
            rows as u32,
            aim.smoothing,
            aim.share,
            codes as f32,
            aim.share > 0.0,
            size,
            codes / size,
            plane,
            of_targets,
        );
    }
    let sums = sum_of_columns(of_rows, 2, 1, None);
    let [loss, truth] = [0, 1].map(|part| view_from(sums.clone(), part, [1], [1]));
    (loss, truth, gradient, probabilities)
}

/// A plane has a row, which it goes through three times: for the largest, for sums, and for what is written.
#[cube(launch_unchecked)]
fn entropy_of_rows<I: Int, N: Size>(
    logits: &Tensor<Vector<f32, N>>,
    targets: &Tensor<I>,
    weights: &Tensor<f32>,
    taught: &Tensor<Vector<f32, N>>,
    gradient: &mut Tensor<Vector<f32, N>>,
    probabilities: &mut Tensor<Vector<f32, N>>,
    of_rows: &mut Tensor<f32>,
    rows: u32,
    smoothing: f32,
    share: f32,
    codes: f32,
    #[comptime] has_teacher: bool,
    #[comptime] size: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(I)] _element: ElemType,
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let first = row * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let target = u32::cast_from(targets[row]);
    let mut largest = Vector::<f32, N>::new(LOWEST);
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            largest = max(largest, logits[first + at]);
        }
    }
    let largest = largest_of_plane::<N>(largest, size);
    let mut exponentials = 0.0f32;
    let mut all = 0.0f32;
    let mut of_teacher = 0.0f32;
    let mut picked = 0.0f32;
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let vector = logits[first + at];
            exponentials += (vector - Vector::new(largest)).exp().vector_sum();
            all += vector.vector_sum();
            if comptime!(has_teacher) {
                of_teacher += (vector * taught[first + at]).vector_sum();
            }
            #[unroll]
            for j in 0..size {
                if (at * size + j) as u32 == target {
                    picked = vector.extract(j);
                }
            }
        }
    }
    let exponentials = plane_sum(exponentials);
    let picked = plane_sum(picked);
    let all = plane_sum(all);
    let of_truth = picked * (1.0 - smoothing) + all / codes * smoothing;
    let mut expected = of_truth * (1.0 - share);
    if comptime!(has_teacher) {
        expected += plane_sum(of_teacher) * share;
    }
    let weight = weights[row];
    let normalizer = largest + exponentials.ln();
    if unit == 0 {
        of_rows[2 * row] = (normalizer - expected) * weight;
        of_rows[2 * row + 1] = (normalizer - of_truth) * weight;
    }
    let alike = (1.0 - share) * smoothing / codes;
    let at_target = (1.0 - share) * (1.0 - smoothing);
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let exponential = (logits[first + at] - Vector::new(largest)).exp();
            let probability = exponential * Vector::new(1.0 / exponentials);
            probabilities[first + at] = probability;
            let mut back = probability - Vector::new(alike);
            if comptime!(has_teacher) {
                back -= taught[first + at] * Vector::new(share);
            }
            #[unroll]
            for j in 0..size {
                if (at * size + j) as u32 == target {
                    back.insert(j, back.extract(j) - at_target);
                }
            }
            gradient[first + at] = back * Vector::new(weight);
        }
    }
}
