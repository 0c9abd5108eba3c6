use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::tensor::DType;
use burn_cubecl::cubecl::prelude::*;
use burn_cubecl::cubecl::{self};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;

use crate::cuda::library::Then;
use crate::cuda::product::{by_library, product};
use crate::cuda::rows::{by_piece, element, empty, vector};

/// [`Kernels::gelu`](mgnt_model::kernels::Kernels::gelu).
pub fn gelu(x: CubeTensor, weight: CubeTensor, bias: CubeTensor, outputs: usize, to: DType) -> CubeTensor {
    match by_library(&x, &weight, outputs, to, Then::Gelu(bias.clone())) {
        Some(hidden) => hidden,
        None => {
            let bias = cast(bias, DType::F32);
            of_sums(product(x, weight, outputs, 1, DType::F32), bias, to)
        }
    }
}

/// Of sums of any type, with a bias of `f32`.
pub fn of_sums(sums: CubeTensor, bias: CubeTensor, to: DType) -> CubeTensor {
    let (sums, bias) = (into_contiguous(sums), into_contiguous(bias));
    let (rows, outputs) = (sums.meta.shape()[1], sums.meta.shape()[2]);
    let out = empty([rows, outputs], to, &sums);
    let client = sums.client.clone();
    let size = vector(&client, bias.dtype.size(), &[outputs]);
    let pieces = rows * outputs / size;
    let (count, dim) = by_piece(&client, pieces);
    let elements = [element(sums.dtype), element(to)];
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        add_and_gelu::launch_unchecked(
            &client,
            count,
            dim,
            size,
            sums.into_tensor_arg(),
            bias.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
            (outputs / size) as u32,
            elements,
        );
    }
    out
}

/// The gradient of the sums `[1, R, F]` from `gradient [R, F]`, in the type of the sums.
pub fn gelu_back(gradient: CubeTensor, sums: CubeTensor, bias: CubeTensor) -> CubeTensor {
    let [gradient, sums, bias] = [gradient, sums, bias].map(into_contiguous);
    let (rows, outputs) = (sums.meta.shape()[1], sums.meta.shape()[2]);
    let out = empty([1, rows, outputs], sums.dtype, &sums);
    let client = sums.client.clone();
    let size = vector(&client, bias.dtype.size(), &[outputs]);
    let pieces = rows * outputs / size;
    let (count, dim) = by_piece(&client, pieces);
    let of_sums = element(sums.dtype);
    // SAFETY: units beyond the last row or piece end at once, and the others stay within their tensors, which have no gaps.
    unsafe {
        gelu_back_of::launch_unchecked(
            &client,
            count,
            dim,
            size,
            gradient.into_tensor_arg(),
            sums.into_tensor_arg(),
            bias.into_tensor_arg(),
            out.clone().into_tensor_arg(),
            pieces as u32,
            (outputs / size) as u32,
            of_sums,
        );
    }
    out
}

/// `sqrt(2/pi)` twice, and what the cube counts for beside it.
const TWICE_SQRT_2_OVER_PI: f32 = 2.0 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2;
const CUBIC: f32 = 0.044_715;
/// Beyond this exponent a quotient is zero to the precision of `f32`.
const LARGEST: f32 = 40.0;

/// `1 + exp(-2 v)`, with `v = sqrt(2/pi) (x + 0.044715 x^3)`: tanh gelu is x over that, as in `mgnt-model`.
#[cube]
fn denominator<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    let of_square = x * x * Vector::new(CUBIC * -TWICE_SQRT_2_OVER_PI) - Vector::new(TWICE_SQRT_2_OVER_PI);
    min(x * of_square, Vector::new(LARGEST)).exp() + Vector::new(1.0)
}

#[cube(launch_unchecked)]
fn add_and_gelu<S: Float, E: Float, N: Size>(
    sums: &Tensor<Vector<S, N>>,
    bias: &Tensor<Vector<f32, N>>,
    out: &mut Tensor<Vector<E, N>>,
    pieces: u32,
    columns: u32,
    #[define(S, E)] _elements: [ElemType; 2],
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(sums[piece as usize]) + bias[(piece % columns) as usize];
    out[piece as usize] = Vector::cast_from(x / denominator::<N>(x));
}

/// The slope is `g + x g (1 - g) 2 v'`, with `g = 1 / (1 + exp(-2 v))`.
#[cube(launch_unchecked)]
fn gelu_back_of<S: Float, N: Size>(
    gradient: &Tensor<Vector<S, N>>,
    sums: &Tensor<Vector<S, N>>,
    bias: &Tensor<Vector<f32, N>>,
    out: &mut Tensor<Vector<S, N>>,
    pieces: u32,
    columns: u32,
    #[define(S)] _element: ElemType,
) {
    let piece = ABSOLUTE_POS as u32;
    if piece >= pieces {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(sums[piece as usize]) + bias[(piece % columns) as usize];
    let one = Vector::<f32, N>::new(1.0);
    let gate = one / denominator::<N>(x);
    let of_exponent =
        x * x * Vector::new(3.0 * CUBIC * TWICE_SQRT_2_OVER_PI) + Vector::new(TWICE_SQRT_2_OVER_PI);
    let slope = gate + x * gate * (one - gate) * of_exponent;
    out[piece as usize] = Vector::cast_from(Vector::<f32, N>::cast_from(gradient[piece as usize]) * slope);
}
