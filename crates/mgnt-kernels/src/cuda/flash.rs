//! Attention without scores in memory, as Dao has it ("FlashAttention-2", 2023): four warps have sixteen queries each, and go
//! through keys and values in shared memory, sixty-four at a time. Scores are in registers, where the places of a
//! result are those that the next product's first operand has (PTX ISA, `mma.m16n8k16`).

use std::f32::consts::LOG2_E;

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
/// Lanes of a cube.
const UNITS: usize = (WARPS * LANES) as usize;
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
    if !takes(queries) {
        return None;
    }
    let active = queries.meta.shape()[2];
    let [queries, keys, values] = [queries, keys, values].map(|tensor| into_contiguous(tensor.clone()));
    Some(launch(queries, &keys, &values, Context { active, length: positions, keep: positions }, false))
}

/// The same of queries, keys and values as a product leaves them, `sums [R, 3 W]` with the biases in, behind `length` positions of
/// buffers `[B, heads, room, head width]`, into which the first `keep` of the context are written that are not there. Buffers must be
/// [ones it takes](takes).
pub fn attend_to_sums(
    sums: CubeTensor,
    keys: &CubeTensor,
    values: &CubeTensor,
    length: usize,
    keep: usize,
) -> CubeTensor {
    let active = sums.meta.shape()[0] / keys.meta.shape()[0];
    launch(sums, keys, values, Context { active, length, keep }, true)
}

/// Positions that queries attend to.
struct Context {
    /// Queries.
    active: usize,
    /// Positions that are in the buffers.
    length: usize,
    /// Positions that are to be there.
    keep: usize,
}

fn launch(
    fresh: CubeTensor,
    keys: &CubeTensor,
    values: &CubeTensor,
    of: Context,
    joined: bool,
) -> CubeTensor {
    let Context { active, length, keep } = of;
    let shape = keys.meta.shape();
    let (batch, heads, room, width) = (shape[0], shape[1], shape[2], shape[3]);
    let positions = if joined { length + active } else { length };
    let mixed = empty([batch * active, heads * width], keys.dtype, &fresh);
    let client = fresh.client.clone();
    let count = CubeCount::Static(active.div_ceil(TILE) as u32, (batch * heads) as u32, 1);
    // SAFETY: what is beyond queries and keys is neither read nor written, tensors have no gaps, and of buffers that are read and
    // written no number is both.
    unsafe {
        attend_in_tiles::launch_unchecked(
            &client,
            count,
            CubeDim::new_2d(LANES, WARPS),
            PIECE,
            2,
            fresh.into_tensor_arg(),
            keys.clone().into_tensor_arg(),
            values.clone().into_tensor_arg(),
            keys.clone().into_tensor_arg(),
            values.clone().into_tensor_arg(),
            mixed.clone().into_tensor_arg(),
            active as u32,
            room as u32,
            positions as u32,
            heads as u32,
            length as u32,
            keep as u32,
            (width as f32).powf(-0.5) * LOG2_E,
            joined,
            width,
            element(keys.dtype),
        );
    }
    mixed
}

/// Whether the device multiplies such heads as they are multiplied here, of `[B, heads, _, head width]`.
pub fn takes(tensor: &CubeTensor) -> bool {
    let (shape, properties) = (tensor.meta.shape(), tensor.client.properties());
    let of = element(tensor.dtype);
    let product = MmaConfig { a_type: of, b_type: of, cd_type: element(DType::F32), m: 16, n: 8, k: 16 };
    let matmul = &properties.features.matmul;
    [DType::F16, DType::BF16].contains(&tensor.dtype)
        && matmul.mma.contains(&product)
        && matmul.ldmatrix.contains(&of)
        && properties.hardware.plane_size_min == LANES
        && properties.hardware.plane_size_max == LANES
        && shape[3].is_multiple_of(2 * PIECE)
        && shape[3] <= WIDEST
        && shape[0] * shape[1] <= MOST_HEADS
}

