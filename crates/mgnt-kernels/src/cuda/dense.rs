use std::array::from_fn;

use burn::tensor::DType;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::zeros;
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::product::{cut, multiply, multiply_and_add, turned, view_from};
use crate::cuda::rows::empty;

/// [`Kernels::dense`](mgnt_model::kernels::Kernels::dense) of `x [R, n]` in the type of the weights: each product goes into
/// columns of its own.
pub fn dense(x: CubeTensor, weights: &[CubeTensor], outputs: usize) -> CubeTensor {
    let x = into_contiguous(x);
    let (rows, inputs) = (x.meta.shape()[0], x.meta.shape()[1]);
    let all = weights.len() * outputs;
    let sums = empty([1, rows, all], x.dtype, &x);
    for (index, weight) in weights.iter().enumerate() {
        let part = view_from(sums.clone(), index * outputs, [rows, outputs], [all, 1]);
        multiply(x.clone(), cut(weight, inputs, outputs), part);
    }
    sums
}

/// What goes back to `x [R, n]` from `gradient [1, R, outputs of each]`, in type `to`.
pub fn back_to_input(gradient: CubeTensor, weights: &[CubeTensor], inputs: usize, to: DType) -> CubeTensor {
    let gradient = into_contiguous(gradient);
    let (rows, outputs) = (gradient.meta.shape()[1], gradient.meta.shape()[2] / weights.len());
    let mut back = empty([rows, inputs], to, &gradient);
    for (index, weight) in weights.iter().enumerate() {
        let (part, weight) = (part(&gradient, index, outputs), turned(cut(weight, inputs, outputs)));
        back = if index == 0 { multiply(part, weight, back) } else { multiply_and_add(part, weight, back) };
    }
    back
}

/// What goes back to each of N weights of `shape` from `x [R, n]` and the gradient: whole ones, of which nothing but the
/// first n rows and `outputs` columns is not zero.
pub fn back_to_weights<const N: usize>(
    x: CubeTensor,
    gradient: CubeTensor,
    shape: [usize; 2],
) -> [CubeTensor; N] {
    let (x, gradient) = (into_contiguous(x), into_contiguous(gradient));
    let (inputs, outputs) = (x.meta.shape()[1], gradient.meta.shape()[2] / N);
    from_fn(|index| {
        let back = if shape == [inputs, outputs] {
            empty(shape, x.dtype, &x)
        } else {
            zeros(x.device.clone(), shape.into(), x.dtype)
        };
        multiply(turned(x.clone()), part(&gradient, index, outputs), cut(&back, inputs, outputs));
        back
    })
}

/// Columns of a gradient, of one weight.
fn part(gradient: &CubeTensor, index: usize, outputs: usize) -> CubeTensor {
    let (rows, all) = (gradient.meta.shape()[1], gradient.meta.shape()[2]);
    view_from(gradient.clone(), index * outputs, [rows, outputs], [all, 1])
}
