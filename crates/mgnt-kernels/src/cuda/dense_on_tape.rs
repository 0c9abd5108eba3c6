//! Products with weights of which a sub-model uses the first rows and columns: no copy of them, and whole gradients at once, which are
//! added to those of other sub-models.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_cubecl::CubeBackend;

use crate::cuda::dense;
use crate::cuda::gradients::before;
use crate::place::is_open;

/// With one weight, or with three `[3, _, _]`.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait Products: Backend {
    #[fusion(dtype = weights, shape = shapes::sums(x, weights, outputs))]
    fn dense(x: FloatTensor<Self>, weights: FloatTensor<Self>, outputs: usize) -> FloatTensor<Self>;
}

/// Their gradients; none of it is on a tape. `before` is read where it is said to be there.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait ProductsBack: Backend {
    /// To `x [R, n]`, in type `to`, which is that of `before`.
    #[fusion(dtype = *to, shape = shapes::input(gradient, inputs))]
    fn dense_to_input(
        gradient: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        before: FloatTensor<Self>,
        has_before: bool,
        inputs: usize,
        to: DType,
    ) -> FloatTensor<Self>;

    /// To weights of that shape, in `f32`.
    #[fusion(dtype = DType::F32, shape = shapes::weights(shape))]
    fn dense_to_weights(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        before: FloatTensor<Self>,
        has_before: bool,
        shape: Shape,
    ) -> FloatTensor<Self>;
}

impl Products for CubeBackend {
    fn dense(x: FloatTensor<Self>, weights: FloatTensor<Self>, outputs: usize) -> FloatTensor<Self> {
        let x = rounded::<Self>(x, weights.dtype);
        dense::dense(x, &weights, outputs)
    }
}

impl ProductsBack for CubeBackend {
    fn dense_to_input(
        gradient: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        before: FloatTensor<Self>,
        has_before: bool,
        inputs: usize,
        to: DType,
    ) -> FloatTensor<Self> {
        dense::back_to_input(gradient, &weights, inputs, to, has_before.then_some(before))
    }

    fn dense_to_weights(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        before: FloatTensor<Self>,
        has_before: bool,
        shape: Shape,
    ) -> FloatTensor<Self> {
        dense::back_to_weights(x, gradient, &shape, has_before.then_some(before))
    }
}

/// In a type; itself where it has that.
pub(crate) fn rounded<B: Backend>(x: FloatTensor<B>, to: DType) -> FloatTensor<B> {
    if x.dtype() == to { x } else { B::float_cast(x, to.into()) }
}

/// What a product keeps.
#[derive(Debug, Clone)]
struct Multiplied<B: Backend> {
    x: FloatTensor<B>,
    weights: FloatTensor<B>,
    /// Type of the gradient of x.
    to: DType,
}

#[derive(Debug)]
struct DenseBack;

impl<B: ProductsBack> Backward<B, 2> for DenseBack {
    type State = Multiplied<B>;

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let ([of_x, of_weights], Multiplied { x, weights, to }) = (ops.parents, ops.state);
        let (inputs, shape) = (x.shape()[1], weights.shape());
        if let Some(parent) = of_x {
            let (before, has_before) = before(parent.id, || gradients.consume::<B>(&parent), &gradient);
            let back = B::dense_to_input(gradient.clone(), weights, before, has_before, inputs, to);
            gradients.register::<B>(parent.id, back);
        }
        if let Some(parent) = of_weights {
            let (before, has_before) = before(parent.id, || gradients.consume::<B>(&parent), &gradient);
            gradients.register::<B>(parent.id, B::dense_to_weights(x, gradient, before, has_before, shape));
        }
    }
}

impl<B: Products + ProductsBack, C: CheckpointStrategy> Products for Autodiff<B, C> {
    fn dense(x: FloatTensor<Self>, weights: FloatTensor<Self>, outputs: usize) -> FloatTensor<Self> {
        let [(x, of_x), (weights, of_weights)] = [x, weights].map(|parent| parent.into_parts());
        let to = if is_open(of_x.id().value) { DType::F32 } else { x.dtype() };
        let x = rounded::<B>(x, weights.dtype());
        match DenseBack.prepare::<C>([of_x, of_weights]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let sums = B::dense(x.clone(), weights.clone(), outputs);
                operation.finish(Multiplied { x, weights, to }, sums)
            }
            OpsKind::UnTracked(operation) => operation.finish(B::dense(x, weights, outputs)),
        }
    }
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::tensor::Shape;

    pub fn sums(x: &Shape, weights: &Shape, outputs: &usize) -> Shape {
        let count = if weights.num_dims() == 3 { weights[0] } else { 1 };
        [1, x[0], count * outputs].into()
    }

    pub fn input(gradient: &Shape, inputs: &usize) -> Shape {
        [gradient[1], *inputs].into()
    }

    pub fn weights(shape: &Shape) -> Shape {
        shape.clone()
    }
}
