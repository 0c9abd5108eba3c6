//! What is picked from rows, on a tape: forward by Burn's operations, back by kernels.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, Backend, TensorMetadata, backend_extension};
use burn::tensor::DType;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_cubecl::CubeBackend;

use crate::cuda::dense_on_tape::rounded;
use crate::cuda::table_back;

/// On a tape.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait Picked: Backend {
    /// Rows of `table [V, D]` by `numbers [R]`, which may be alike or not.
    #[fusion(dtype = table, shape = shapes::rows(table, numbers))]
    fn pick(table: FloatTensor<Self>, numbers: IntTensor<Self>, alike: bool) -> FloatTensor<Self>;
}

/// Their backward passes.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait PickedBack: Backend {
    /// Of a table `[count, D]`, from `gradient [R, D]`.
    #[fusion(dtype = gradient, shape = shapes::table(gradient, count))]
    fn pick_back(
        gradient: FloatTensor<Self>,
        numbers: IntTensor<Self>,
        count: usize,
        alike: bool,
    ) -> FloatTensor<Self>;
}

impl Picked for CubeBackend {
    fn pick(table: FloatTensor<Self>, numbers: IntTensor<Self>, _: bool) -> FloatTensor<Self> {
        Self::float_select(table, 0, numbers)
    }
}

impl PickedBack for CubeBackend {
    fn pick_back(
        gradient: FloatTensor<Self>,
        numbers: IntTensor<Self>,
        count: usize,
        alike: bool,
    ) -> FloatTensor<Self> {
        if !alike {
            return table_back::put_rows(gradient, numbers, count);
        }
        let to = gradient.dtype;
        let sums = table_back::sum_of_rows(rounded::<Self>(gradient, DType::F32), numbers, count);
        rounded::<Self>(sums, to)
    }
}

/// What picking keeps.
#[derive(Debug, Clone)]
struct Numbers<B: Backend> {
    numbers: IntTensor<B>,
    /// Rows of the table.
    count: usize,
    alike: bool,
}

#[derive(Debug)]
struct PickBack;

impl<B: PickedBack> Backward<B, 1> for PickBack {
    type State = Numbers<B>;

    fn backward(self, ops: Ops<Numbers<B>, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let Numbers { numbers, count, alike } = ops.state;
        if let [Some(table)] = ops.parents {
            gradients.register::<B>(table.id, B::pick_back(gradient, numbers, count, alike));
        }
    }
}

impl<B: Picked + PickedBack, C: CheckpointStrategy> Picked for Autodiff<B, C> {
    fn pick(table: FloatTensor<Self>, numbers: IntTensor<Self>, alike: bool) -> FloatTensor<Self> {
        let (table, of_table) = table.into_parts();
        let count = table.shape()[0];
        let picked = B::pick(table, numbers.clone(), alike);
        match PickBack.prepare::<C>([of_table]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish(Numbers { numbers, count, alike }, picked),
            OpsKind::UnTracked(operation) => operation.finish(picked),
        }
    }
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::tensor::Shape;

    pub fn rows(table: &Shape, numbers: &Shape) -> Shape {
        [numbers[0], table[1]].into()
    }

    pub fn table(gradient: &Shape, count: &usize) -> Shape {
        [*count, gradient[1]].into()
    }
}
