use std::array::from_fn;

use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::product::view_from;
use crate::cuda::rows::{by_piece, element, empty, vector};

/// Three tensors of one shape and type, one behind the other, in type `to`.
pub fn stack(parameters: [CubeTensor; 3], to: DType) -> CubeTensor {
    let [first, second, third] = parameters.map(into_contiguous);
    let shape = first.meta.shape().to_vec();
    let count: usize = shape.iter().product();
    let out = match shape[..] {
        [rows, columns] => empty([3, rows, columns], to, &first),
        _ => empty([3, count], to, &first),
    };
    let client = first.client.clone();
    let size = vector(&client, first.dtype.size(), &[count]);
    let pieces = 3 * count / size;
    let (cubes, dim) = by_piece(&client, pieces);
    let of = [first.dtype, to].map(element);
    // SAFETY: units beyond the last piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        stack_three::launch_unchecked(
            &client,
            cubes,
            dim,
            size,
            first.into_tensor_arg(),
            second.into_tensor_arg(),
            third.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
            (count / size) as u32,
            of,
        );
    }
    out
}

#[cube(launch_unchecked)]
fn stack_three<S: Float, E: Float, N: Size>(
    first: &Tensor<Vector<S, N>>,
    second: &Tensor<Vector<S, N>>,
    third: &Tensor<Vector<S, N>>,
    out: &mut Tensor<Vector<E, N>>,
    pieces: u32,
    each: u32,
    #[define(S, E)] _elements: [ElemType; 2],
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let (part, place) = (piece / each, (piece % each) as usize);
    if part == 0 {
        out[piece as usize] = Vector::cast_from(first[place]);
    } else if part == 1 {
        out[piece as usize] = Vector::cast_from(second[place]);
    } else {
        out[piece as usize] = Vector::cast_from(third[place]);
    }
}

/// The three parts of `whole [3, ..]`, which are views of it.
pub fn parts(whole: CubeTensor) -> [CubeTensor; 3] {
    let whole = into_contiguous(whole);
    let shape = whole.meta.shape().to_vec();
    let count: usize = shape[1..].iter().product();
    from_fn(|index| match shape[1..] {
        [rows, columns] => view_from(whole.clone(), index * count, [rows, columns], [columns, 1]),
        _ => view_from(whole.clone(), index * count, [count], [1]),
    })
}
