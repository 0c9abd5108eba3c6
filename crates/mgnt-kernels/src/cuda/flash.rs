//! Attention without scores in memory, as Dao has it ("FlashAttention-2", 2023): four warps have sixteen queries each, and go
//! through keys and values in shared memory, sixty-four at a time. Scores are in registers, where the places of a
//! result are those that the next product's first operand has (PTX ISA, `mma.m16n8k16`).

use burn::tensor::DType;
use burn_cubecl::cubecl::cmma::{MatrixIdent, MmaDefinition};
use burn_cubecl::cubecl::ir::features::MmaConfig;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::attend::HIDDEN;
use crate::cuda::rows::{element, empty};

/// Queries of a cube, and keys that are in shared memory at once.
const TILE: usize = 64;
/// Warps of a cube, each with sixteen queries.
const WARPS: u32 = 4;
/// Lanes of a warp.
const LANES: u32 = 32;
/// Halves in what a lane loads at once, and in a row of one of the matrices that a warp loads.
const PIECE: usize = 8;
/// The longest head, whose sums fill the registers.
const WIDEST: usize = 128;
/// Cubes beside each other in the second dimension of a launch.
const MOST_HEADS: usize = 65_535;

/// [`Kernels::attend`](mgnt_model::kernels::Kernels::attend) of halves; `None` where device or sizes do not fit.
pub fn attend(
    queries: &CubeTensor,
    keys: &CubeTensor,
    values: &CubeTensor,
    positions: usize,
) -> Option<CubeTensor> {
    if !fits(queries) {
        return None;
    }
    let [queries, keys, values] = [queries, keys, values].map(|tensor| into_contiguous(tensor.clone()));
    let (shape, room) = (queries.meta.shape().clone(), keys.meta.shape()[2]);
    let (batch, heads, active, width) = (shape[0], shape[1], shape[2], shape[3]);
    let mixed = empty([batch * active, heads * width], queries.dtype, &queries);
    let client = queries.client.clone();
    let count = CubeCount::Static(active.div_ceil(TILE) as u32, (batch * heads) as u32, 1);
    let of = element(queries.dtype);
    // SAFETY: what is beyond queries and keys is neither read nor written, and tensors have no gaps.
    unsafe {
        attend_in_tiles::launch_unchecked(
            &client,
            count,
            CubeDim::new_2d(LANES, WARPS),
            PIECE,
            2,
            queries.into_tensor_arg(),
            keys.into_tensor_arg(),
            values.into_tensor_arg(),
            mixed.clone().into_tensor_arg(),
            active as u32,
            room as u32,
            positions as u32,
            heads as u32,
            (width as f32).powf(-0.5),
            width,
            of,
        );
    }
    Some(mixed)
}

/// Whether the device multiplies such heads as they are multiplied here.
fn fits(queries: &CubeTensor) -> bool {
    let (shape, properties) = (queries.meta.shape(), queries.client.properties());
    let of = element(queries.dtype);
    let product = MmaConfig { a_type: of, b_type: of, cd_type: element(DType::F32), m: 16, n: 8, k: 16 };
    let matmul = &properties.features.matmul;
    [DType::F16, DType::BF16].contains(&queries.dtype)
        && matmul.mma.contains(&product)
        && matmul.ldmatrix.contains(&of)
        && properties.hardware.plane_size_min == LANES
        && properties.hardware.plane_size_max == LANES
        && shape[3].is_multiple_of(2 * PIECE)
        && shape[3] <= WIDEST
        && shape[0] * shape[1] <= MOST_HEADS
}

