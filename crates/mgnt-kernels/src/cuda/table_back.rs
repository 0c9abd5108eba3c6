//! Gradients of what was picked from rows. Burn adds up such a gradient by one unit a column, row after row: of an embedding that
//! is tens of thousands of readings that wait for each other.

use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::zeros_client;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::columns::down;
use crate::cuda::product::view;
use crate::cuda::rows::{by_piece, element, empty, vector};

/// Units of a cube side by side, each with a vector of columns: a plane, which looks at as many numbers at once.
const ACROSS: u32 = 32;

/// Planes of a cube, each with every so many-th such group of numbers.
const DOWN: u32 = 16;

/// The sums `[count, D]` of those rows of `gradient [R, D]` whose `numbers [R]` are each row's, all of `f32`. In any run the same, since a
/// row's summands have their order.
pub fn sum_of_rows(gradient: CubeTensor, numbers: CubeTensor, count: usize) -> CubeTensor {
    let [gradient, numbers] = [gradient, numbers].map(into_contiguous);
    let (rows, width) = (gradient.meta.shape()[0], gradient.meta.shape()[1]);
    let out = empty([count, width], DType::F32, &gradient);
    let client = gradient.client.clone();
    let size = vector(&client, DType::F32.size(), &[width]);
    let vectors = width / size;
    let of_numbers = element(numbers.dtype);
    // SAFETY: units beyond the last column neither read nor write, and the others stay within their tensors, which have no gaps.
    unsafe {
        sum_by_number::launch_unchecked(
            &client,
            CubeCount::Static(count as u32, vectors.div_ceil(ACROSS as usize) as u32, 1),
            CubeDim::new_2d(ACROSS, DOWN),
            size,
            gradient.into_tensor_arg(),
            numbers.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            rows as u32,
            vectors as u32,
            of_numbers,
        );
    }
    out
}

/// A cube has a row of what comes out, or some of its columns: most often it finds few rows for it, and for the mask token most of all.
#[cube(launch_unchecked)]
fn sum_by_number<I: Int, N: Size>(
    gradient: &Tensor<Vector<f32, N>>,
    numbers: &Tensor<I>,
    out: &mut Tensor<Vector<f32, N>>,
    rows: u32,
    vectors: u32,
    #[define(I)] _element: ElemType,
) {
    let column = CUBE_POS_Y * ACROSS + UNIT_POS_X;
    let read = min(column, vectors - 1);
    let number = CUBE_POS_X;
    let mut sum = Vector::<f32, N>::new(0.0);
    for turn in 0..rows.div_ceil(comptime!(ACROSS * DOWN)) {
        let first = (turn * DOWN + UNIT_POS_Y) * ACROSS;
        // Without a branch: all units of the plane have their say.
        let row = first + UNIT_POS_X;
        let is_one = u32::cast_from(numbers[min(row, rows - 1) as usize]) == number;
        let mut found = plane_ballot(is_one & (row < rows)).extract(0usize);
        while found != 0 {
            let row = first + found.find_first_set() - 1;
            found &= found - 1;
            sum += gradient[(row * vectors + read) as usize];
        }
    }
    let sum = down::<N>(sum, comptime!(ACROSS as usize), comptime!(DOWN as usize));
    if UNIT_POS_Y == 0 && column < vectors {
        out[(number * vectors + column) as usize] = sum;
    }
}

/// `[count, D]` with the rows of `gradient [M, D]` at `places [M]`, no two alike, and zeros elsewhere.
pub fn put_rows(gradient: CubeTensor, places: CubeTensor, count: usize) -> CubeTensor {
    let [gradient, places] = [gradient, places].map(into_contiguous);
    let (rows, width) = (gradient.meta.shape()[0], gradient.meta.shape()[1]);
    let client = gradient.client.clone();
    // Burn gives zeros of two dimensions gaps where it likes rows aligned.
    let zeros = zeros_client(client.clone(), gradient.device.clone(), [count * width].into(), gradient.dtype);
    let out = view(zeros, [count, width], [width, 1]);
    let size = vector(&client, gradient.dtype.size(), &[width]);
    let vectors = width / size;
    let (cubes, dim) = by_piece(&client, rows * vectors);
    let elements = [gradient.dtype, places.dtype].map(element);
    // SAFETY: units beyond the last piece end at once, and the others stay within their tensors, which have no gaps, as long as the
    // places are below the count; no two write to one place.
    unsafe {
        put::launch_unchecked(
            &client,
            cubes,
            dim,
            size,
            gradient.into_tensor_arg(),
            places.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            (rows * vectors) as u32,
            vectors as u32,
            elements,
        );
    }
    out
}

#[cube(launch_unchecked)]
fn put<E: Float, I: Int, N: Size>(
    gradient: &Tensor<Vector<E, N>>,
    places: &Tensor<I>,
    out: &mut Tensor<Vector<E, N>>,
    pieces: u32,
    vectors: u32,
    #[define(E, I)] _elements: [ElemType; 2],
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let place = u32::cast_from(places[(piece / vectors) as usize]);
    out[(place * vectors + piece % vectors) as usize] = gradient[piece as usize];
}