/// `fresh` has queries by heads, and buffers hold all positions; or it has sums, queries, keys and values of a row side by side, and
/// buffers hold what is before those.
#[cube(launch_unchecked)]
fn attend_in_tiles<E: Float, N: Size, P: Size>(
    fresh: &Tensor<Vector<E, N>>,
    keys: &Tensor<Vector<E, N>>,
    values: &Tensor<Vector<E, N>>,
    kept_keys: &mut Tensor<Vector<E, N>>,
    kept_values: &mut Tensor<Vector<E, N>>,
    mixed: &mut Tensor<Vector<E, P>>,
    active: u32,
    room: u32,
    positions: u32,
    heads: u32,
    length: u32,
    keep: u32,
    scale: f32,
    #[comptime] joined: bool,
    #[comptime] width: usize,
    #[define(E)] _element: ElemType,
) {
    let product = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let steps = comptime!(width / 16);
    let pieces = comptime!(width / PIECE);
    // Rows in shared memory begin in different banks.
    let line = comptime!(width / PIECE + 1);
    let (lane, warp) = (UNIT_POS_X as usize, UNIT_POS_Y as usize);
    let (active, positions, heads) = (active as usize, positions as usize, heads as usize);
    let (length, keep) = (length as usize, keep as usize);
    let of_all = CUBE_POS_Y as usize;
    let (sample, head) = (of_all / heads, of_all % heads);
    let first = CUBE_POS_X as usize * TILE;
    let mut of_keys =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(TILE * (width / PIECE + 1)), 16usize);
    let mut of_values =
        Shared::<[Vector<E, N>]>::new_aligned_slice(comptime!(TILE * (width / PIECE + 1)), 16usize);

    // The first row of this head in what is fresh, how far rows are apart there, and its first row in the buffers.
    let mut apart = 1usize;
    let mut row = of_all * active;
    if comptime!(joined) {
        apart = 3 * heads;
        row = sample * active * apart + head;
    }
    let in_buffers = of_all * room as usize;
    // All of a sample's cubes read the same keys; one writes those that stay.
    let writes = CUBE_POS_X == 0;

    // The cube's queries go to registers through what keys are in afterwards.
    let each = comptime!(TILE * pieces / UNITS);
    let mut of_queries = Array::<Vector<E, N>>::new(each);
    rows_of::<E, N>(fresh, &mut of_queries, row, apart, first, active, pieces);
    stage::<E, N>(&of_queries, &mut of_keys, pieces, line);
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
    // A warp without queries loads and stores with the others.
    let has_queries = first + warp * 16 < active;
    let whole = positions / TILE;
    for tile in 0..positions.div_ceil(TILE) {
        let from = tile * TILE;
        let mut new_keys = Array::<Vector<E, N>>::new(each);
        let mut new_values = Array::<Vector<E, N>>::new(each);
        let (at, at_values) = (row + heads, row + 2 * heads);
        if comptime!(!joined) || from + TILE <= length {
            rows_of::<E, N>(keys, &mut new_keys, in_buffers, 1usize, from, positions, pieces);
            rows_of::<E, N>(values, &mut new_values, in_buffers, 1usize, from, positions, pieces);
        } else if from >= length {
            let from = from - length;
            rows_of::<E, N>(fresh, &mut new_keys, at, apart, from, active, pieces);
            rows_of::<E, N>(fresh, &mut new_values, at_values, apart, from, active, pieces);
        } else {
            context::<E, N>(
                keys,
                fresh,
                &mut new_keys,
                in_buffers,
                at,
                apart,
                from,
                length,
                positions,
                pieces,
            );
            context::<E, N>(
                values,
                fresh,
                &mut new_values,
                in_buffers,
                at_values,
                apart,
                from,
                length,
                positions,
                pieces,
            );
        }
        sync_cube();
        stage::<E, N>(&new_keys, &mut of_keys, pieces, line);
        stage::<E, N>(&new_values, &mut of_values, pieces, line);
        if comptime!(joined) && writes && from + TILE > length && from < keep {
            leave::<E, N>(&new_keys, kept_keys, in_buffers, from, length, keep, pieces);
            leave::<E, N>(&new_values, kept_values, in_buffers, from, length, keep, pieces);
        }
        sync_cube();
        if has_queries {
            if tile < whole {
                through::<E, N, P>(
                    &of_keys,
                    &of_values,
                    &of_warp,
                    &mut sums,
                    &mut largest,
                    &mut total,
                    TILE,
                    scale,
                    false,
                    steps,
                    line,
                );
            } else {
                through::<E, N, P>(
                    &of_keys,
                    &of_values,
                    &of_warp,
                    &mut sums,
                    &mut largest,
                    &mut total,
                    positions - from,
                    scale,
                    true,
                    steps,
                    line,
                );
            }
        }
    }

    #[unroll]
    for row in 0..2usize {
        let mut of_row = total[row];
        of_row += plane_shuffle_xor(of_row, 1u32);
        of_row += plane_shuffle_xor(of_row, 2u32);
        let share = 1.0 / of_row;
        let query = first + warp * 16 + row * 8 + lane / 4;
        if query < active {
            let to = ((sample * active + query) * heads + head) * comptime!(width / 2) + lane % 4;
            #[unroll]
            for dimension in 0..comptime!(2 * steps) {
                mixed[to + dimension * 4] =
                    Vector::cast_from(sums.index(dimension)[row] * Vector::new(share));
            }
        }
    }
}

