use std::array::from_fn;

use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::attend::attend;
use crate::cuda::flash;
use crate::cuda::library::Then;
use crate::cuda::product::{by_library, product, view, view_from};
use crate::cuda::rows::{by_piece, element, empty, own, vector};

/// [`Kernels::heads`](mgnt_model::kernels::Kernels::heads). Buffers that nobody else holds are written in place.
pub fn heads(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    from: usize,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [keys, values] = [keys, values].map(own);
    let (rows, outputs) = (x.meta.shape()[0], 3 * keys.meta.shape()[1] * keys.meta.shape()[3]);
    let span = keys.meta.shape()[2] - from;
    let (sums, biases) = match by_library(&x, &weight, outputs, keys.dtype, Then::Bias(bias.clone())) {
        Some(sums) => (view(sums, [1, rows, outputs], [rows * outputs, outputs, 1]), None),
        None => {
            let (bias, each) = (into_contiguous(bias), outputs / 3);
            let biases = from_fn(|part| view_from(bias.clone(), part * each, [each], [1]));
            (product(x, weight, outputs, 1, DType::F32), Some(biases))
        }
    };
    let queries = write(sums, biases, &keys, &values, from, span);
    (queries, keys, values)
}

/// [`Kernels::attend_anew`](mgnt_model::kernels::Kernels::attend_anew): where the library adds biases to sums of halves, attention
/// takes those as they are, and nothing is written but what is kept.
pub fn attend_anew(
    x: CubeTensor,
    weight: CubeTensor,
    bias: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    from: usize,
    keep: usize,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let (shape, rows) = (keys.meta.shape(), x.meta.shape()[0]);
    let (active, outputs) = (rows / shape[0], 3 * shape[1] * shape[3]);
    if flash::takes(&keys)
        && let Some(sums) = by_library(&x, &weight, outputs, keys.dtype, Then::Bias(bias.clone()))
    {
        // What is only read may be somebody else's, too.
        let [keys, values] = [keys, values].map(if keep > from { own } else { into_contiguous });
        let mixed = flash::attend_to_sums(sums, &keys, &values, from, keep);
        return (mixed, keys, values);
    }
    let (queries, keys, values) = heads(x, weight, bias, keys, values, from);
    (attend(queries, keys.clone(), values.clone(), from + active), keys, values)
}

/// The same into new buffers of `room`, of which what nothing is written to is zero, in the type of the sums, of the first of each of
/// `biases [3, _]`.
pub fn new_heads(
    sums: CubeTensor,
    biases: CubeTensor,
    samples: usize,
    heads: usize,
    room: usize,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let width = sums.meta.shape()[2] / (3 * heads);
    let buffer = || empty([samples, heads, room, width], sums.dtype, &sums);
    let (keys, values) = (buffer(), buffer());
    let (biases, each) = (into_contiguous(biases), heads * width);
    let whole = biases.meta.shape()[1];
    let biases = from_fn(|part| view_from(biases.clone(), part * whole, [each], [1]));
    let queries = write(sums, Some(biases), &keys, &values, 0, room);
    (queries, keys, values)
}

/// Queries; and keys and values of `span` positions from `from` on, of which those that no sums are for are zero.
fn write(
    sums: CubeTensor,
    biases: Option<[CubeTensor; 3]>,
    keys: &CubeTensor,
    values: &CubeTensor,
    from: usize,
    span: usize,
) -> CubeTensor {
    let sums = into_contiguous(sums);
    let has_bias = biases.is_some();
    // Another tensor stands for biases that are not there, and is not read.
    let biases = biases.unwrap_or_else(|| from_fn(|_| sums.clone()));
    let [of_queries, of_keys, of_values] = biases.map(into_contiguous);
    let shape = keys.meta.shape();
    let (batch, heads, room, width) = (shape[0], shape[1], shape[2], shape[3]);
    let active = sums.meta.shape()[1] / batch;
    let queries = empty([batch, heads, active, width], keys.dtype, keys);
    let client = sums.client.clone();
    let size = vector(&client, of_queries.dtype.size(), &[width]);
    let pieces = batch * span * 3 * heads * width / size;
    let (count, dim) = by_piece(&client, pieces);
    let [of_sums, of_bias, of_heads] = [sums.dtype, of_queries.dtype, keys.dtype].map(element);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        to_heads::launch_unchecked(
            &client,
            count,
            dim,
            size,
            sums.into_tensor_arg(),
            of_queries.into_tensor_arg(),
            of_keys.into_tensor_arg(),
            of_values.into_tensor_arg(),
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
            has_bias,
            [of_sums, of_bias, of_heads],
        );
    }
    queries
}

