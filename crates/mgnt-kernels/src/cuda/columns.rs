use std::array::from_fn;

use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::norm_on_tape::{Dropped, kept};
use crate::cuda::product::{view, view_from};
use crate::cuda::rows::{by_piece, element, empty, vector};

/// Rows that a unit adds up.
const ROWS: usize = 64;

/// Sums over the rows of `x [.., N C]` without gaps, `f32`, those of each C columns with zeros behind them: `[whole]`.
pub fn sum_of_columns<const N: usize>(x: CubeTensor, whole: usize) -> [CubeTensor; N] {
    let sums = add_up(x);
    let each = sums.meta.shape()[0] / N;
    let sums = if each == whole { sums } else { spread(sums, each, whole, N) };
    from_fn(|part| view_from(sums.clone(), part * whole, [whole], [1]))
}

/// `parts` of `each` numbers, each with zeros behind it.
fn spread(sums: CubeTensor, each: usize, whole: usize, parts: usize) -> CubeTensor {
    let out = empty([parts * whole], sums.dtype, &sums);
    let client = sums.client.clone();
    let size = vector(&client, sums.dtype.size(), &[each, whole]);
    let pieces = parts * whole / size;
    let (count, dim) = by_piece(&client, pieces);
    // SAFETY: units beyond the last piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        spread_out::launch_unchecked(
            &client,
            count,
            dim,
            size,
            sums.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
            (each / size) as u32,
            (whole / size) as u32,
        );
    }
    out
}

#[cube(launch_unchecked)]
fn spread_out<N: Size>(
    sums: &Tensor<Vector<f32, N>>,
    out: &mut Tensor<Vector<f32, N>>,
    pieces: u32,
    each: u32,
    whole: u32,
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let (part, place) = (piece / whole, piece % whole);
    let mut sum = Vector::<f32, N>::new(0.0);
    if place < each {
        sum = sums[(part * each + place) as usize];
    }
    out[piece as usize] = sum;
}

/// Sums over the rows of `x`, `x y` and what is left of `z`, all `[R, C]` of `f32` without gaps: `[C]` each.
pub fn sums_of_norm(x: CubeTensor, y: CubeTensor, z: CubeTensor, dropped: Dropped) -> [CubeTensor; 3] {
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
    sum_of_columns(out, columns)
}

/// First so many rows by each unit, then what they found.
fn add_up(x: CubeTensor) -> CubeTensor {
    let shape = x.meta.shape();
    let columns = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / columns;
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
    if chunks > 1 {
        return add_up(out);
    }
    view(out, [columns], [1])
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
    let mut of_z = Vector::<f32, N>::new(0.0);
    for row in first..last {
        let at = (row * columns + column) as usize;
        of_x += x[at];
        of_products += x[at] * y[at];
        let mut left = z[at];
        if comptime!(drops) {
            left *= kept::<N>(drawn[at], share, size);
        }
        of_z += left;
    }
    let to = (3 * chunk * columns + column) as usize;
    out[to] = of_x;
    out[to + columns as usize] = of_products;
    out[to + 2 * columns as usize] = of_z;
}
