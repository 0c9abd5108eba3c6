//! Parameters of a step that several sub-models use: cast and put one behind the other once, and with a [place](Place) for what goes
//! back to them.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::DType;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::cast;

use crate::cuda::dense_on_tape::rounded;
use crate::cuda::stack;
use crate::place::Place;

/// On a tape.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait Shared: Backend {
    #[fusion(dtype = *to, shape = parameter)]
    fn shared(parameter: FloatTensor<Self>, to: DType) -> FloatTensor<Self>;

    /// `[3, ..]` of three parameters of one shape.
    #[fusion(dtype = *to, shape = shapes::three(first))]
    fn shared_three(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        to: DType,
    ) -> FloatTensor<Self>;
}

/// Their backward passes.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait SharedBack: Backend {
    /// The three parts of `whole [3, ..]`.
    #[fusion(meta = shapes::parts)]
    fn parts(whole: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl Shared for CubeBackend {
    fn shared(parameter: FloatTensor<Self>, to: DType) -> FloatTensor<Self> {
        cast(parameter, to)
    }

    fn shared_three(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        to: DType,
    ) -> FloatTensor<Self> {
        stack::stack([first, second, third], to)
    }
}

impl SharedBack for CubeBackend {
    fn parts(whole: FloatTensor<Self>) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [first, second, third] = stack::parts(whole);
        (first, second, third)
    }
}

#[derive(Debug)]
struct SharedByAll;

impl<B: Backend> Backward<B, 1> for SharedByAll {
    /// With the type of the parameter.
    type State = (Place, DType);

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        if let [Some(parameter)] = ops.parents {
            gradients.register::<B>(parameter.id, rounded::<B>(gradient, ops.state.1));
        }
    }
}

#[derive(Debug)]
struct ThreeSharedByAll;

impl<B: SharedBack> Backward<B, 3> for ThreeSharedByAll {
    /// With the type of the parameters.
    type State = (Place, DType);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = rounded::<B>(gradients.consume::<B>(&ops.node), ops.state.1);
        let (first, second, third) = B::parts(gradient);
        for (parameter, back) in ops.parents.into_iter().zip([first, second, third]) {
            if let Some(parameter) = parameter {
                gradients.register::<B>(parameter.id, back);
            }
        }
    }
}

impl<B: Shared + SharedBack, C: CheckpointStrategy> Shared for Autodiff<B, C> {
    fn shared(parameter: FloatTensor<Self>, to: DType) -> FloatTensor<Self> {
        let (parameter, of_parameter) = parameter.into_parts();
        let of = parameter.dtype();
        let shared = if of == to { parameter } else { B::shared(parameter, to) };
        match SharedByAll.prepare::<C>([of_parameter]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let place = Place::default();
                let shared = operation.finish((place.clone(), of), shared);
                place.open(shared.id().value);
                shared
            }
            OpsKind::UnTracked(operation) => operation.finish(shared),
        }
    }

    fn shared_three(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        to: DType,
    ) -> FloatTensor<Self> {
        let [(first, a), (second, b), (third, c)] =
            [first, second, third].map(|parameter| parameter.into_parts());
        let of = first.dtype();
        let shared = B::shared_three(first, second, third, to);
        match ThreeSharedByAll.prepare::<C>([a, b, c]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let place = Place::default();
                let shared = operation.finish((place.clone(), of), shared);
                place.open(shared.id().value);
                shared
            }
            OpsKind::UnTracked(operation) => operation.finish(shared),
        }
    }
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::Shape;

    pub fn three(first: &Shape) -> Shape {
        let sizes: Vec<usize> = [3].into_iter().chain(first.iter().copied()).collect();
        sizes.into()
    }

    pub fn parts(whole: &TensorSpec) -> (TensorSpec, TensorSpec, TensorSpec) {
        let sizes: Vec<usize> = whole.shape.iter().skip(1).copied().collect();
        let one = TensorSpec::new(sizes.into(), whole.dtype);
        (one.clone(), one.clone(), one)
    }
}
