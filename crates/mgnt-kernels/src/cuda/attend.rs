use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::dropped::{Dropout, draws, factors};
use crate::cuda::flash;
use crate::cuda::heads::{Turned, from_heads, turn_heads};
use crate::cuda::library;
use crate::cuda::product::{multiply, turned, view};
use crate::cuda::rows::{by_row, element, empty, largest_of_plane, own, vector_of_row};

/// What takes a score's place beyond the positions: no exponential leaves anything of it.
pub const HIDDEN: f32 = -1e30;

/// [`Kernels::attend`](mgnt_model::kernels::Kernels::attend): at once, or a product, a softmax in its place, and a product
/// that leaves heads side by side.
pub fn attend(queries: CubeTensor, keys: CubeTensor, values: CubeTensor, positions: usize) -> CubeTensor {
    if let Some(mixed) = flash::attend(&queries, &keys, &values, positions) {
        return mixed;
    }
    let [weights, _] = weigh(queries, keys, positions, None);
    mix(weights, into_contiguous(values))
}

/// Some of attention's weights go, by a key.
pub type Drops = Option<(CubeTensor, Dropout)>;

/// Weights `[B, heads, A, room]` of the first `positions`, and what dropout leaves of them; those of the others are zero.
pub fn weigh(queries: CubeTensor, keys: CubeTensor, positions: usize, dropped: Drops) -> [CubeTensor; 2] {
    let [queries, keys] = [queries, keys].map(into_contiguous);
    let (of_queries, room) = (queries.meta.shape().clone(), keys.meta.shape()[2]);
    let (batch, heads, active, width) = (of_queries[0], of_queries[1], of_queries[2], of_queries[3]);
    let scores = empty([batch, heads, active, room], queries.dtype, &queries);
    let scores = multiply(queries, turned(keys), scores);
    let kept = softmax(&scores, positions, (width as f32).powf(-0.5), dropped);
    [scores, kept]
}

/// `[R, heads * head width]` of weights and values.
pub fn mix(weights: CubeTensor, values: CubeTensor) -> CubeTensor {
    let (shape, width) = (weights.meta.shape().clone(), values.meta.shape()[3]);
    let (batch, heads, active) = (shape[0], shape[1], shape[2]);
    if library::is_there() {
        // Its batches are one stride apart.
        let apart = empty([batch, heads, active, width], values.dtype, &values);
        return turn_heads(multiply(weights, values, apart), batch, heads, Turned::SideBySide);
    }
    let mixed = empty([batch * active, heads * width], values.dtype, &values);
    multiply(weights, values, by_head(mixed.clone(), batch, heads));
    mixed
}

/// `[R, heads * head width]` as `[B, heads, A, head width]`.
pub fn by_head(rows: CubeTensor, batch: usize, heads: usize) -> CubeTensor {
    let (active, all) = (rows.meta.shape()[0] / batch, rows.meta.shape()[1]);
    let width = all / heads;
    view(rows, [batch, heads, active, width], [active * all, width, all, 1])
}

/// Softmax of the first `positions` of each row of scores, times `scale`, in their place; the rest becomes zero. Gives what
/// dropout leaves of it.
fn softmax(scores: &CubeTensor, positions: usize, scale: f32, dropped: Drops) -> CubeTensor {
    let shape = scores.meta.shape();
    let (rows, room) = (shape[0] * shape[1] * shape[2], shape[3]);
    let client = &scores.client;
    let (count, dim, plane) = by_row(client, rows);
    let size = vector_of_row(client, scores.dtype.size(), room, plane);
    let vectors = room / size;
    let kept = match dropped {
        Some(_) => empty([shape[0], shape[1], shape[2], room], scores.dtype, scores),
        None => scores.clone(),
    };
    // Another tensor stands for a key that is not there, and is not read.
    let (key, dropout) = dropped.unwrap_or_else(|| (scores.clone(), Dropout::NONE));
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        softmax_of_rows::launch_unchecked(
            client,
            count,
            dim,
            size,
            scores.clone().into_tensor_arg(),
            key.into_tensor_arg(),
            kept.clone().into_tensor_arg(),
            rows as u32,
            positions as u32,
            scale,
            dropout.site,
            dropout.threshold,
            dropout.of_rest,
            dropout.drops(),
            size,
            vectors,
            plane,
            element(scores.dtype),
        );
    }
    kept
}

