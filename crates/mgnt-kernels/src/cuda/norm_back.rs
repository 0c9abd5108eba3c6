use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::columns::{LAST, down, sum_of_columns};
use crate::cuda::dropped::{Dropout, draws, factors};
use crate::cuda::rows::{element, empty, vector};

/// Units of a cube, of which a row takes as many planes as it has vectors for.
const UNITS: u32 = 256;

/// Cubes of a multiprocessor: what one waits for at a barrier another one reads.
const CUBES: usize = 4;

/// What a LayerNorm kept.
pub struct Kept {
    /// `[R, D]`, in `f32`.
    pub normal: CubeTensor,
    /// One over the deviations, `[R, 1]`.
    pub inverse: CubeTensor,
    /// `[3, D]`.
    pub parameters: CubeTensor,
    /// Not read where nothing was dropped.
    pub key: CubeTensor,
    pub dropout: Dropout,
}

/// The gradient of the stream, `[R, D]` in `f32`; of the sums, `[1, R, D]` in type `to`, of which some was dropped; and of the
/// parameters, `[3 D]`, added to `before`, the gradient that they have already.
///
/// A cube goes through rows and adds up as it does the parameters' gradients, so that nothing is read again for that.
pub fn norm_back(gradient: CubeTensor, kept: Kept, to: DType, before: Option<CubeTensor>) -> [CubeTensor; 3] {
    let Kept { normal, inverse, parameters, key, dropout } = kept;
    let [gradient, parameters] = [gradient, parameters].map(into_contiguous);
    let (rows, width) = (normal.meta.shape()[0], normal.meta.shape()[1]);
    let (of_stream, of_sums) =
        (empty([rows, width], DType::F32, &normal), empty([1, rows, width], to, &normal));
    let client = normal.client.clone();
    let size = vector(&client, DType::F32.size(), &[width]);
    let vectors = width / size;
    let hardware = &client.properties().hardware;
    let plane = hardware.plane_size_min;
    let planes = (vectors as u32).div_ceil(plane).min(UNITS / plane);
    let dim = CubeDim::new_2d(planes * plane, UNITS / (planes * plane));
    let at_once = dim.y as usize;
    let limit = LAST.min(CUBES * hardware.num_streaming_multiprocessors.unwrap_or(1) as usize);
    // As even as may be.
    let turns = rows.div_ceil(at_once * limit);
    let cubes = rows.div_ceil(at_once * turns);
    let sums = empty([cubes, 3 * width], DType::F32, &normal);
    // SAFETY: units beyond the last row or vector neither read nor write, and the others stay within their tensors, which have no
    // gaps.
    unsafe {
        norm_back_of_rows::launch_unchecked(
            &client,
            CubeCount::Static(cubes as u32, 1, 1),
            dim,
            size,
            gradient.into_tensor_arg(),
            normal.into_tensor_arg(),
            inverse.into_tensor_arg(),
            parameters.into_tensor_arg(),
            key.into_tensor_arg(),
            of_stream.clone().into_tensor_arg(),
            of_sums.clone().into_tensor_arg(),
            sums.clone().into_tensor_arg(),
            rows as u32,
            turns as u32,
            dropout.site,
            dropout.threshold,
            dropout.of_rest,
            dropout.drops(),
            size,
            width,
            vectors,
            planes as usize,
            plane as usize,
            at_once,
            element(to),
        );
    }
    [of_stream, of_sums, sum_of_columns(sums, 3, width, before)]
}

