use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::entropy::LOWEST;
use crate::cuda::rows::{by_row, element, empty, largest_of_plane, vector};

/// Type of codes.
pub const CODES: DType = DType::I32;

/// [`Kernels::draw`](mgnt_model::kernels::Kernels::draw).
pub fn draw(logits: CubeTensor, uniform: CubeTensor, temperature: f32) -> (CubeTensor, CubeTensor) {
    let [logits, uniform] = [logits, uniform].map(into_contiguous);
    let (rows, codes) = (logits.meta.shape()[0], logits.meta.shape()[1]);
    let drawn = empty([rows, 1], CODES, &logits);
    let logarithms = empty([rows, 1], DType::F32, &logits);
    let client = logits.client.clone();
    let size = vector(&client, logits.dtype.size(), &[codes]);
    let (count, dim, plane) = by_row(&client, rows);
    // SAFETY: units beyond the last row or code end or read nothing, and the others stay within their tensors, which have no gaps.
    unsafe {
        draw_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            logits.into_tensor_arg(),
            uniform.into_tensor_arg(),
            drawn.clone().into_tensor_arg(),
            logarithms.clone().into_tensor_arg(),
            rows as u32,
            1.0 / temperature,
            size,
            codes / size,
            plane,
            element(CODES),
        );
    }
    (drawn, logarithms)
}

/// A plane has a row, which it goes through three times: for the largest, for sums, and for the code up to which they are more.
/// Its units have codes that lie side by side: sums of those before are their scan.
#[cube(launch_unchecked)]
fn draw_of_rows<I: Int, N: Size>(
    logits: &Tensor<Vector<f32, N>>,
    uniform: &Tensor<f32>,
    drawn: &mut Tensor<I>,
    logarithms: &mut Tensor<f32>,
    rows: u32,
    sharpness: f32,
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
    let mut largest = Vector::<f32, N>::new(LOWEST);
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            largest = max(largest, logits[first + at]);
        }
    }
    let largest = largest_of_plane::<N>(largest, size);
    let mut whole = 0.0f32;
    let mut sharp = 0.0f32;
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let below = logits[first + at] - Vector::new(largest);
            whole += below.exp().vector_sum();
            sharp += (below * Vector::new(sharpness)).exp().vector_sum();
        }
    }
    let whole = plane_sum(whole);
    let target = plane_sum(sharp) * uniform[row];
    // Where rounding leaves a target that no sum is above, it is the last code of any weight.
    let mut before = 0.0f32;
    let none = comptime!((size * vectors) as u32);
    let mut found = none.runtime();
    // One behind it.
    let mut last = 0u32;
    let mut of_found = 0.0f32;
    let mut of_last = 0.0f32;
    for i in 0..each {
        let at = unit + i * plane;
        let mut below = Vector::<f32, N>::new(LOWEST);
        if at < vectors {
            below = logits[first + at] - Vector::new(largest);
        }
        // Of what is beyond the row nothing is left.
        let weights = (below * Vector::new(sharpness)).exp();
        let own = weights.vector_sum();
        let mut sum = before + plane_exclusive_sum(own);
        #[unroll]
        for j in 0..size {
            let weight = weights.extract(j);
            sum += weight;
            if weight > 0.0 {
                last = (at * size + j + 1) as u32;
                of_last = below.extract(j);
                if sum > target && found == none {
                    found = last - 1;
                    of_found = of_last;
                }
            }
        }
        before += plane_sum(own);
    }
    // A unit that has the code writes it.
    let code = plane_min(found);
    if code == none {
        if last == plane_max(last) && (last > 0 || unit == 0) {
            // Where logits are no numbers, no code has any weight: it is the first, and its logarithm is no number.
            let of_all = whole.ln();
            drawn[row] = I::cast_from(max(last, 1u32) - 1);
            logarithms[row] = select(last > 0, of_last, of_all) - of_all;
        }
    } else if found == code {
        drawn[row] = I::cast_from(code);
        logarithms[row] = of_found - whole.ln();
    }
}
