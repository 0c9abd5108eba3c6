use burn::backend::ops::FloatTensorOps;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::zspace::metadata::Metadata;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::library::{self, Then};
use crate::cuda::rows::empty;

/// [`Kernels::product`](mgnt_model::kernels::Kernels::product), into type `to`.
///
/// Rows, columns and parts are taken as views of what is there: their first number is the tensor's.
pub fn product(x: CubeTensor, weight: CubeTensor, outputs: usize, parts: usize, to: DType) -> CubeTensor {
    let x = into_contiguous(x);
    let (rows, inputs) = (x.meta.shape()[0], x.meta.shape()[1]);
    let each = inputs / parts;
    let out = empty([parts, rows, outputs], to, &x);
    if parts == 1 {
        // Without a batch, for which there are more kernels.
        let x = view(x, [rows, inputs], [inputs, 1]);
        let sums = multiply(x, cut(&weight, inputs, outputs), view(out, [rows, outputs], [outputs, 1]));
        return view(sums, [1, rows, outputs], [rows * outputs, outputs, 1]);
    }
    // Those of a transposed one, too.
    let (of_row, of_column) = (weight.meta.strides()[0], weight.meta.strides()[1]);
    let x = view(x, [parts, rows, each], [each, inputs, 1]);
    let weight = view(weight, [parts, each, outputs], [each * of_row, of_row, of_column]);
    multiply(x, weight, out)
}

/// The same with what is done then, `[R, outputs]` in type `to`: by the library alone.
pub fn by_library(
    x: &CubeTensor,
    weight: &CubeTensor,
    outputs: usize,
    to: DType,
    then: Then<CubeTensor>,
) -> Option<CubeTensor> {
    if !library::is_there() {
        return None;
    }
    let x = into_contiguous(x.clone());
    let (rows, inputs) = (x.meta.shape()[0], x.meta.shape()[1]);
    // The library's bias is of the result's type.
    let then = then.map(|bias| into_contiguous(cast(bias, to)));
    let out = empty([rows, outputs], to, &x);
    library::multiply(&x, &cut(weight, inputs, outputs), &out, then).then_some(out)
}

/// The product of two views, into a third.
pub fn multiply(a: CubeTensor, b: CubeTensor, into: CubeTensor) -> CubeTensor {
    if library::multiply(&a, &b, &into, Then::Nothing) {
        return into;
    }
    let dtype = into.dtype;
    match matmul(a, b, Some(into), MatmulStrategy::default(), dtype) {
        Ok(product) => product,
        // As the backend's own operation does: shapes were right, so it is not the caller's fault.
        Err(error) => panic!("no kernel for a product: {error:?}"),
    }
}

/// The product of two views, added to what a third is.
pub fn multiply_and_add(a: CubeTensor, b: CubeTensor, to: CubeTensor) -> CubeTensor {
    if library::multiply(&a, &b, &to, Then::Added) {
        return to;
    }
    let shape = to.meta.shape();
    let (rows, columns) = (shape[0], shape[1]);
    let product = multiply(a, b, empty([rows, columns], to.dtype, &to));
    CubeBackend::float_add(to, product)
}

/// The first rows and columns of a matrix, which may be a transposed one.
pub fn cut(matrix: &CubeTensor, rows: usize, columns: usize) -> CubeTensor {
    let strides = matrix.meta.strides();
    let strides = [strides[0], strides[1]];
    view(matrix.clone(), [rows, columns], strides)
}

/// The last two dimensions in turn.
pub fn turned(mut tensor: CubeTensor) -> CubeTensor {
    let dimensions = tensor.meta.num_dims();
    tensor.meta.swap(dimensions - 2, dimensions - 1);
    tensor
}

/// Another look at a tensor, from one of its numbers on.
pub fn view_from<const D: usize>(
    mut tensor: CubeTensor,
    first: usize,
    shape: [usize; D],
    strides: [usize; D],
) -> CubeTensor {
    tensor.handle = tensor.handle.offset_start((first * tensor.dtype.size()) as u64);
    view(tensor, shape, strides)
}

/// Another look at a tensor, from its first number on.
pub fn view<const D: usize>(mut tensor: CubeTensor, shape: [usize; D], strides: [usize; D]) -> CubeTensor {
    *tensor.meta = Metadata::new(shape, strides);
    tensor
}
