use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::zeros;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::library::{self, Then};
use crate::cuda::product::{cut, multiply, multiply_and_add, turned, view, view_from};
use crate::cuda::rows::{empty, own};

/// [`Kernels::dense`](mgnt_model::kernels::Kernels::dense) of `x [R, n]` in the type of `weights`, one or `[3, _, _]`: each product goes
/// into columns of its own.
pub fn dense(x: CubeTensor, weights: &CubeTensor, outputs: usize) -> CubeTensor {
    let x = into_contiguous(x);
    let (rows, inputs) = (x.meta.shape()[0], x.meta.shape()[1]);
    let count = count(weights);
    let sums = empty([1, rows, count * outputs], x.dtype, &x);
    if count > 1 {
        let weights = cut_all(weights, count, inputs, outputs);
        let to = side_by_side(&sums, count);
        if library::multiply(&repeated(&x, count), &weights, &to, Then::Nothing) {
            return sums;
        }
    }
    for index in 0..count {
        multiply(x.clone(), cut_one(weights, index, inputs, outputs), beside(&sums, index, count));
    }
    sums
}

/// The gradient of `x [R, n]` from `gradient [1, R, outputs of each]`, in type `to`, and `before`, which is of that type.
pub fn back_to_input(
    gradient: CubeTensor,
    weights: &CubeTensor,
    inputs: usize,
    to: DType,
    before: Option<CubeTensor>,
) -> CubeTensor {
    let gradient = into_contiguous(gradient);
    let count = count(weights);
    let (rows, outputs) = (gradient.meta.shape()[1], gradient.meta.shape()[2] / count);
    let adds = before.is_some();
    let mut back = before.map_or_else(|| empty([rows, inputs], to, &gradient), own);
    for index in 0..count {
        let part = beside(&gradient, index, count);
        let weight = turned(cut_one(weights, index, inputs, outputs));
        back = match adds || index > 0 {
            true => multiply_and_add(part, weight, back),
            false => multiply(part, weight, back),
        };
    }
    back
}

/// The gradient of one weight or three of `shape` from `x [R, n]` and the gradient, and `before`: whole ones in `f32`, of which
/// nothing but the first n rows and `outputs` columns is not zero.
pub fn back_to_weights(
    x: CubeTensor,
    gradient: CubeTensor,
    shape: &[usize],
    before: Option<CubeTensor>,
) -> CubeTensor {
    let (x, gradient) = (into_contiguous(x), into_contiguous(gradient));
    let count: usize = shape[..shape.len() - 2].iter().product();
    let (inputs, outputs) = (x.meta.shape()[1], gradient.meta.shape()[2] / count);
    let is_whole = shape[shape.len() - 2..] == [inputs, outputs];
    let zeros = || into_contiguous(zeros(x.device.clone(), Shape::from(shape.to_vec()), DType::F32));
    let adds = before.is_some();
    let back = match before {
        Some(before) => own(before),
        None if is_whole => unwritten(shape, &x),
        None => zeros(),
    };
    let of_all = (turned(repeated(&x, count)), side_by_side(&gradient, count));
    let then = if adds { Then::Added } else { Then::Nothing };
    if library::multiply(&of_all.0, &of_all.1, &cut_all(&back, count, inputs, outputs), then) {
        return back;
    }
    let product = if adds { zeros() } else { back.clone() };
    for index in 0..count {
        let (x, gradient) = (turned(x.clone()), beside(&gradient, index, count));
        multiply(x, gradient, cut_one(&product, index, inputs, outputs));
    }
    if adds { CubeBackend::float_add(back, product) } else { back }
}

/// A buffer that is written all over.
fn unwritten(shape: &[usize], like: &CubeTensor) -> CubeTensor {
    match *shape {
        [count, rows, columns] => empty([count, rows, columns], DType::F32, like),
        _ => empty([shape[0], shape[1]], DType::F32, like),
    }
}

/// How many weights there are.
fn count(weights: &CubeTensor) -> usize {
    let shape = weights.meta.shape();
    shape[..shape.num_dims() - 2].iter().product()
}

/// The first rows and columns of one of the weights.
fn cut_one(weights: &CubeTensor, index: usize, rows: usize, columns: usize) -> CubeTensor {
    if weights.meta.num_dims() == 2 {
        return cut(weights, rows, columns);
    }
    let strides = weights.meta.strides();
    let (of_weight, strides) = (strides[0], [strides[1], strides[2]]);
    view_from(weights.clone(), index * of_weight, [rows, columns], strides)
}

/// The first rows and columns of every weight, as a batch where there are several.
fn cut_all(weights: &CubeTensor, count: usize, rows: usize, columns: usize) -> CubeTensor {
    if weights.meta.num_dims() == 2 {
        return cut(weights, rows, columns);
    }
    let strides = weights.meta.strides();
    let strides = [strides[0], strides[1], strides[2]];
    view(weights.clone(), [count, rows, columns], strides)
}

/// The same rows for each of some products.
fn repeated(x: &CubeTensor, count: usize) -> CubeTensor {
    let (rows, inputs) = (x.meta.shape()[0], x.meta.shape()[1]);
    if count == 1 {
        return x.clone();
    }
    view(x.clone(), [count, rows, inputs], [0, inputs, 1])
}

/// `[1, R, count outputs]` as the columns of each product.
fn side_by_side(sums: &CubeTensor, count: usize) -> CubeTensor {
    let (rows, all) = (sums.meta.shape()[1], sums.meta.shape()[2]);
    if count == 1 {
        return view(sums.clone(), [rows, all], [all, 1]);
    }
    view(sums.clone(), [count, rows, all / count], [all / count, all, 1])
}

/// The columns of one of them.
fn beside(sums: &CubeTensor, index: usize, count: usize) -> CubeTensor {
    let (rows, all) = (sums.meta.shape()[1], sums.meta.shape()[2]);
    let each = all / count;
    view_from(sums.clone(), index * each, [rows, each], [all, 1])
}
