//! What a tape needs of the kernels: what they keep, and what goes back. None of it is on a tape itself.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use mgnt_model::compute::whole_rows;

use crate::cuda::product::view;
use crate::cuda::{attend, columns, entropy, gelu, heads, norm_on_tape};

/// Operations of a backend without a tape.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait GradientPasses: Backend {
    /// `[R, W]`, and queries, keys, values and weights.
    #[allow(clippy::type_complexity, clippy::too_many_arguments, reason = "the macro reads the tuple")]
    #[fusion(meta = shapes::attended)]
    fn attended(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        has_mask: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// To the sums `[1, R, 3 W]` of queries, keys and values.
    #[fusion(dtype = gradient, shape = shapes::attended_back(gradient))]
    fn attended_back(
        gradient: FloatTensor<Self>,
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        has_mask: bool,
    ) -> FloatTensor<Self>;

    /// To the sums `[1, R, F]`.
    #[fusion(dtype = sums, shape = sums)]
    fn hidden_back(
        gradient: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `[R, D]`, the same before it is scaled, and one over the deviations `[R, 1]`.
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::norm)]
    fn norm(
        stream: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        drawn: FloatTensor<Self>,
        share: f32,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// To the stream `[R, D]`, and in another type to the sums `[1, R, D]`.
    #[fusion(meta = shapes::norm_back)]
    fn norm_back(
        gradient: FloatTensor<Self>,
        normal: FloatTensor<Self>,
        inverse: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        share: f32,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Loss and cross-entropy with the truth, both `[1]`; what goes back to `logits [R, V]`, and their softmax.
    #[allow(clippy::type_complexity, reason = "the macro reads the tuple")]
    #[fusion(meta = shapes::entropy)]
    fn entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        taught: FloatTensor<Self>,
        smoothing: f32,
        share: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Over the rows of `x [.., N C]`, `f32`, those of each C columns with zeros behind them: `[N whole]`, for `whole [N, _]` or `[_]`, added
    /// to `before` where it is said to be there.
    #[fusion(dtype = shapes::full(x), shape = shapes::whole(shape))]
    fn sum_of_columns(
        x: FloatTensor<Self>,
        before: FloatTensor<Self>,
        has_before: bool,
        shape: Shape,
    ) -> FloatTensor<Self>;

    /// Over the rows of what is left of `x` by the marks of `z`, of `y z`, and of `y`, all `[R, C]` in `f32`: `[3, C]`, added to `before` where it is said to be
    /// there.
    #[fusion(dtype = x, shape = shapes::sums_of_norm(x))]
    fn sums_of_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        z: FloatTensor<Self>,
        share: f32,
        before: FloatTensor<Self>,
        has_before: bool,
    ) -> FloatTensor<Self>;
}

impl GradientPasses for CubeBackend {
    #[allow(clippy::type_complexity, reason = "the trait's")]
    fn attended(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        has_mask: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let positions = sums.meta.shape()[1] / samples;
        let (queries, keys, values) = heads::new_heads(sums, biases, samples, heads, whole_rows(positions));
        let mask = has_mask.then_some(mask);
        let [weights, kept] = attend::weigh(queries.clone(), keys.clone(), positions, mask);
        let mixed = attend::mix(kept, values.clone());
        (mixed, queries, keys, values, weights)
    }

    fn attended_back(
        gradient: FloatTensor<Self>,
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        has_mask: bool,
    ) -> FloatTensor<Self> {
        attend::attend_back(gradient, [queries, keys, values], weights, has_mask.then_some(mask))
    }

    fn hidden_back(
        gradient: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        gelu::gelu_back(gradient, sums, bias)
    }

    fn norm(
        stream: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        drawn: FloatTensor<Self>,
        share: f32,
        epsilon: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let dropped = norm_on_tape::Dropped { drawn, share };
        norm_on_tape::norm(stream, sums, parameters, dropped, epsilon)
    }

    fn norm_back(
        gradient: FloatTensor<Self>,
        normal: FloatTensor<Self>,
        inverse: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        share: f32,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        norm_on_tape::norm_back(gradient, normal, inverse, parameters, share, to)
    }

