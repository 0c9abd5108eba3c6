//! Products with weights of which a sub-model uses the first rows and columns: no copy of them, and whole gradients at once.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_cubecl::CubeBackend;

use crate::cuda::dense;

/// With one weight, or three.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait Products: Backend {
    #[fusion(dtype = weight, shape = shapes::one(x, outputs))]
    fn dense(x: FloatTensor<Self>, weight: FloatTensor<Self>, outputs: usize) -> FloatTensor<Self>;

    #[fusion(dtype = first, shape = shapes::three(x, outputs))]
    fn dense_of_three(
        x: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        outputs: usize,
    ) -> FloatTensor<Self>;
}

/// What goes back through them; none of it is on a tape.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait ProductsBack: Backend {
    /// To `x [R, n]`, in type `to`.
    #[fusion(dtype = *to, shape = shapes::input(gradient, inputs))]
    fn dense_to_input(
        gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inputs: usize,
        to: DType,
    ) -> FloatTensor<Self>;

    /// The same of three weights.
    #[fusion(dtype = *to, shape = shapes::input(gradient, inputs))]
    fn three_to_input(
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        inputs: usize,
        to: DType,
    ) -> FloatTensor<Self>;

    /// To a weight of so many rows and columns, in the type of the gradient.
    #[fusion(dtype = gradient, shape = shapes::weight(rows, columns))]
    fn dense_to_weight(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rows: usize,
        columns: usize,
    ) -> FloatTensor<Self>;

    /// To three.
    #[fusion(meta = shapes::weights)]
    fn three_to_weights(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rows: usize,
        columns: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl Products for CubeBackend {
    fn dense(x: FloatTensor<Self>, weight: FloatTensor<Self>, outputs: usize) -> FloatTensor<Self> {
        let x = rounded::<Self>(x, weight.dtype);
        dense::dense(x, &[weight], outputs)
    }

    fn dense_of_three(
        x: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        outputs: usize,
    ) -> FloatTensor<Self> {
        let x = rounded::<Self>(x, first.dtype);
        dense::dense(x, &[first, second, third], outputs)
    }
}

impl ProductsBack for CubeBackend {
    fn dense_to_input(
        gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inputs: usize,
        to: DType,
    ) -> FloatTensor<Self> {
        dense::back_to_input(gradient, &[weight], inputs, to)
    }

    fn three_to_input(
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        inputs: usize,
        to: DType,
    ) -> FloatTensor<Self> {
        dense::back_to_input(gradient, &[first, second, third], inputs, to)
    }

    fn dense_to_weight(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rows: usize,
        columns: usize,
    ) -> FloatTensor<Self> {
        let [weight] = dense::back_to_weights(x, gradient, [rows, columns]);
        weight
    }

    fn three_to_weights(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rows: usize,
        columns: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [first, second, third] = dense::back_to_weights(x, gradient, [rows, columns]);
        (first, second, third)
    }
}

/// In the type of products.
fn rounded<B: Backend>(x: FloatTensor<B>, to: DType) -> FloatTensor<B> {
    if x.dtype() == to { x } else { B::float_cast(x, to.into()) }
}

/// What a product keeps.
#[derive(Debug, Clone)]
struct Multiplied<B: Backend, const N: usize> {
    x: FloatTensor<B>,
    weights: [FloatTensor<B>; N],
    /// Type of what goes back to x.
    to: DType,
}

impl<B: Backend, const N: usize> Multiplied<B, N> {
    fn inputs(&self) -> usize {
        self.x.shape()[1]
    }

    /// Rows and columns of a weight.
    fn sizes(&self) -> (usize, usize) {
        let shape = self.weights[0].shape();
        (shape[0], shape[1])
    }
}

#[derive(Debug)]
struct DenseBack;

impl<B: ProductsBack> Backward<B, 2> for DenseBack {
    type State = Multiplied<B, 1>;

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (inputs, (rows, columns)) = (ops.state.inputs(), ops.state.sizes());
        let ([x, of_weight], Multiplied { x: input, weights: [weight], to }) = (ops.parents, ops.state);
        if let Some(x) = x {
            gradients.register::<B>(x.id, B::dense_to_input(gradient.clone(), weight, inputs, to));
        }
        if let Some(weight) = of_weight {
            gradients.register::<B>(weight.id, B::dense_to_weight(input, gradient, rows, columns));
        }
    }
}

