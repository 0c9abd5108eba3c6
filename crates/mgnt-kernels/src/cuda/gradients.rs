//! What a tape needs of the kernels: what they keep, and their backward passes. None of it is on a tape itself.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, Shape};
use burn_autodiff::NodeId;
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use mgnt_model::compute::whole_rows;

use crate::cuda::dropped::{self, Dropout};
use crate::cuda::norm_on_tape::{StreamAs, Summands};
use crate::cuda::product::view;
use crate::cuda::{attend, columns, entropy, gelu, heads, norm_back, norm_on_tape};
use crate::place::has_some;

/// Operations of a backend without a tape.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub(crate) trait GradientPasses: Backend {
    /// `[R, W]`, and queries, keys, values and weights.
    #[allow(clippy::type_complexity, clippy::too_many_arguments, reason = "the macro reads the tuple")]
    #[fusion(meta = shapes::attended)]
    fn attended(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        key: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        dropout: Dropout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Of the sums `[1, R, 3 W]` of queries, keys and values.
    #[fusion(dtype = gradient, shape = shapes::attended_back(gradient))]
    fn attended_back(
        gradient: FloatTensor<Self>,
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        key: FloatTensor<Self>,
        dropout: Dropout,
    ) -> FloatTensor<Self>;

    /// Of the sums `[1, R, F]`.
    #[fusion(dtype = sums, shape = sums)]
    fn hidden_back(
        gradient: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `[R, D]` in type `to`, the normal `[R, D]` before it is scaled, and one over the deviations `[R, 1]`.
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::norm)]
    fn norm(
        stream: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        key: FloatTensor<Self>,
        is: StreamAs,
        dropout: Dropout,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Of the stream `[R, D]`, in another type of the sums `[1, R, D]`, and of the parameters `[3, D]`, added to that of `before`
    /// where it is said to be there.
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::norm_back)]
    fn norm_back(
        gradient: FloatTensor<Self>,
        normal: FloatTensor<Self>,
        inverse: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        key: FloatTensor<Self>,
        dropout: Dropout,
        to: DType,
        before: FloatTensor<Self>,
        has_before: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// What dropout multiplies `[rows, columns]` by, in `f32`.
    #[fusion(dtype = key, shape = shapes::factors(rows, columns))]
    fn factors(key: FloatTensor<Self>, dropout: Dropout, rows: usize, columns: usize) -> FloatTensor<Self>;

    /// Loss and cross-entropy with the truth, both `[1]`; the gradient of `logits [R, V]`, and their softmax.
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

    /// Sums over the rows of `x [.., N C]`, in `f32`. Each of the N groups of C columns is filled up with zeros to `whole`:
    /// `[N, whole]`, or `[whole]` of one group, as `shape` says. Added to `before`, where it is said to be there.
    #[fusion(dtype = DType::F32, shape = shapes::whole(shape))]
    fn sum_of_columns(
        x: FloatTensor<Self>,
        before: FloatTensor<Self>,
        has_before: bool,
        shape: Shape,
    ) -> FloatTensor<Self>;
}

impl GradientPasses for CubeBackend {
    #[allow(clippy::type_complexity, reason = "the trait's")]
    fn attended(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        key: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        dropout: Dropout,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let positions = sums.meta.shape()[1] / samples;
        let (queries, keys, values) = heads::new_heads(sums, biases, samples, heads, whole_rows(positions));
        let dropped = dropout.drops().then_some((key, dropout));
        let [weights, kept] = attend::weigh(queries.clone(), keys.clone(), positions, dropped);
        let mixed = attend::mix(kept, values.clone());
        (mixed, queries, keys, values, weights)
    }

    fn attended_back(
        gradient: FloatTensor<Self>,
        queries: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        key: FloatTensor<Self>,
        dropout: Dropout,
    ) -> FloatTensor<Self> {
        let dropped = dropout.drops().then_some((key, dropout));
        attend::attend_back(gradient, [queries, keys, values], weights, dropped)
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
        scales: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        key: FloatTensor<Self>,
        is: StreamAs,
        dropout: Dropout,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let summands = Summands { stream, scales, is, sums, key, dropout };
        norm_on_tape::norm(summands, parameters, to)
    }

    fn norm_back(
        gradient: FloatTensor<Self>,
        normal: FloatTensor<Self>,
        inverse: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        key: FloatTensor<Self>,
        dropout: Dropout,
        to: DType,
        before: FloatTensor<Self>,
        has_before: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let width = normal.meta.shape()[1];
        let kept = norm_back::Kept { normal, inverse, parameters, key, dropout };
        let [of_stream, of_sums, of_parameters] =
            norm_back::norm_back(gradient, kept, to, has_before.then_some(before));
        (of_stream, of_sums, view(of_parameters, [3, width], [width, 1]))
    }

    fn factors(key: FloatTensor<Self>, dropout: Dropout, rows: usize, columns: usize) -> FloatTensor<Self> {
        dropped::all_factors(key, dropout, rows, columns)
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
}

/// The gradient that a tensor of the tape has already, as `take` takes it out, and whether it has one. An operation has all of its
/// tensors: `other` stands for one that is not there yet, and is not read.
///
/// It is asked for once before each gradient that is registered, since [`has_some`] counts on that.
pub(crate) fn before<T: Clone>(id: NodeId, take: impl FnOnce() -> T, other: &T) -> (T, bool) {
    if has_some(id.value) { (take(), true) } else { (other.clone(), false) }
}

/// The gradient of a bias of `shape` from that of what it was added to, and what there is [`before`].
pub(crate) fn to_bias<B: GradientPasses>(
    id: NodeId,
    take: impl FnOnce() -> FloatTensor<B>,
    of_sums: &FloatTensor<B>,
    shape: Shape,
) -> FloatTensor<B> {
    let (before, has_before) = before(id, take, of_sums);
    B::sum_of_columns(of_sums.clone(), before, has_before, shape)
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::{DType, Shape};
    use mgnt_model::compute::whole_rows;

    use super::{Dropout, StreamAs};

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

    pub fn factors(rows: &usize, columns: &usize) -> Shape {
        [*rows, *columns].into()
    }

    pub fn whole(shape: &Shape) -> Shape {
        shape.clone()
    }

    type Attended = (TensorSpec, TensorSpec, TensorSpec, TensorSpec, TensorSpec);

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn attended(
        sums: &TensorSpec,
        _biases: &TensorSpec,
        _key: &TensorSpec,
        samples: &usize,
        heads: &usize,
        _dropout: &Dropout,
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
        _stream: &TensorSpec,
        _scales: &TensorSpec,
        sums: &TensorSpec,
        _parameters: &TensorSpec,
        _key: &TensorSpec,
        _is: &StreamAs,
        _dropout: &Dropout,
        to: &DType,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        let spec = |columns: usize, of: DType| TensorSpec::new([sums.shape[1], columns].into(), of);
        let width = sums.shape[2];
        (spec(width, *to), spec(width, DType::F32), spec(1, DType::F32))
    }

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn norm_back(
        gradient: &TensorSpec,
        _normal: &TensorSpec,
        _inverse: &TensorSpec,
        parameters: &TensorSpec,
        _key: &TensorSpec,
        _dropout: &Dropout,
        to: &DType,
        _before: &TensorSpec,
        _has_before: &bool,
    ) -> (TensorSpec, TensorSpec, TensorSpec) {
        let of_sums = [1, gradient.shape[0], gradient.shape[1]];
        (gradient.clone(), TensorSpec::new(of_sums.into(), *to), parameters.clone())
    }
}
