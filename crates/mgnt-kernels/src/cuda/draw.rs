use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::rows::{by_row, element, empty};

/// Type of codes.
pub const CODES: DType = DType::I32;

/// [`Kernels::draw`](mgnt_model::kernels::Kernels::draw).
pub fn draw(logits: CubeTensor, uniform: CubeTensor, temperature: f32) -> (CubeTensor, CubeTensor) {
    let [logits, uniform] = [logits, uniform].map(into_contiguous);
    let (rows, codes) = (logits.meta.shape()[0], logits.meta.shape()[1]);
    let drawn = empty([rows, 1], CODES, &logits);
    let logarithms = empty([rows, 1], DType::F32, &logits);
    let client = logits.client.clone();
    let (count, dim, plane) = by_row(&client, rows);
    // SAFETY: units beyond the last row or code end or read nothing, and the others stay within their tensors, which have no gaps.
    unsafe {
        draw_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            logits.into_tensor_arg(),
            uniform.into_tensor_arg(),
            drawn.clone().into_tensor_arg(),
            logarithms.clone().into_tensor_arg(),
            rows as u32,
            1.0 / temperature,
            codes,
            plane,
            element(CODES),
        );
    }
    (drawn, logarithms)
}

/// A plane has a row, and its units codes that lie side by side: sums of those before are their scan.
#[cube(launch_unchecked)]
fn draw_of_rows<I: Int>(
    logits: &Tensor<f32>,
    uniform: &Tensor<f32>,
    drawn: &mut Tensor<I>,
    logarithms: &mut Tensor<f32>,
    rows: u32,
    sharpness: f32,
    #[comptime] codes: usize,
    #[comptime] plane: usize,
    #[define(I)] _element: ElemType,
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let each = comptime!(codes.div_ceil(plane));
    let unit = UNIT_POS_X as usize;
    let first = row * codes;
    let from = unit * each;
    let to = min(from + each, codes);
    let mut largest = logits[first];
    for code in from..to {
        largest = max(largest, logits[first + code]);
    }
    let largest = plane_max(largest);
    let mut whole = 0.0f32;
    let mut own = 0.0f32;
    for code in from..to {
        let below = logits[first + code] - largest;
        whole += below.exp();
        own += (below * sharpness).exp();
    }
    let whole = plane_sum(whole);
    let target = plane_sum(own) * uniform[row];
    // Where rounding leaves a target that no sum is above, it is the last code of any weight.
    let mut sum = plane_exclusive_sum(own);
    let none = comptime!(codes as u32);
    let mut found = none.runtime();
    let mut last = 0u32;
    for code in from..to {
        let weight = ((logits[first + code] - largest) * sharpness).exp();
        sum += weight;
        if weight > 0.0 {
            last = code as u32;
            if sum > target && found == none {
                found = code as u32;
            }
        }
    }
    let found = plane_min(found);
    let last = plane_max(last);
    if unit == 0 {
        let mut code = found;
        if found == none {
            code = last;
        }
        drawn[row] = I::cast_from(code);
        logarithms[row] = logits[first + code as usize] - largest - whole.ln();
    }
}
