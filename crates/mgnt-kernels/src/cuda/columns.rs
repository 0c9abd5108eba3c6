use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::product::view;
use crate::cuda::rows::{element, empty, own, vector};

/// Rows that a cube adds up.
const ROWS: usize = 64;

/// Units of a cube side by side, each with a vector of columns.
const ACROSS: u32 = 32;

/// And one below the other, each with every so many-th row: many short sums keep more of memory on its way than few long ones.
const DOWN: u32 = 8;

/// Rows of sums of which a cube adds up columns at the end.
pub const LAST: usize = 512;

/// As [`ACROSS`] and [`DOWN`], at the end: there are few columns beside many rows.
const ACROSS_LAST: u32 = 8;
const DOWN_LAST: u32 = 32;

/// Sums over the rows of `x [.., N C]` without gaps, in `f32`. Each of the N `parts` of C columns is filled up with zeros to
/// `whole`, one behind the other: `[N whole]`. Added to `before`, if it is there.
pub fn sum_of_columns(x: CubeTensor, parts: usize, whole: usize, before: Option<CubeTensor>) -> CubeTensor {
    let sums = add_up(x);
    let (rows, columns) = (sums.meta.shape()[0], sums.meta.shape()[1]);
    let (each, adds) = (columns / parts, before.is_some());
    let out = match before {
        Some(before) => own(before),
        None => empty([parts * whole], DType::F32, &sums),
    };
    let client = sums.client.clone();
    let size = vector(&client, sums.dtype.size(), &[each, whole]);
    let span = if adds { each } else { whole };
    let pieces = parts * span / size;
    let of = element(sums.dtype);
    // SAFETY: units beyond the last piece neither read nor write, and the others stay within their tensors, which have no gaps.
    unsafe {
        add_last::launch_unchecked(
            &client,
            CubeCount::Static(pieces.div_ceil(ACROSS_LAST as usize) as u32, 1, 1),
            CubeDim::new_2d(ACROSS_LAST, DOWN_LAST),
            size,
            sums.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
            rows as u32,
            (columns / size) as u32,
            (each / size) as u32,
            (whole / size) as u32,
            (span / size) as u32,
            adds,
            of,
        );
    }
    out
}

/// Sums of the units below each other, in the first of them.
#[cube]
pub fn down<N: Size>(
    sums: Vector<f32, N>,
    #[comptime] across: usize,
    #[comptime] lines: usize,
) -> Vector<f32, N> {
    let mut sum = sums;
    if comptime!(lines > 1) {
        let unit = UNIT_POS_X as usize;
        let mut all = Shared::<[Vector<f32, N>]>::new_slice(comptime!(across * lines));
        all[UNIT_POS_Y as usize * across + unit] = sums;
        sync_cube();
        if UNIT_POS_Y == 0 {
            #[unroll]
            for line in 1..lines {
                sum += all[line * across + unit];
            }
        }
    }
    sum
}

/// Units below each other have a column of what comes out, or a zero behind them.
#[cube(launch_unchecked)]
fn add_last<A: Float, N: Size>(
    sums: &Tensor<Vector<A, N>>,
    out: &mut Tensor<Vector<f32, N>>,
    pieces: u32,
    rows: u32,
    columns: u32,
    each: u32,
    whole: u32,
    span: u32,
    #[comptime] adds: bool,
    #[define(A)] _element: ElemType,
) {
    let piece = CUBE_POS_X * ACROSS_LAST + UNIT_POS_X;
    let (part, place) = (piece / span, piece % span);
    let mut sum = Vector::<f32, N>::new(0.0);
    if piece < pieces && place < each {
        for turn in 0..rows.div_ceil(DOWN_LAST) {
            let row = turn * DOWN_LAST + UNIT_POS_Y;
            if row < rows {
                sum += Vector::cast_from(sums[(row * columns + part * each + place) as usize]);
            }
        }
    }
    let mut sum = down::<N>(sum, comptime!(ACROSS_LAST as usize), comptime!(DOWN_LAST as usize));
    if UNIT_POS_Y == 0 && piece < pieces {
        let at = (part * whole + place) as usize;
        if comptime!(adds) {
            sum += out[at];
        }
        out[at] = sum;
    }
}

/// As few rows of sums `[_, N C]` as a unit adds up at the end: so many at first, then of what was found.
fn add_up(x: CubeTensor) -> CubeTensor {
    let shape = x.meta.shape();
    let columns = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / columns;
    if rows <= ROWS || (rows <= LAST && x.dtype == DType::F32) {
        return view(x, [rows, columns], [columns, 1]);
    }
    let chunks = rows.div_ceil(ROWS);
    let out = empty([chunks, columns], DType::F32, &x);
    let client = x.client.clone();
    let size = vector(&client, out.dtype.size(), &[columns]);
    let of = element(x.dtype);
    // SAFETY: units beyond the last row or column neither read nor write, and the others stay within their tensors, which have no
    // gaps.
    unsafe {
        add_rows::launch_unchecked(
            &client,
            CubeCount::Static(chunks as u32, (columns / size).div_ceil(ACROSS as usize) as u32, 1),
            CubeDim::new_2d(ACROSS, DOWN),
            size,
            x.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            rows as u32,
            (columns / size) as u32,
            of,
        );
    }
    add_up(out)
}

#[cube(launch_unchecked)]
fn add_rows<A: Float, N: Size>(
    x: &Tensor<Vector<A, N>>,
    out: &mut Tensor<Vector<f32, N>>,
    rows: u32,
    columns: u32,
    #[define(A)] _element: ElemType,
) {
    // Along x there may be more cubes than along y, and rows are what may be many.
    let column = CUBE_POS_Y * ACROSS + UNIT_POS_X;
    let first = CUBE_POS_X * ROWS as u32 + UNIT_POS_Y;
    let mut sum = Vector::<f32, N>::new(0.0);
    #[unroll]
    for turn in 0..comptime!(ROWS as u32 / DOWN) {
        let row = first + turn * DOWN;
        if row < rows && column < columns {
            sum += Vector::cast_from(x[(row * columns + column) as usize]);
        }
    }
    let sum = down::<N>(sum, comptime!(ACROSS as usize), comptime!(DOWN as usize));
    if UNIT_POS_Y == 0 && column < columns {
        out[(CUBE_POS_X * columns + column) as usize] = sum;
    }
}