/// Sums of a row are queries, keys and values, each by heads.
#[cube(launch_unchecked)]
fn to_heads<S: Float, B: Float, E: Float, N: Size>(
    sums: &Tensor<Vector<S, N>>,
    of_queries: &Tensor<Vector<B, N>>,
    of_keys: &Tensor<Vector<B, N>>,
    of_values: &Tensor<Vector<B, N>>,
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
    #[comptime] has_bias: bool,
    #[define(S, B, E)] _elements: [ElemType; 3],
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
        let mut full = Vector::<f32, N>::cast_from(sums[at]);
        if comptime!(has_bias) {
            let column = (column - part * heads * width) as usize;
            if part == 0 {
                full += Vector::cast_from(of_queries[column]);
            } else if part == 1 {
                full += Vector::cast_from(of_keys[column]);
            } else {
                full += Vector::cast_from(of_values[column]);
            }
        }
        sum = Vector::cast_from(full);
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

/// `[B, heads, A, head width]` as `[R, heads * head width]`, or back.
pub fn turn_heads(tensor: CubeTensor, samples: usize, heads: usize, to: Turned) -> CubeTensor {
    let tensor = into_contiguous(tensor);
    let count: usize = tensor.meta.shape().iter().product();
    let width = match to {
        Turned::SideBySide => tensor.meta.shape()[3],
        Turned::Apart => tensor.meta.shape()[1] / heads,
    };
    let active = count / (samples * heads * width);
    let out = match to {
        Turned::SideBySide => empty([samples * active, heads * width], tensor.dtype, &tensor),
        Turned::Apart => empty([samples, heads, active, width], tensor.dtype, &tensor),
    };
    let client = tensor.client.clone();
    let size = vector(&client, tensor.dtype.size(), &[width]);
    let pieces = count / size;
    let (cubes, dim) = by_piece(&client, pieces);
    let of = element(tensor.dtype);
    // SAFETY: units beyond the last piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        turn::launch_unchecked(
            &client,
            cubes,
            dim,
            size,
            tensor.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
            active as u32,
            heads as u32,
            (width / size) as u32,
            to == Turned::SideBySide,
            of,
        );
    }
    out
}

/// How heads lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// Those of a row one after the other.
    SideBySide,
    /// Each with its rows.
    Apart,
}

/// A unit has a piece of what is apart.
#[cube(launch_unchecked)]
fn turn<E: Float, N: Size>(
    tensor: &Tensor<Vector<E, N>>,
    out: &mut Tensor<Vector<E, N>>,
    pieces: u32,
    active: u32,
    heads: u32,
    width: u32,
    #[comptime] is_side_by_side: bool,
    #[define(E)] _element: ElemType,
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let (row, place) = (piece / width, piece % width);
    let (head, position) = (row / active, row % active);
    let (sample, head) = (head / heads, head % heads);
    let beside = ((sample * active + position) * heads + head) * width + place;
    if comptime!(is_side_by_side) {
        out[beside as usize] = tensor[piece as usize];
    } else {
        out[piece as usize] = tensor[beside as usize];
    }
}

/// The gradient of the sums, `[1, R, 3 W]`, from those of queries `[B, heads, A, head width]` and of keys and values
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
