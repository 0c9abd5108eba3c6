use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::norm_on_tape::{Dropped, kept};
use crate::cuda::product::view;
use crate::cuda::rows::{by_piece, element, empty, own, vector};

/// Rows that a unit adds up.
const ROWS: usize = 64;

/// Rows of sums of which a unit adds up a column's at the end.
const LAST: usize = 1024;

/// Sums over the rows of `x [.., N C]` without gaps, `f32`, those of each C columns with zeros behind them, `[N whole]`; added to `before`,
/// if there is that.
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
    let (count, dim) = by_piece(&client, pieces);
    let of = element(sums.dtype);
    // SAFETY: units beyond the last piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        add_last::launch_unchecked(
            &client,
            count,
            dim,
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

/// A unit has a column of what comes out, or a zero behind them.
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
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let (part, place) = (piece / span, piece % span);
    let at = (part * whole + place) as usize;
    let mut sum = Vector::<f32, N>::new(0.0);
    if place < each {
        for row in 0..rows {
            sum += Vector::cast_from(sums[(row * columns + part * each + place) as usize]);
        }
    }
    if comptime!(adds) {
        sum += out[at];
    }
    out[at] = sum;
}

/// Sums over the rows of what is left of `x`, of `y z`, and of `y`, all `[R, C]` of `f32` without gaps: `[3 C]`, added to `before`, if there
/// is that.
pub fn sums_of_norm(
    x: CubeTensor,
    y: CubeTensor,
    z: CubeTensor,
    dropped: Dropped,
    before: Option<CubeTensor>,
) -> CubeTensor {
    let (rows, columns) = (x.meta.shape()[0], x.meta.shape()[1]);
    let chunks = rows.div_ceil(ROWS);
    let out = empty([chunks, 3 * columns], DType::F32, &x);
    let client = x.client.clone();
    let size = vector(&client, out.dtype.size(), &[columns]);
    let pieces = chunks * columns / size;
    let (count, dim) = by_piece(&client, pieces);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        add_rows_of_norm::launch_unchecked(
            &client,
            count,
            dim,
            size,
            x.into_tensor_arg(),
            y.into_tensor_arg(),
            z.into_tensor_arg(),
            into_contiguous(dropped.drawn).into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
            rows as u32,
            (columns / size) as u32,
            dropped.share,
            dropped.share > 0.0,
            size,
        );
    }
    sum_of_columns(out, 3, columns, before)
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
    let pieces = chunks * columns / size;
    let (count, dim) = by_piece(&client, pieces);
    let of = element(x.dtype);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        add_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            x.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
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
    pieces: u32,
    rows: u32,
    columns: u32,
    #[define(A)] _element: ElemType,
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let (chunk, column) = (piece / columns, piece % columns);
    let first = chunk * ROWS as u32;
    let last = min(first + ROWS as u32, rows);
    let mut sum = Vector::<f32, N>::new(0.0);
    for row in first..last {
        sum += Vector::cast_from(x[(row * columns + column) as usize]);
    }
    out[piece as usize] = sum;
}

#[cube(launch_unchecked)]
fn add_rows_of_norm<N: Size>(
    x: &Tensor<Vector<f32, N>>,
    y: &Tensor<Vector<f32, N>>,
    z: &Tensor<Vector<f32, N>>,
    drawn: &Tensor<Vector<f32, N>>,
    out: &mut Tensor<Vector<f32, N>>,
    pieces: u32,
    rows: u32,
    columns: u32,
    share: f32,
    #[comptime] drops: bool,
    #[comptime] size: usize,
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let (chunk, column) = (piece / columns, piece % columns);
    let first = chunk * ROWS as u32;
    let last = min(first + ROWS as u32, rows);
    let mut of_x = Vector::<f32, N>::new(0.0);
    let mut of_products = Vector::<f32, N>::new(0.0);
    let mut of_y = Vector::<f32, N>::new(0.0);
    for row in first..last {
        let at = (row * columns + column) as usize;
        let mut left = x[at];
        if comptime!(drops) {
            left *= kept::<N>(drawn[at], share, size);
        }
        of_x += left;
        of_products += y[at] * z[at];
        of_y += y[at];
    }
    let to = (3 * chunk * columns + column) as usize;
    out[to] = of_x;
    out[to + columns as usize] = of_products;
    out[to + 2 * columns as usize] = of_y;
}