/// To the stream `(g - mean(g) - normal mean(g normal)) / deviation`, of `g = gradient gamma`.
#[cube(launch_unchecked)]
fn norm_back_of_rows<S: Float, N: Size>(
    gradient: &Tensor<Vector<f32, N>>,
    normal: &Tensor<Vector<f32, N>>,
    inverse: &Tensor<f32>,
    parameters: &Tensor<Vector<f32, N>>,
    key: &Tensor<f32>,
    of_stream: &mut Tensor<Vector<f32, N>>,
    of_sums: &mut Tensor<Vector<S, N>>,
    sums: &mut Tensor<Vector<f32, N>>,
    rows: u32,
    turns: u32,
    site: u32,
    threshold: u32,
    of_rest: f32,
    #[comptime] drops: bool,
    #[comptime] size: usize,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] planes: usize,
    #[comptime] plane: usize,
    #[comptime] at_once: usize,
    #[define(S)] _element: ElemType,
) {
    let unit = UNIT_POS_X as usize;
    let line = UNIT_POS_Y as usize;
    let across = comptime!(planes * plane);
    let each = comptime!(vectors.div_ceil(across));
    let draws = draws(key, site, threshold, of_rest, drops);
    // Of each plane the sums of a row, of two rows in turn: so nobody waits to write the next.
    let mut of_planes = Shared::<[f32]>::new_slice(comptime!(4 * planes * at_once));
    let mut to_bias = Array::<Vector<f32, N>>::new(each);
    let mut to_gamma = Array::<Vector<f32, N>>::new(each);
    let mut to_beta = Array::<Vector<f32, N>>::new(each);
    let mut gradients = Array::<Vector<f32, N>>::new(each);
    let mut normals = Array::<Vector<f32, N>>::new(each);
    let first = CUBE_POS as u32 * comptime!(at_once as u32) + UNIT_POS_Y;
    #[unroll]
    for i in 0..each {
        let zeros = Vector::<f32, N>::new(0.0);
        to_bias[i] = zeros;
        to_gamma[i] = zeros;
        to_beta[i] = zeros;
        let at = unit + i * across;
        let is_there = at < vectors && first < rows;
        gradients[i] = of_row::<N>(gradient, first as usize * vectors + at, is_there);
        normals[i] = of_row::<N>(normal, first as usize * vectors + at, is_there);
    }
    for turn in 0..turns {
        let row = first + turn * CUBE_COUNT as u32 * comptime!(at_once as u32);
        let mut sum = 0.0f32;
        let mut with_normal = 0.0f32;
        #[unroll]
        for i in 0..each {
            let at = unit + i * across;
            if at < vectors {
                let scaled = gradients[i] * parameters[vectors + at];
                sum += scaled.vector_sum();
                with_normal += (scaled * normals[i]).vector_sum();
            }
        }
        sum = plane_sum(sum);
        with_normal = plane_sum(with_normal);
        let turned = (turn % 2) as usize * comptime!(2 * planes * at_once) + line * comptime!(2 * planes);
        if comptime!(planes > 1) && UNIT_POS_PLANE == 0 {
            of_planes[turned + unit / plane * 2] = sum;
            of_planes[turned + unit / plane * 2 + 1] = with_normal;
        }
        // The next row is on its way while units wait for each other.
        let next = row + CUBE_COUNT as u32 * comptime!(at_once as u32);
        let mut next_gradients = Array::<Vector<f32, N>>::new(each);
        let mut next_normals = Array::<Vector<f32, N>>::new(each);
        #[unroll]
        for i in 0..each {
            let at = unit + i * across;
            let is_there = at < vectors && turn + 1 < turns && next < rows;
            next_gradients[i] = of_row::<N>(gradient, next as usize * vectors + at, is_there);
            next_normals[i] = of_row::<N>(normal, next as usize * vectors + at, is_there);
        }
        if comptime!(planes > 1) {
            sync_cube();
            sum = 0.0;
            with_normal = 0.0;
            #[unroll]
            for other in 0..planes {
                sum += of_planes[turned + other * 2];
                with_normal += of_planes[turned + other * 2 + 1];
            }
        }
        let mean = sum / (width as f32);
        let mean_with_normal = with_normal / (width as f32);
        if row < rows {
            let scale = inverse[row as usize];
            #[unroll]
            for i in 0..each {
                let at = unit + i * across;
                if at < vectors {
                    let to = row as usize * vectors + at;
                    let scaled = gradients[i] * parameters[vectors + at];
                    let back = scaled - Vector::new(mean) - normals[i] * Vector::new(mean_with_normal);
                    let back = back * Vector::new(scale);
                    of_stream[to] = back;
                    let mut of_branch = back;
                    if comptime!(drops) {
                        of_branch *= factors::<N>(&draws, row, (at * size) as u32, size);
                    }
                    of_sums[to] = Vector::cast_from(of_branch);
                    to_bias[i] += of_branch;
                    to_gamma[i] += gradients[i] * normals[i];
                    to_beta[i] += gradients[i];
                }
            }
        }
        #[unroll]
        for i in 0..each {
            gradients[i] = next_gradients[i];
            normals[i] = next_normals[i];
        }
    }
    let to = CUBE_POS * comptime!(3 * vectors);
    #[unroll]
    for i in 0..each {
        let at = unit + i * across;
        let of_bias = down::<N>(to_bias[i], across, at_once);
        let of_gamma = down::<N>(to_gamma[i], across, at_once);
        let of_beta = down::<N>(to_beta[i], across, at_once);
        if line == 0 && at < vectors {
            sums[to + at] = of_bias;
            sums[to + vectors + at] = of_gamma;
            sums[to + comptime!(2 * vectors) + at] = of_beta;
        }
    }
}

/// What is there, or nothing.
#[cube]
fn of_row<N: Size>(tensor: &Tensor<Vector<f32, N>>, at: usize, is_there: bool) -> Vector<f32, N> {
    let mut vector = Vector::<f32, N>::new(0.0);
    if is_there {
        vector = tensor[at];
    }
    vector
}
