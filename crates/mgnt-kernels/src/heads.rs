use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::rows::{by_piece, element, empty, vector};

/// [`Kernels::heads`](mgnt_model::kernels::Kernels::heads). Buffers that nobody else holds are written in place.
pub fn heads(
    sums: CubeTensor,
    bias: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    from: usize,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [keys, values] = [keys, values].map(own);
    let active = sums.meta.shape()[1] / keys.meta.shape()[0];
    let queries = write(sums, bias, &keys, &values, from, active);
    (queries, keys, values)
}

/// The same into new buffers of `room`, of which what nothing is written to is zero, in the type of the sums.
pub fn new_heads(
    sums: CubeTensor,
    bias: CubeTensor,
    samples: usize,
    heads: usize,
    room: usize,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let width = sums.meta.shape()[2] / (3 * heads);
    let buffer = || empty([samples, heads, room, width], sums.dtype, &sums);
    let (keys, values) = (buffer(), buffer());
    let queries = write(sums, bias, &keys, &values, 0, room);
    (queries, keys, values)
}

/// A buffer without gaps that may be written to. Burn gives a copy gaps where it likes rows aligned.
fn own(buffer: CubeTensor) -> CubeTensor {
    into_contiguous(if buffer.can_mut() { buffer } else { buffer.copy() })
}

/// Queries; and keys and values of `span` positions from `from` on, of which those that no sums are for are zero.
fn write(
    sums: CubeTensor,
    bias: CubeTensor,
    keys: &CubeTensor,
    values: &CubeTensor,
    from: usize,
    span: usize,
) -> CubeTensor {
    let (sums, bias) = (into_contiguous(sums), into_contiguous(bias));
    let shape = keys.meta.shape();
    let (batch, heads, room, width) = (shape[0], shape[1], shape[2], shape[3]);
    let active = sums.meta.shape()[1] / batch;
    let queries = empty([batch, heads, active, width], keys.dtype, keys);
    let client = sums.client.clone();
    // Of a bias, which is in f32.
    let size = vector(&client, bias.dtype.size(), &[width]);
    let pieces = batch * span * 3 * heads * width / size;
    let (count, dim) = by_piece(&client, pieces);
    let (of_sums, of_heads) = (element(sums.dtype), element(keys.dtype));
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        to_heads::launch_unchecked(
            &client,
            count,
            dim,
            size,
            sums.into_tensor_arg(),
            bias.into_tensor_arg(),
            queries.clone().into_tensor_arg(),
            keys.clone().into_tensor_arg(),
            values.clone().into_tensor_arg(),
            pieces as u32,
            active as u32,
            span as u32,
            heads as u32,
            (width / size) as u32,
            room as u32,
            from as u32,
            [of_sums, of_heads],
        );
    }
    queries
}

/// Sums of a row are queries, keys and values, each by heads.
#[cube(launch_unchecked)]
fn to_heads<S: Float, E: Float, N: Size>(
    sums: &Tensor<Vector<S, N>>,
    bias: &Tensor<Vector<f32, N>>,
    queries: &mut Tensor<Vector<E, N>>,
    keys: &mut Tensor<Vector<E, N>>,
    values: &mut Tensor<Vector<E, N>>,
    pieces: u32,
    active: u32,
    span: u32,
    heads: u32,
    width: u32,
    room: u32,
    from: u32,
    #[define(S, E)] _elements: [ElemType; 2],
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let columns = 3 * heads * width;
    let (row, column) = (piece / columns, piece % columns);
    let (sample, position) = (row / span, row % span);
    let (head, place) = (column / width, column % width);
    let part = head / heads;
    let of_sample = sample * heads + head % heads;
    let mut sum = Vector::<E, N>::cast_from(Vector::<f32, N>::new(0.0));
    if position < active {
        let at = ((sample * active + position) * columns + column) as usize;
        sum = Vector::cast_from(Vector::<f32, N>::cast_from(sums[at]) + bias[column as usize]);
    }
    if part == 0 {
        if position < active {
            queries[((of_sample * active + position) * width + place) as usize] = sum;
        }
    } else {
        let to = ((of_sample * room + from + position) * width + place) as usize;
        if part == 1 {
            keys[to] = sum;
        } else {
            values[to] = sum;
        }
    }
}

/// What goes back to the sums, `[1, R, 3 W]`, from what goes back to queries `[B, heads, A, head width]` and to keys and values
/// `[B, heads, room, head width]`, of one type.
pub fn from_heads(queries: CubeTensor, keys: CubeTensor, values: CubeTensor) -> CubeTensor {
    let [queries, keys, values] = [queries, keys, values].map(into_contiguous);
    let (shape, room) = (queries.meta.shape().clone(), keys.meta.shape()[2]);
    let (batch, heads, active, width) = (shape[0], shape[1], shape[2], shape[3]);
    let sums = empty([1, batch * active, 3 * heads * width], queries.dtype, &queries);
    let client = sums.client.clone();
    let size = vector(&client, sums.dtype.size(), &[width]);
    let pieces = batch * active * 3 * heads * width / size;
    let (count, dim) = by_piece(&client, pieces);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        gather_heads::launch_unchecked(
            &client,
            count,
            dim,
            size,
            queries.into_tensor_arg(),
            keys.into_tensor_arg(),
            values.into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            pieces as u32,
            active as u32,
            heads as u32,
            (width / size) as u32,
            room as u32,
            element(sums.dtype),
        );
    }
    sums
}

#[cube(launch_unchecked)]
fn gather_heads<E: Float, N: Size>(
    queries: &Tensor<Vector<E, N>>,
    keys: &Tensor<Vector<E, N>>,
    values: &Tensor<Vector<E, N>>,
    sums: &mut Tensor<Vector<E, N>>,
    pieces: u32,
    active: u32,
    heads: u32,
    width: u32,
    room: u32,
    #[define(E)] _element: ElemType,
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let columns = 3 * heads * width;
    let (row, column) = (piece / columns, piece % columns);
    let (sample, position) = (row / active, row % active);
    let (head, place) = (column / width, column % width);
    let part = head / heads;
    let of_sample = sample * heads + head % heads;
    if part == 0 {
        sums[piece as usize] = queries[((of_sample * active + position) * width + place) as usize];
    } else {
        let at = ((of_sample * room + position) * width + place) as usize;
        if part == 1 {
            sums[piece as usize] = keys[at];
        } else {
            sums[piece as usize] = values[at];
        }
    }
}