#[cube(launch_unchecked)]
fn attend_in_tiles<E: Float, N: Size, P: Size>(
    queries: &Tensor<Vector<E, N>>,
    keys: &Tensor<Vector<E, N>>,
    values: &Tensor<Vector<E, N>>,
    mixed: &mut Tensor<Vector<E, P>>,
    active: u32,
    room: u32,
    positions: u32,
    heads: u32,
    scale: f32,
    #[comptime] width: usize,
    #[define(E)] _element: ElemType,
) {
    let product = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let steps = comptime!(width / 16);
    let pieces = comptime!(width / PIECE);
    // Rows in shared memory begin in different banks.
    let line = comptime!(width / PIECE + 1);
    let (lane, warp) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let head = CUBE_POS_Y as usize;
    let first = CUBE_POS_X as usize * TILE;
    let mut of_keys =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(TILE * (width / PIECE + 1)), 16usize);
    let mut of_values =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(TILE * (width / PIECE + 1)), 16usize);

    // The cube's queries go to registers through what keys are in afterwards.
    stage::<E, N>(queries, &mut of_keys, head * active as usize, first, active as usize, pieces, line);
    sync_cube();
    let mut of_warp = Sequence::<Array<Vector<E, P>>>::new();
    #[unroll]
    for step in 0..steps {
        let at = (warp * 16 + lane % 16) * line + step * 2 + lane / 16;
        of_warp.push(product.load_matrix::<Vector<E, N>, P>(
            &of_keys[at..at + 1],
            MatrixIdent::A,
            4usize,
            false,
        ));
    }

    let mut sums = Sequence::<Array<Vector<f32, P>>>::new();
    #[unroll]
    for _ in 0..comptime!(2 * steps) {
        sums.push(zeros::<P>());
    }
    // A lane has parts of two rows: that of its quad, and the eighth behind it.
    let mut largest = Array::<f32>::new(2usize);
    let mut total = Array::<f32>::new(2usize);
    #[unroll]
    for row in 0..2usize {
        largest[row] = HIDDEN;
        total[row] = 0.0;
    }
    let tiles = (positions as usize).div_ceil(TILE);
    for tile in 0..tiles {
        let from = tile * TILE;
        sync_cube();
        stage::<E, N>(keys, &mut of_keys, head * room as usize, from, positions as usize, pieces, line);
        stage::<E, N>(values, &mut of_values, head * room as usize, from, positions as usize, pieces, line);
        sync_cube();

        let mut scores = Sequence::<Array<Vector<f32, P>>>::new();
        #[unroll]
        for pair in 0..comptime!(TILE / 16) {
            let mut left = zeros::<P>();
            let mut right = zeros::<P>();
            #[unroll]
            for step in 0..steps {
                let row = pair * 16 + lane / 16 * 8 + lane % 8;
                let at = row * line + step * 2 + lane / 8 % 2;
                let both = product.load_matrix::<Vector<E, N>, P>(
                    &of_keys[at..at + 1],
                    MatrixIdent::B,
                    4usize,
                    false,
                );
                let query = of_warp.index(step);
                product.execute_inplace(query, &half::<E, P>(&both, 0usize), &mut left);
                product.execute_inplace(query, &half::<E, P>(&both, 2usize), &mut right);
            }
            scores.push(left);
            scores.push(right);
        }

        #[unroll]
        for row in 0..2usize {
            let mut of_row = largest[row];
            #[unroll]
            for tile_of_eight in 0..comptime!(TILE / 8) {
                let place = from + tile_of_eight * 8 + lane % 4 * 2;
                let mut score = scores.index(tile_of_eight)[row] * Vector::new(scale);
                #[unroll]
                for j in 0..2usize {
                    if place + j >= positions as usize {
                        score.insert(j, HIDDEN);
                    }
                    of_row = max(of_row, score.extract(j));
                }
                scores.index_mut(tile_of_eight)[row] = score;
            }
            of_row = max(of_row, plane_shuffle_xor(of_row, 1u32));
            of_row = max(of_row, plane_shuffle_xor(of_row, 2u32));
            let kept = (largest[row] - of_row).exp();
            largest[row] = of_row;
            let mut more = Vector::<f32, P>::new(0.0);
            #[unroll]
            for tile_of_eight in 0..comptime!(TILE / 8) {
                let weight = (scores.index(tile_of_eight)[row] - Vector::new(of_row)).exp();
                more += weight;
                scores.index_mut(tile_of_eight)[row] = weight;
            }
            total[row] = total[row] * kept + more.vector_sum();
            #[unroll]
            for dimension in 0..comptime!(2 * steps) {
                sums.index_mut(dimension)[row] = sums.index(dimension)[row] * Vector::new(kept);
            }
        }

        #[unroll]
        for sixteen in 0..comptime!(TILE / 16) {
            let mut weights = Array::<Vector<E, P>>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                weights[i] =
                    Vector::cast_from(scores.index(comptime!(2 * sixteen + i / 2))[comptime!(i % 2)]);
            }
            #[unroll]
            for step in 0..steps {
                let row = sixteen * 16 + lane / 8 % 2 * 8 + lane % 8;
                let at = row * line + step * 2 + lane / 16;
                let both = product.load_matrix::<Vector<E, N>, P>(
                    &of_values[at..at + 1],
                    MatrixIdent::B,
                    4usize,
                    true,
                );
                product.execute_inplace(
                    &weights,
                    &half::<E, P>(&both, 0usize),
                    sums.index_mut(comptime!(2 * step)),
                );
                product.execute_inplace(
                    &weights,
                    &half::<E, P>(&both, 2usize),
                    sums.index_mut(comptime!(2 * step + 1)),
                );
            }
        }
    }

    let heads = heads as usize;
    let (sample, head) = (head / heads, head % heads);
    #[unroll]
    for row in 0..2usize {
        let mut of_row = total[row];
        of_row += plane_shuffle_xor(of_row, 1u32);
        of_row += plane_shuffle_xor(of_row, 2u32);
        let share = 1.0 / of_row;
        let query = first + warp * 16 + row * 8 + lane / 4;
        if query < active as usize {
            let to = ((sample * active as usize + query) * heads + head) * comptime!(width / 2) + lane % 4;
            #[unroll]
            for dimension in 0..comptime!(2 * steps) {
                mixed[to + dimension * 4] =
                    Vector::cast_from(sums.index(dimension)[row] * Vector::new(share));
            }
        }
    }
}

/// Rows of a tensor to shared memory, of which those that are not there are zero.
#[cube]
fn stage<E: Float, N: Size>(
    tensor: &Tensor<Vector<E, N>>,
    to: &mut Shared<[Vector<E, N>]>,
    before: usize,
    first: usize,
    rows: usize,
    #[comptime] pieces: usize,
    #[comptime] line: usize,
) {
    let unit = UNIT_POS as usize;
    #[unroll]
    for i in 0..comptime!(TILE * pieces / 128) {
        let index = unit + i * 128;
        let (row, piece) = (index / pieces, index % pieces);
        let mut value = Vector::<E, N>::new(E::from_int(0));
        if first + row < rows {
            value = tensor[(before + first + row) * pieces + piece];
        }
        to[row * line + piece] = value;
    }
}

/// Two of four registers.
#[cube]
fn half<E: Float, P: Size>(all: &Array<Vector<E, P>>, #[comptime] from: usize) -> Array<Vector<E, P>> {
    let mut half = Array::<Vector<E, P>>::new(2usize);
    half[0] = all[from];
    half[1] = all[comptime!(from + 1)];
    half
}

#[cube]
fn zeros<P: Size>() -> Array<Vector<f32, P>> {
    let mut sums = Array::<Vector<f32, P>>::new(2usize);
    sums[0] = Vector::new(0.0);
    sums[1] = Vector::new(0.0);
    sums
}
