//! Dropout that is drawn in registers, forth and back, or written for what has no kernel here:
//! [`Dropped`](mgnt_model::kernels::Dropped) says what it is a function of.

use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::tensor::CubeTensor;
use mgnt_model::kernels::Dropped;
use mgnt_model::kernels::philox::{MULTIPLIERS, ROUNDS, WEYL};

use crate::cuda::rows::{by_piece, empty, vector};

/// Which dropout of a pass it is, and what goes.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    pub site: u32,
    /// Numbers go whose words are below this: none where it is zero.
    pub threshold: u32,
    /// What the rest is multiplied by.
    pub of_rest: f32,
}

impl Dropout {
    pub const NONE: Self = Self { site: 0, threshold: 0, of_rest: 1.0 };

    pub fn new(dropped: &Dropped) -> Self {
        let threshold = Dropped::threshold(dropped.share);
        Self { site: dropped.site, threshold, of_rest: (1.0 / (1.0 - dropped.share)) as f32 }
    }

    /// Whether anything goes; else the key is not read, and another tensor stands for it.
    pub fn drops(&self) -> bool {
        self.threshold > 0
    }
}

/// [`Dropped::factors`] `[rows, columns]` of a key.
pub fn all_factors(key: CubeTensor, dropout: Dropout, rows: usize, columns: usize) -> CubeTensor {
    let factors = empty([rows, columns], key.dtype, &key);
    let client = key.client.clone();
    let size = vector(&client, key.dtype.size(), &[columns]);
    let pieces = rows * columns / size;
    let (count, dim) = by_piece(&client, pieces);
    // SAFETY: units beyond the last piece end at once, and the others stay within the tensor, which has no gaps.
    unsafe {
        write_factors::launch_unchecked(
            &client,
            count,
            dim,
            size,
            key.into_tensor_arg(),
            factors.clone().into_tensor_arg(),
            pieces as u32,
            (columns / size) as u32,
            dropout.site,
            dropout.threshold,
            dropout.of_rest,
            size,
        );
    }
    factors
}

#[cube(launch_unchecked)]
fn write_factors<N: Size>(
    key: &Tensor<f32>,
    all: &mut Tensor<Vector<f32, N>>,
    pieces: u32,
    of_row: u32,
    site: u32,
    threshold: u32,
    of_rest: f32,
    #[comptime] size: usize,
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let draws = draws(key, site, threshold, of_rest, true);
    let column = piece % of_row * comptime!(size as u32);
    all[piece as usize] = factors::<N>(&draws, piece / of_row, column, size);
}

/// What a unit knows of it.
#[derive(CubeType, Clone, Copy)]
pub struct Draws {
    first: u32,
    second: u32,
    site: u32,
    threshold: u32,
    of_rest: f32,
}

#[cube]
pub fn draws(key: &Tensor<f32>, site: u32, threshold: u32, of_rest: f32, #[comptime] drops: bool) -> Draws {
    let mut first = 0u32;
    let mut second = 0u32;
    if comptime!(drops) {
        first = u32::reinterpret(key[0]);
        second = u32::reinterpret(key[1]);
    }
    Draws { first, second, site, threshold, of_rest }
}

/// What numbers of a row, from a column on, are multiplied by: nothing, or what makes up for those that go.
#[cube]
pub fn factors<N: Size>(draws: &Draws, row: u32, column: u32, #[comptime] size: usize) -> Vector<f32, N> {
    let mut factors = Vector::<f32, N>::new(0.0);
    #[unroll]
    for four in 0..comptime!(size.div_ceil(4)) {
        // A vector of fewer lies within four.
        let at = column + comptime!(4 * four as u32);
        let staying = staying(draws, row, at / 4) >> (at % 4);
        #[unroll]
        for j in 0..comptime!(size.min(4)) {
            if staying & comptime!(1u32 << j as u32) != 0 {
                factors.insert(comptime!(4 * four + j), draws.of_rest);
            }
        }
    }
    factors
}

/// Which of four numbers stay, a bit each, by the words of their counter: [`philox`](mgnt_model::kernels::philox).
#[cube]
fn staying(draws: &Draws, row: u32, four: u32) -> u32 {
    let mut a = four;
    let mut b = row;
    let mut c = draws.site;
    let mut d = 0u32;
    let mut first = draws.first;
    let mut second = draws.second;
    #[unroll]
    for _ in 0..comptime!(ROUNDS) {
        let high_of_a = a.mul_hi(comptime!(MULTIPLIERS[0]).runtime());
        let high_of_c = c.mul_hi(comptime!(MULTIPLIERS[1]).runtime());
        let low_of_a = a * comptime!(MULTIPLIERS[0]);
        let low_of_c = c * comptime!(MULTIPLIERS[1]);
        a = high_of_c ^ b ^ first;
        b = low_of_c;
        c = high_of_a ^ d ^ second;
        d = low_of_a;
        first += comptime!(WEYL[0]);
        second += comptime!(WEYL[1]);
    }
    let mut bits = 0u32;
    if a >= draws.threshold {
        bits |= 1u32;
    }
    if b >= draws.threshold {
        bits |= 2u32;
    }
    if c >= draws.threshold {
        bits |= 4u32;
    }
    if d >= draws.threshold {
        bits |= 8u32;
    }
    bits
}