/// A plane has a row, and its units every so many-th vector of it, in registers from the first reading to the last writing.
#[cube(launch_unchecked)]
fn softmax_of_rows<E: Float, N: Size>(
    scores: &mut Tensor<Vector<E, N>>,
    key: &Tensor<f32>,
    kept: &mut Tensor<Vector<E, N>>,
    rows: u32,
    positions: u32,
    scale: f32,
    site: u32,
    threshold: u32,
    of_rest: f32,
    #[comptime] drops: bool,
    #[comptime] size: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(E)] _element: ElemType,
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let first = row * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let mut held = Array::<Vector<f32, N>>::new(each);
    let mut largest = Vector::<f32, N>::new(HIDDEN);
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        let mut vector = Vector::<f32, N>::new(HIDDEN);
        if at < vectors {
            vector = Vector::<f32, N>::cast_from(scores[first + at]) * Vector::new(scale);
        }
        // Of a row, this is so for the last vectors alone.
        if ((at + 1) * size) as u32 > positions {
            #[unroll]
            for j in 0..size {
                if (at * size + j) as u32 >= positions {
                    vector.insert(j, HIDDEN);
                }
            }
        }
        largest = max(largest, vector);
        held[i] = vector;
    }
    let largest = largest_of_plane::<N>(largest, size);
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..each {
        let vector = (held[i] - Vector::new(largest)).exp();
        sum += vector.vector_sum();
        held[i] = vector;
    }
    let share = 1.0 / plane_sum(sum);
    let draws = draws(key, site, threshold, of_rest, drops);
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let weight = Vector::<E, N>::cast_from(held[i] * Vector::new(share));
            scores[first + at] = weight;
            if comptime!(drops) {
                let factors = factors::<N>(&draws, row as u32, (at * size) as u32, size);
                kept[first + at] = Vector::cast_from(Vector::<f32, N>::cast_from(weight) * factors);
            }
        }
    }
}

/// Gradients of queries, keys and values from `gradient [R, heads * head width]`: as
/// [`from_heads`], to their sums.
pub fn attend_back(
    gradient: CubeTensor,
    [queries, keys, values]: [CubeTensor; 3],
    weights: CubeTensor,
    dropped: Drops,
) -> CubeTensor {
    let (shape, room) = (queries.meta.shape().clone(), keys.meta.shape()[2]);
    let (batch, heads, active, width) = (shape[0], shape[1], shape[2], shape[3]);
    let dtype = queries.dtype;
    let gradient = match library::is_there() {
        true => turn_heads(gradient, batch, heads, Turned::Apart),
        false => by_head(into_contiguous(gradient), batch, heads),
    };
    let of_context = || empty([batch, heads, room, width], dtype, &queries);
    let of_weights = empty([batch, heads, active, room], dtype, &queries);
    let scores = multiply(gradient.clone(), turned(values), of_weights);
    let kept = softmax_back(&scores, weights, dropped, (width as f32).powf(-0.5));
    let of_values = multiply(turned(kept), gradient, of_context());
    let of_queries = empty([batch, heads, active, width], dtype, &queries);
    let of_queries = multiply(scores.clone(), keys, of_queries);
    let of_keys = multiply(turned(scores), queries.clone(), of_context());
    from_heads(of_queries, of_keys, of_values)
}

/// The gradient of scores, in the place of that of their weights. Gives what dropout leaves of the weights, in their place too.
fn softmax_back(gradient: &CubeTensor, weights: CubeTensor, dropped: Drops, scale: f32) -> CubeTensor {
    let shape = gradient.meta.shape();
    let (rows, room) = (shape[0] * shape[1] * shape[2], shape[3]);
    let client = &gradient.client;
    let (count, dim, plane) = by_row(client, rows);
    let size = vector_of_row(client, gradient.dtype.size(), room, plane);
    let weights = if dropped.is_some() { own(weights) } else { weights };
    // Another tensor stands for a key that is not there, and is not read.
    let (key, dropout) = dropped.unwrap_or_else(|| (gradient.clone(), Dropout::NONE));
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        softmax_back_of_rows::launch_unchecked(
            client,
            count,
            dim,
            size,
            gradient.clone().into_tensor_arg(),
            weights.clone().into_tensor_arg(),
            key.into_tensor_arg(),
            rows as u32,
            scale,
            dropout.site,
            dropout.threshold,
            dropout.of_rest,
            dropout.drops(),
            size,
            room / size,
            plane,
            element(gradient.dtype),
        );
    }
    weights
}

/// `weights (gradient - sum(weights gradient)) scale`, of what dropout lets through of a gradient.
#[cube(launch_unchecked)]
fn softmax_back_of_rows<E: Float, N: Size>(
    gradient: &mut Tensor<Vector<E, N>>,
    weights: &mut Tensor<Vector<E, N>>,
    key: &Tensor<f32>,
    rows: u32,
    scale: f32,
    site: u32,
    threshold: u32,
    of_rest: f32,
    #[comptime] drops: bool,
    #[comptime] size: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(E)] _element: ElemType,
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let first = row * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let mut of_weights = Array::<Vector<f32, N>>::new(each);
    let mut weight = Array::<Vector<f32, N>>::new(each);
    let draws = draws(key, site, threshold, of_rest, drops);
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        let mut a = Vector::<f32, N>::new(0.0);
        let mut b = Vector::<f32, N>::new(0.0);
        if at < vectors {
            a = Vector::cast_from(gradient[first + at]);
            b = Vector::cast_from(weights[first + at]);
            if comptime!(drops) {
                let factors = factors::<N>(&draws, row as u32, (at * size) as u32, size);
                a *= factors;
                // What it was before is in registers.
                weights[first + at] = Vector::cast_from(b * factors);
            }
        }
        sum += (a * b).vector_sum();
        of_weights[i] = a;
        weight[i] = b;
    }
    let sum = plane_sum(sum);
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let back = weight[i] * (of_weights[i] - Vector::new(sum)) * Vector::new(scale);
            gradient[first + at] = Vector::cast_from(back);
        }
    }
}
