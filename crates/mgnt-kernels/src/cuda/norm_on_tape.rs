use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::norm::centre;
use crate::cuda::rows::{by_row, element, empty, vector};

/// What of a branch is dropped.
pub struct Dropped {
    /// Numbers from 0 to 1; what stands at one below the share goes. Not read where the share is zero.
    pub drawn: CubeTensor,
    /// From 0, below 1.
    pub share: f32,
}

/// Which numbers stay, a bit each.
#[cube]
fn staying<N: Size>(drawn: Vector<f32, N>, share: f32, #[comptime] size: usize) -> u32 {
    let mut bits = 0u32;
    #[unroll]
    for j in 0..size {
        if drawn.extract(j) >= share {
            bits |= comptime!(1u32 << j as u32);
        }
    }
    bits
}

/// What each is multiplied by: nothing, or what makes up for those that go.
#[cube]
fn factors<N: Size>(staying: u32, share: f32, #[comptime] size: usize) -> Vector<f32, N> {
    let mut factors = Vector::<f32, N>::new(0.0);
    #[unroll]
    for j in 0..size {
        if staying & comptime!(1u32 << j as u32) != 0 {
            factors.insert(j, 1.0 / (1.0 - share));
        }
    }
    factors
}

/// Numbers whose last bits say which stay, so that the way back reads nothing else for it: a change of less than 2^-22 of each.
#[cube]
fn marked<N: Size>(numbers: Vector<f32, N>, staying: u32, #[comptime] size: usize) -> Vector<f32, N> {
    let mut marked = numbers;
    #[unroll]
    for j in 0..size {
        let rest = u32::reinterpret(numbers.extract(j)) & 0xffff_fffeu32;
        let bit = (staying >> comptime!(j as u32)) & 1u32;
        marked.insert(j, f32::reinterpret(rest | bit));
    }
    marked
}

/// What each is multiplied by, by its mark.
#[cube]
pub fn by_mark<N: Size>(marked: Vector<f32, N>, share: f32, #[comptime] size: usize) -> Vector<f32, N> {
    let mut staying = 0u32;
    #[unroll]
    for j in 0..size {
        staying |= (u32::reinterpret(marked.extract(j)) & 1u32) << comptime!(j as u32);
    }
    factors::<N>(staying, share, size)
}

/// [`Kernels::normed`](mgnt_model::kernels::Kernels::normed) `[R, D]`, and for its way back the same before it was scaled, marked where
/// something is dropped, and one over the deviations `[R, 1]`.
pub fn norm(
    stream: CubeTensor,
    sums: CubeTensor,
    parameters: CubeTensor,
    dropped: Dropped,
    epsilon: f32,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let [stream, sums, parameters] = [stream, sums, parameters].map(into_contiguous);
    let (rows, width) = (stream.meta.shape()[0], stream.meta.shape()[1]);
    let [normed, normal] = [(); 2].map(|()| empty([rows, width], DType::F32, &stream));
    let inverse = empty([rows, 1], DType::F32, &stream);
    let client = stream.client.clone();
    let Dropped { drawn, share } = dropped;
    let size = vector(&client, stream.dtype.size(), &[width]);
    let (count, dim, plane) = by_row(&client, rows);
    let of_sums = element(sums.dtype);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        norm_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            stream.into_tensor_arg(),
            sums.into_tensor_arg(),
            parameters.into_tensor_arg(),
            into_contiguous(drawn).into_tensor_arg(),
            normed.clone().into_tensor_arg(),
            normal.clone().into_tensor_arg(),
            inverse.clone().into_tensor_arg(),
            rows as u32,
            epsilon,
            share,
            share > 0.0,
            size,
            width,
            width / size,
            plane,
            of_sums,
        );
    }
    (normed, normal, inverse)
}

