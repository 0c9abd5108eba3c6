//! What the kernels have in common: tensors without gaps, vectors, and a plane for each row.

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::calculate_cube_count_elemwise;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

/// Planes of a cube.
pub const PLANES: u32 = 4;

/// A tensor without gaps, not written yet, beside another.
pub fn empty<const D: usize>(shape: [usize; D], dtype: DType, like: &CubeTensor) -> CubeTensor {
    empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), Shape::from(shape), dtype)
}

/// A tensor without gaps that may be written to. Burn gives a copy gaps where it likes rows aligned.
pub fn own(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(if tensor.can_mut() { tensor } else { tensor.copy() })
}

/// The largest vector of elements of `bytes` that divides all of these lengths.
pub fn vector(client: &Client, bytes: usize, lengths: &[usize]) -> usize {
    let divides = |size: &usize| lengths.iter().all(|length| length.is_multiple_of(*size));
    client.io_optimized_vector_sizes(bytes).filter(divides).max().unwrap_or(1)
}

/// The vector of elements of `bytes` with which the units of a plane have the least of a row of so many to do: a large one is one
/// access, and leaves more of them idle in the last.
pub fn vector_of_row(client: &Client, bytes: usize, length: usize, plane: usize) -> usize {
    let sizes = client.io_optimized_vector_sizes(bytes);
    let fitting = sizes.filter(|&size| length.is_multiple_of(size) && size >= 4);
    fitting.min_by_key(|size| ((length / size).div_ceil(plane) * size, usize::MAX - size)).unwrap_or(1)
}

/// A launch of one unit for each of `count` pieces of work.
pub fn by_piece(client: &Client, count: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(client, count);
    (calculate_cube_count_elemwise(client, count, dim), dim)
}

/// A launch of one plane for each of `count` rows: its units are those of one x, and planes lie along y.
pub fn by_row(client: &Client, count: usize) -> (CubeCount, CubeDim, usize) {
    let plane = client.properties().hardware.plane_size_min;
    let dim = CubeDim::new_2d(plane, PLANES);
    (calculate_cube_count_elemwise(client, count * plane as usize, dim), dim, plane as usize)
}

/// Whether a row has such a vector: where a plane's units have equally many, nothing is asked, and no reading waits for another.
#[cube]
pub fn is_in_row(at: usize, #[comptime] vectors: usize, #[comptime] plane: usize) -> bool {
    comptime!(vectors.is_multiple_of(plane)) || at < vectors
}

/// The largest of what the units of a plane have.
#[cube]
pub fn largest_of_plane<N: Size>(largest: Vector<f32, N>, #[comptime] size: usize) -> f32 {
    let mut of_unit = largest.extract(0usize);
    #[unroll]
    for j in 1..size {
        of_unit = max(of_unit, largest.extract(j));
    }
    plane_max(of_unit)
}

/// A type as kernels name it.
pub fn element(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}