    #[allow(clippy::type_complexity, reason = "the trait's")]
    fn entropy(
        logits: FloatTensor<Self>,
        targets: IntTensor<Self>,
        weights: FloatTensor<Self>,
        taught: FloatTensor<Self>,
        smoothing: f32,
        share: f32,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        entropy::cross_entropy(logits, entropy::Aim { targets, weights, smoothing, taught, share })
    }

    fn sum_of_columns(
        x: FloatTensor<Self>,
        before: FloatTensor<Self>,
        has_before: bool,
        shape: Shape,
    ) -> FloatTensor<Self> {
        let (parts, whole) = if shape.num_dims() == 2 { (shape[0], shape[1]) } else { (1, shape[0]) };
        let before = has_before.then_some(before);
        let sums = columns::sum_of_columns(into_contiguous(x), parts, whole, before);
        if shape.num_dims() == 2 { view(sums, [parts, whole], [whole, 1]) } else { view(sums, [whole], [1]) }
    }

    fn sums_of_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        z: FloatTensor<Self>,
        share: f32,
        before: FloatTensor<Self>,
        has_before: bool,
    ) -> FloatTensor<Self> {
        let [x, y, z] = [x, y, z].map(into_contiguous);
        let width = x.meta.shape()[1];
        let sums = columns::sums_of_norm(x, y, z, share, has_before.then_some(before));
        view(sums, [3, width], [width, 1])
    }
}

/// An operation has all of its tensors: another stands for what did not go back yet, and is not read.
pub fn or_other<T: Clone>(before: Option<T>, other: &T) -> (T, bool) {
    let is_there = before.is_some();
    (before.unwrap_or_else(|| other.clone()), is_there)
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::{DType, Shape};
    use mgnt_model::compute::whole_rows;

    pub fn full(_: DType) -> DType {
        DType::F32
    }

    pub fn sums_of_norm(x: &Shape) -> Shape {
        [3, x[1]].into()
    }

    pub fn entropy(
        logits: &TensorSpec,
        _targets: &TensorSpec,
        _weights: &TensorSpec,
        _taught: &TensorSpec,
        _smoothing: &f32,
        _share: &f32,
    ) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
        let one = TensorSpec::new([1].into(), logits.dtype);
        (one.clone(), one, logits.clone(), logits.clone())
    }

    pub fn whole(shape: &Shape) -> Shape {
        shape.clone()
    }

    type Attended = (TensorSpec, TensorSpec, TensorSpec, TensorSpec, TensorSpec);

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn attended(
        sums: &TensorSpec,
        _biases: &TensorSpec,
        _mask: &TensorSpec,
        samples: &usize,
        heads: &usize,
        _has_mask: &bool,
    ) -> Attended {
        let (rows, width) = (sums.shape[1], sums.shape[2] / (3 * heads));
        let active = rows / samples;
        let spec = |shape: [usize; 4]| TensorSpec::new(shape.into(), sums.dtype);
        let room = whole_rows(active);
        let context = spec([*samples, *heads, room, width]);
        (
            TensorSpec::new([rows, heads * width].into(), sums.dtype),
            spec([*samples, *heads, active, width]),
            context.clone(),
            context,
            spec([*samples, *heads, active, room]),
        )
    }

    pub fn attended_back(gradient: &Shape) -> Shape {
        [1, gradient[0], 3 * gradient[1]].into()
    }

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn norm(
        stream: &TensorSpec,
        _sums: &TensorSpec,
        _parameters: &TensorSpec,
        _drawn: &TensorSpec,
        _share: &f32,
        _epsilon: &f32,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        let inverse = TensorSpec::new([stream.shape[0], 1].into(), stream.dtype);
        (stream.clone(), stream.clone(), inverse)
    }

    pub fn norm_back(
        gradient: &TensorSpec,
        _normal: &TensorSpec,
        _inverse: &TensorSpec,
        _parameters: &TensorSpec,
        _share: &f32,
        to: &DType,
    ) -> (TensorSpec, TensorSpec) {
        let of_sums = [1, gradient.shape[0], gradient.shape[1]];
        (gradient.clone(), TensorSpec::new(of_sums.into(), *to))
    }
}