/// A warp's queries go through the tile of keys and values in shared memory, of which the first `there` count where it is the
/// `last`.
#[cube]
fn through<E: Float, N: Size, P: Size>(
    of_keys: &Shared<[Vector<E, N>]>,
    of_values: &Shared<[Vector<E, N>]>,
    of_warp: &Sequence<Array<Vector<E, P>>>,
    sums: &mut Sequence<Array<Vector<f32, P>>>,
    largest: &mut Array<f32>,
    total: &mut Array<f32>,
    there: usize,
    scale: f32,
    #[comptime] last: bool,
    #[comptime] steps: usize,
    #[comptime] line: usize,
) {
    let product = MmaDefinition::<E, E, f32>::new(16usize, 8usize, 16usize);
    let lane = UNIT_POS_X as usize;
    let mut scores = Sequence::<Array<Vector<f32, P>>>::new();
    #[unroll]
    for pair in 0..comptime!(TILE / 16) {
        let mut left = zeros::<P>();
        let mut right = zeros::<P>();
        if comptime!(!last) || pair * 16 < there {
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
        }
        scores.push(left);
        scores.push(right);
    }
    if comptime!(last) {
        #[unroll]
        for tile_of_eight in 0..comptime!(TILE / 8) {
            let place = tile_of_eight * 8 + lane % 4 * 2;
            #[unroll]
            for row in 0..2usize {
                let mut score = scores.index(tile_of_eight)[row];
                #[unroll]
                for j in 0..2usize {
                    if place + j >= there {
                        score.insert(j, HIDDEN);
                    }
                }
                scores.index_mut(tile_of_eight)[row] = score;
            }
        }
    }

    #[unroll]
    for row in 0..2usize {
        let mut of_row = largest[row];
        #[unroll]
        for tile_of_eight in 0..comptime!(TILE / 8) {
            let score = scores.index(tile_of_eight)[row];
            of_row = max(of_row, max(score.extract(0usize), score.extract(1usize)));
        }
        of_row = max(of_row, plane_shuffle_xor(of_row, 1u32));
        of_row = max(of_row, plane_shuffle_xor(of_row, 2u32));
        let kept = power_of_two((largest[row] - of_row) * scale);
        largest[row] = of_row;
        let mut more = Vector::<f32, P>::new(0.0);
        #[unroll]
        for tile_of_eight in 0..comptime!(TILE / 8) {
            let power = scores.index(tile_of_eight)[row] * Vector::new(scale) - Vector::new(of_row * scale);
            let mut weight = Vector::<f32, P>::new(0.0);
            #[unroll]
            for j in 0..2usize {
                weight.insert(j, power_of_two(power.extract(j)));
            }
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
        if comptime!(!last) || sixteen * 16 < there {
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
}

/// Two to the power of it, within 2^-22 (PTX ISA, `ex2`): CubeCL's exponential is C's, which takes nine instructions.
#[cube]
fn power_of_two(power: f32) -> f32 {
    let raised: f32;
    gpu_asm!(
        "ex2.approx.ftz.f32 {raised}, {power};",
        raised = out(_) raised,
        power = in(_) power,
        options(pure, nomem),
    );
    raised
}

/// What a unit has of a tile's rows, `apart` from each other, from `before` on. The last of `rows` stands for those beyond, whose
/// scores are hidden: finite numbers do, and no row is waited for before the next is asked for.
#[cube]
fn rows_of<E: Float, N: Size>(
    tensor: &Tensor<Vector<E, N>>,
    held: &mut Array<Vector<E, N>>,
    before: usize,
    apart: usize,
    first: usize,
    rows: usize,
    #[comptime] pieces: usize,
) {
    #[unroll]
    for i in 0..comptime!(TILE * pieces / UNITS) {
        let index = UNIT_POS as usize + i * UNITS;
        let (row, piece) = (min(first + index / pieces, rows - 1), index % pieces);
        held[i] = tensor[(before + row * apart) * pieces + piece];
    }
}

/// The same of a context: `length` rows of a buffer, and then those that are fresh.
#[cube]
#[allow(clippy::too_many_arguments, reason = "places in two tensors")]
fn context<E: Float, N: Size>(
    buffer: &Tensor<Vector<E, N>>,
    fresh: &Tensor<Vector<E, N>>,
    held: &mut Array<Vector<E, N>>,
    in_buffer: usize,
    in_fresh: usize,
    apart: usize,
    first: usize,
    length: usize,
    rows: usize,
    #[comptime] pieces: usize,
) {
    #[unroll]
    for i in 0..comptime!(TILE * pieces / UNITS) {
        let index = UNIT_POS as usize + i * UNITS;
        let (row, piece) = (min(first + index / pieces, rows - 1), index % pieces);
        if row < length {
            held[i] = buffer[(in_buffer + row) * pieces + piece];
        } else {
            held[i] = fresh[(in_fresh + (row - length) * apart) * pieces + piece];
        }
    }
}

/// Into shared memory.
#[cube]
fn stage<E: Float, N: Size>(
    held: &Array<Vector<E, N>>,
    to: &mut Shared<[Vector<E, N>]>,
    #[comptime] pieces: usize,
    #[comptime] line: usize,
) {
    #[unroll]
    for i in 0..comptime!(TILE * pieces / UNITS) {
        let index = UNIT_POS as usize + i * UNITS;
        to[index / pieces * line + index % pieces] = held[i];
    }
}

/// Into a buffer, those of the first `keep` rows that were not there.
#[cube]
fn leave<E: Float, N: Size>(
    held: &Array<Vector<E, N>>,
    buffer: &mut Tensor<Vector<E, N>>,
    in_buffer: usize,
    first: usize,
    length: usize,
    keep: usize,
    #[comptime] pieces: usize,
) {
    #[unroll]
    for i in 0..comptime!(TILE * pieces / UNITS) {
        let index = UNIT_POS as usize + i * UNITS;
        let row = first + index / pieces;
        if row >= length && row < keep {
            buffer[(in_buffer + row) * pieces + index % pieces] = held[i];
        }
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
