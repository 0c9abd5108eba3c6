//! What a training does with its parameters between two steps, as operations of a backend.

use std::array::from_fn;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchTensor, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use mgnt_model::kernels::{AdamW, Parameter};

use crate::cuda::gradients::GradientPasses;
use crate::cuda::update::{self, AT_ONCE, SQUARES};

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

pub(crate) fn squares(tensors: Vec<Tensor<1>>) -> Option<Tensor<1>> {
    let device = tensors.first()?.device();
    let mut sums = Tensor::<2>::zeros([tensors.len(), SQUARES], &device);
    for (index, some) in tensors.chunks(AT_ONCE).enumerate() {
        let [first, second, third, fourth] = at_once(some);
        let row = index * AT_ONCE;
        sums = Tensor::from_dispatch(Dispatch::squares(
            first,
            second,
            third,
            fourth,
            sums.into_dispatch(),
            row,
            some.len(),
        ));
    }
    // In an order that is always the same, which Burn's sum of all is not.
    let column = sums.reshape([-1, 1]).into_dispatch();
    Some(Tensor::from_dispatch(Dispatch::sum_of_columns(column.clone(), column, false, [1].into())))
}

/// The tensors of a launch: where there are fewer, the first stands for the others, which are not taken.
fn at_once(some: &[Tensor<1>]) -> [DispatchTensor; AT_ONCE] {
    from_fn(|index| some.get(index).unwrap_or(&some[0]).clone().into_dispatch())
}

pub(crate) fn adamw(parameter: Parameter, gradient: Tensor<1>, how: AdamW) -> Parameter {
    let [kept, rate, of_second] = how.factors();
    let AdamW { beta1, beta2, epsilon, clip, .. } = how;
    let factors = update::Factors { kept, beta1, beta2, rate, of_second, epsilon, clip };
    let (value, first, second) = Dispatch::adamw(
        parameter.value.into_dispatch(),
        parameter.first.into_dispatch(),
        parameter.second.into_dispatch(),
        gradient.into_dispatch(),
        factors,
    );
    let [value, first, second] = [value, first, second].map(Tensor::from_dispatch);
    Parameter { value, first, second }
}

pub(crate) fn averaged(pairs: Vec<[Tensor<1>; 2]>, decay: f64) -> Vec<Tensor<1>> {
    let (averages, values): (Vec<_>, Vec<_>) =
        pairs.into_iter().map(|[average, value]| (average, value)).unzip();
    let mut all = Vec::with_capacity(averages.len());
    for (averages, values) in averages.chunks(AT_ONCE).zip(values.chunks(AT_ONCE)) {
        let count = averages.len();
        let [first, second, third, fourth] = at_once(averages);
        let [of_first, of_second, of_third, of_fourth] = at_once(values);
        let (first, second, third, fourth) = Dispatch::averaged(
            first,
            second,
            third,
            fourth,
            of_first,
            of_second,
            of_third,
            of_fourth,
            count,
            decay as f32,
        );
        all.extend([first, second, third, fourth].into_iter().take(count).map(Tensor::from_dispatch));
    }
    all
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