#[derive(Debug)]
struct DenseOfThreeBack;

impl<B: ProductsBack> Backward<B, 4> for DenseOfThreeBack {
    type State = Multiplied<B, 3>;

    fn backward(self, ops: Ops<Self::State, 4>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (inputs, (rows, columns)) = (ops.state.inputs(), ops.state.sizes());
        let ([x, a, b, c], Multiplied { x: input, weights, to }) = (ops.parents, ops.state);
        if let Some(x) = x {
            let [first, second, third] = weights;
            let back = B::three_to_input(gradient.clone(), first, second, third, inputs, to);
            gradients.register::<B>(x.id, back);
        }
        let (first, second, third) = B::three_to_weights(input, gradient, rows, columns);
        for (weight, back) in [(a, first), (b, second), (c, third)] {
            if let Some(weight) = weight {
                gradients.register::<B>(weight.id, back);
            }
        }
    }
}

impl<B: Products + ProductsBack, C: CheckpointStrategy> Products for Autodiff<B, C> {
    fn dense(x: FloatTensor<Self>, weight: FloatTensor<Self>, outputs: usize) -> FloatTensor<Self> {
        let [(x, of_x), (weight, of_weight)] = [x, weight].map(|parent| parent.into_parts());
        let to = x.dtype();
        let x = rounded::<B>(x, weight.dtype());
        match DenseBack.prepare::<C>([of_x, of_weight]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let sums = B::dense(x.clone(), weight.clone(), outputs);
                operation.finish(Multiplied { x, weights: [weight], to }, sums)
            }
            OpsKind::UnTracked(operation) => operation.finish(B::dense(x, weight, outputs)),
        }
    }

    fn dense_of_three(
        x: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        outputs: usize,
    ) -> FloatTensor<Self> {
        let [(x, of_x), (first, a), (second, b), (third, c)] =
            [x, first, second, third].map(|parent| parent.into_parts());
        let to = x.dtype();
        let x = rounded::<B>(x, first.dtype());
        let weights = [first, second, third];
        let sums = |x: FloatTensor<B>, [first, second, third]: [FloatTensor<B>; 3]| {
            B::dense_of_three(x, first, second, third, outputs)
        };
        match DenseOfThreeBack.prepare::<C>([of_x, a, b, c]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let sums = sums(x.clone(), weights.clone());
                operation.finish(Multiplied { x, weights, to }, sums)
            }
            OpsKind::UnTracked(operation) => operation.finish(sums(x, weights)),
        }
    }
}

pub(crate) fn dense(x: Tensor<2>, weight: Tensor<2>, outputs: usize) -> Tensor<3> {
    Tensor::from_dispatch(Dispatch::dense(x.into_dispatch(), weight.into_dispatch(), outputs))
}

pub(crate) fn dense_of_three(x: Tensor<2>, weights: [Tensor<2>; 3], outputs: usize) -> Tensor<3> {
    let [first, second, third] = weights.map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::dense_of_three(x.into_dispatch(), first, second, third, outputs))
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::Shape;

    pub fn one(x: &Shape, outputs: &usize) -> Shape {
        [1, x[0], *outputs].into()
    }

    pub fn three(x: &Shape, outputs: &usize) -> Shape {
        [1, x[0], 3 * outputs].into()
    }

    pub fn input(gradient: &Shape, inputs: &usize) -> Shape {
        [gradient[1], *inputs].into()
    }

    pub fn weight(rows: &usize, columns: &usize) -> Shape {
        [*rows, *columns].into()
    }

    pub fn weights(
        _x: &TensorSpec,
        gradient: &TensorSpec,
        rows: &usize,
        columns: &usize,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        let one = TensorSpec::new([*rows, *columns].into(), gradient.dtype);
        (one.clone(), one.clone(), one)
    }
}
