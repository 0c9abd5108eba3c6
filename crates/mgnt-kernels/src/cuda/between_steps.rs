//! What a training does with its parameters between two steps, as operations of a backend.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;

use crate::cuda::update;

#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait BetweenSteps: Backend {
    /// Of the first `count` tensors, in as many rows of `sums` from `row` on.
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(dtype = sums, shape = sums)]
    fn squares(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        row: usize,
        count: usize,
    ) -> FloatTensor<Self>;

    #[fusion(meta = shapes::adamw)]
    fn adamw(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factors: update::Factors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Of four averages and the values of each.
    #[allow(clippy::type_complexity, clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::averaged)]
    fn averaged(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        of_first: FloatTensor<Self>,
        of_second: FloatTensor<Self>,
        of_third: FloatTensor<Self>,
        of_fourth: FloatTensor<Self>,
        count: usize,
        decay: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

impl BetweenSteps for CubeBackend {
    fn squares(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        row: usize,
        count: usize,
    ) -> FloatTensor<Self> {
        update::squares([first, second, third, fourth], count, sums, row)
    }

    fn adamw(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        factors: update::Factors,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [value, first, second] = update::adamw([value, first, second], gradient, factors);
        (value, first, second)
    }

    #[allow(clippy::type_complexity, reason = "the trait's")]
    fn averaged(
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        third: FloatTensor<Self>,
        fourth: FloatTensor<Self>,
        of_first: FloatTensor<Self>,
        of_second: FloatTensor<Self>,
        of_third: FloatTensor<Self>,
        of_fourth: FloatTensor<Self>,
        count: usize,
        decay: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let values = [of_first, of_second, of_third, of_fourth];
        let [first, second, third, fourth] =
            update::averaged([first, second, third, fourth], values, count, decay);
        (first, second, third, fourth)
    }
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::backend::fusion::custom::TensorSpec;

    pub fn adamw(
        value: &TensorSpec,
        first: &TensorSpec,
        second: &TensorSpec,
        _gradient: &TensorSpec,
        _factors: &crate::cuda::update::Factors,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        (value.clone(), first.clone(), second.clone())
    }

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn averaged(
        first: &TensorSpec,
        second: &TensorSpec,
        third: &TensorSpec,
        fourth: &TensorSpec,
        _of_first: &TensorSpec,
        _of_second: &TensorSpec,
        _of_third: &TensorSpec,
        _of_fourth: &TensorSpec,
        _count: &usize,
        _decay: &f32,
    ) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
        (first.clone(), second.clone(), third.clone(), fourth.clone())
    }
}