/// A plane has a row, which its units keep in registers.
#[cube(launch_unchecked)]
fn norm_of_rows<S: Float, N: Size>(
    stream: &Tensor<Vector<f32, N>>,
    sums: &Tensor<Vector<S, N>>,
    parameters: &Tensor<Vector<f32, N>>,
    drawn: &Tensor<Vector<f32, N>>,
    normed: &mut Tensor<Vector<f32, N>>,
    normal: &mut Tensor<Vector<f32, N>>,
    inverse: &mut Tensor<f32>,
    rows: u32,
    epsilon: f32,
    share: f32,
    #[comptime] drops: bool,
    #[comptime] size: usize,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(S)] _element: ElemType,
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let first = row * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let mut held = Array::<Vector<f32, N>>::new(each);
    let mut stay = Array::<u32>::new(each);
    let mut sum = 0.0f32;
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        let mut vector = Vector::<f32, N>::new(0.0);
        if at < vectors {
            let mut branch = Vector::cast_from(sums[first + at]) + parameters[at];
            if comptime!(drops) {
                let bits = staying::<N>(drawn[first + at], share, size);
                branch *= factors::<N>(bits, share, size);
                stay[i] = bits;
            }
            vector = stream[first + at] + branch;
        }
        sum += vector.vector_sum();
        held[i] = vector;
    }
    let scale = centre::<N>(&mut held, plane_sum(sum), unit, epsilon, width, vectors, plane);
    if unit == 0 {
        inverse[row] = scale;
    }
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let vector = held[i] * Vector::new(scale);
            if comptime!(drops) {
                normal[first + at] = marked::<N>(vector, stay[i], size);
            } else {
                normal[first + at] = vector;
            }
            normed[first + at] = vector * parameters[vectors + at] + parameters[2 * vectors + at];
        }
    }
}

/// Of `parameters [3, D]`: what goes back to the stream, `[R, D]` in `f32`, and the same to the sums, `[1, R, D]` in their type, of which
/// a `share` was dropped.
pub fn norm_back(
    gradient: CubeTensor,
    normal: CubeTensor,
    inverse: CubeTensor,
    parameters: CubeTensor,
    share: f32,
    to: DType,
) -> (CubeTensor, CubeTensor) {
    let [gradient, parameters] = [gradient, parameters].map(into_contiguous);
    let (rows, width) = (normal.meta.shape()[0], normal.meta.shape()[1]);
    let (of_stream, of_sums) =
        (empty([rows, width], DType::F32, &normal), empty([1, rows, width], to, &normal));
    let client = normal.client.clone();
    let size = vector(&client, gradient.dtype.size(), &[width]);
    let (count, dim, plane) = by_row(&client, rows);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        norm_back_of_rows::launch_unchecked(
            &client,
            count,
            dim,
            size,
            gradient.into_tensor_arg(),
            normal.into_tensor_arg(),
            inverse.into_tensor_arg(),
            parameters.into_tensor_arg(),
            of_stream.clone().into_tensor_arg(),
            of_sums.clone().into_tensor_arg(),
            rows as u32,
            share,
            share > 0.0,
            size,
            width,
            width / size,
            plane,
            element(to),
        );
    }
    (of_stream, of_sums)
}

/// `(g - mean(g) - normal mean(g normal)) / deviation`, of `g = gradient gamma`.
#[cube(launch_unchecked)]
fn norm_back_of_rows<S: Float, N: Size>(
    gradient: &Tensor<Vector<f32, N>>,
    normal: &Tensor<Vector<f32, N>>,
    inverse: &Tensor<f32>,
    parameters: &Tensor<Vector<f32, N>>,
    of_stream: &mut Tensor<Vector<f32, N>>,
    of_sums: &mut Tensor<Vector<S, N>>,
    rows: u32,
    share: f32,
    #[comptime] drops: bool,
    #[comptime] size: usize,
    #[comptime] width: usize,
    #[comptime] vectors: usize,
    #[comptime] plane: usize,
    #[define(S)] _element: ElemType,
) {
    let row = CUBE_POS * CUBE_DIM_Y as usize + UNIT_POS_Y as usize;
    if row >= rows as usize {
        terminate!();
    }
    let unit = UNIT_POS_X as usize;
    let first = row * vectors;
    let each = comptime!(vectors.div_ceil(plane));
    let mut held = Array::<Vector<f32, N>>::new(each);
    let mut normals = Array::<Vector<f32, N>>::new(each);
    let mut sum = 0.0f32;
    let mut with_normal = 0.0f32;
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        let mut a = Vector::<f32, N>::new(0.0);
        let mut b = Vector::<f32, N>::new(0.0);
        if at < vectors {
            a = gradient[first + at] * parameters[vectors + at];
            b = normal[first + at];
        }
        sum += a.vector_sum();
        with_normal += (a * b).vector_sum();
        held[i] = a;
        normals[i] = b;
    }
    let mean = plane_sum(sum) / (width as f32);
    let mean_with_normal = plane_sum(with_normal) / (width as f32);
    let scale = inverse[row];
    #[unroll]
    for i in 0..each {
        let at = unit + i * plane;
        if at < vectors {
            let back = held[i] - Vector::new(mean) - normals[i] * Vector::new(mean_with_normal);
            let back = back * Vector::new(scale);
            of_stream[first + at] = back;
            let mut of_branch = back;
            if comptime!(drops) {
                of_branch *= by_mark::<N>(normals[i], share, size);
            }
            of_sums[first + at] = Vector::cast_from(of_branch);
        }
    }
}
