use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::rows::{element, empty};

/// Units of a cube, which has a sample.
const UNITS: u32 = 256;

/// [`Kernels::decide`](mgnt_model::kernels::Kernels::decide).
pub fn decide(
    scores: CubeTensor,
    codes: CubeTensor,
    positions: CubeTensor,
    count: usize,
) -> (CubeTensor, CubeTensor) {
    let [scores, codes, positions] = [scores, codes, positions].map(into_contiguous);
    let (batch, masked) = (scores.meta.shape()[0], scores.meta.shape()[1]);
    let [to_codes, to_positions] = [&codes, &positions].map(|like| empty([batch, masked], like.dtype, like));
    let client = scores.client.clone();
    let of = element(codes.dtype);
    // SAFETY: places are a permutation of those of a sample, whatever its scores are.
    unsafe {
        decide_in_samples::launch_unchecked(
            &client,
            CubeCount::Static(batch as u32, 1, 1),
            CubeDim::new_1d(UNITS),
            scores.into_tensor_arg(),
            codes.into_tensor_arg(),
            positions.into_tensor_arg(),
            to_codes.clone().into_tensor_arg(),
            to_positions.clone().into_tensor_arg(),
            masked as u32,
            count as u32,
            masked.next_power_of_two(),
            of,
        );
    }
    (to_codes, to_positions)
}

/// Each unit counts what comes before its places: a sample has so few that this is no time.
#[cube(launch_unchecked)]
fn decide_in_samples<I: Int>(
    scores: &Tensor<f32>,
    codes: &Tensor<I>,
    positions: &Tensor<I>,
    to_codes: &mut Tensor<I>,
    to_positions: &mut Tensor<I>,
    masked: u32,
    count: u32,
    #[comptime] room: usize,
    #[define(I)] _element: ElemType,
) {
    let first = CUBE_POS * masked as usize;
    let mut keys = Shared::<[u32]>::new_slice(room);
    let mut ranks = Shared::<[u32]>::new_slice(room);
    let mut place = UNIT_POS;
    while place < masked {
        // The order of numbers as one of their bits, which what is no number has a place in as well.
        let bits = u32::reinterpret(scores[first + place as usize]);
        let mut key = bits | 0x8000_0000u32;
        if bits >= 0x8000_0000u32 {
            key = !bits;
        }
        keys[place as usize] = key;
        place += CUBE_DIM;
    }
    sync_cube();
    place = UNIT_POS;
    while place < masked {
        let own = keys[place as usize];
        let mut rank = 0u32;
        for other in 0..masked {
            let key = keys[other as usize];
            if key > own || (key == own && other < place) {
                rank += 1u32;
            }
        }
        ranks[place as usize] = rank;
        place += CUBE_DIM;
    }
    sync_cube();
    place = UNIT_POS;
    while place < masked {
        let mut to = ranks[place as usize];
        if to >= count {
            to = count + place;
            for other in 0..place {
                if ranks[other as usize] < count {
                    to -= 1u32;
                }
            }
        }
        to_codes[first + to as usize] = codes[first + place as usize];
        to_positions[first + to as usize] = positions[first + place as usize];
        place += CUBE_DIM;
    }
}
