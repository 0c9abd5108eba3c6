//! The kernels that may be on a tape, and what goes back through them.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_cubecl::CubeBackend;
use mgnt_model::kernels::{Aim, Dropped, Entropy, Samples};

use crate::cuda::gelu;
use crate::cuda::gradients::{GradientPasses, or_other};
use crate::place::{Place, has_some};

/// Operations with one result, which Burn's tape knows how to hold.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait Learned: Backend {
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(dtype = sums, shape = shapes::attention(sums))]
    fn nested_attention(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        has_mask: bool,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = sums, shape = shapes::hidden(sums))]
    fn hidden(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;

    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(dtype = stream, shape = stream)]
    fn normed(
        stream: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        drawn: FloatTensor<Self>,
        share: f32,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    /// `value [1]`, of which it is known what goes back to `logits [R, V]`.
    #[fusion(dtype = value, shape = value)]
    fn known(
        logits: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        value: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl Learned for CubeBackend {
    fn nested_attention(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        has_mask: bool,
    ) -> FloatTensor<Self> {
        Self::attended(sums, biases, mask, samples, heads, has_mask).0
    }

    fn hidden(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let to = sums.dtype;
        gelu::of_sums(sums, bias, to)
    }

    fn normed(
        stream: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        drawn: FloatTensor<Self>,
        share: f32,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        Self::norm(stream, sums, parameters, drawn, share, epsilon).0
    }

    fn known(_: FloatTensor<Self>, _: FloatTensor<Self>, value: FloatTensor<Self>) -> FloatTensor<Self> {
        value
    }
}

/// What attention keeps.
#[derive(Debug, Clone)]
struct Attended<B: Backend> {
    queries: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    weights: FloatTensor<B>,
    mask: FloatTensor<B>,
    has_mask: bool,
    /// Of the biases.
    shape: Shape,
}

#[derive(Debug)]
struct AttentionBack;

impl<B: GradientPasses> Backward<B, 2> for AttentionBack {
    type State = Attended<B>;

    fn backward(self, ops: Ops<Attended<B>, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let Attended { queries, keys, values, weights, mask, has_mask, shape } = ops.state;
        let of_sums = B::attended_back(gradient, queries, keys, values, weights, mask, has_mask);
        let [sums, biases] = ops.parents;
        if let Some(biases) = biases {
            let before = has_some(biases.id.value).then(|| gradients.consume::<B>(&biases));
            let (before, has_before) = or_other(before, &of_sums);
            let back = B::sum_of_columns(of_sums.clone(), before, has_before, shape);
            gradients.register::<B>(biases.id, back);
        }
        if let Some(sums) = sums {
            gradients.register::<B>(sums.id, of_sums);
        }
    }
}

/// What gelu keeps.
#[derive(Debug, Clone)]
struct Summed<B: Backend> {
    sums: FloatTensor<B>,
    bias: FloatTensor<B>,
}

#[derive(Debug)]
struct HiddenBack;

impl<B: GradientPasses> Backward<B, 2> for HiddenBack {
    type State = Summed<B>;

    fn backward(self, ops: Ops<Summed<B>, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let shape = ops.state.bias.shape();
        let of_sums = B::hidden_back(gradient, ops.state.sums, ops.state.bias);
        let [sums, bias] = ops.parents;
        if let Some(bias) = bias {
            let before = has_some(bias.id.value).then(|| gradients.consume::<B>(&bias));
            let (before, has_before) = or_other(before, &of_sums);
            gradients.register::<B>(bias.id, B::sum_of_columns(of_sums.clone(), before, has_before, shape));
        }
        if let Some(sums) = sums {
            gradients.register::<B>(sums.id, of_sums);
        }
    }
}

/// What LayerNorm keeps.
#[derive(Debug, Clone)]
struct Normal<B: Backend> {
    normal: FloatTensor<B>,
    inverse: FloatTensor<B>,
    parameters: FloatTensor<B>,
    share: f32,
    /// Type of the sums.
    to: DType,
}

#[derive(Debug)]
struct NormBack;

impl<B: GradientPasses> Backward<B, 3> for NormBack {
    /// With the place of what comes out: the next LayerNorm and the next product both have something for it.
    type State = (Normal<B>, Place);

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (Normal { normal, inverse, parameters, share, to }, _) = ops.state;
        let [stream, sums, of_parameters] = ops.parents;
        let (of_stream, of_sums) =
            B::norm_back(gradient.clone(), normal.clone(), inverse, parameters, share, to);
        if let Some(parent) = of_parameters {
            let before = has_some(parent.id.value).then(|| gradients.consume::<B>(&parent));
            let (before, has_before) = or_other(before, &gradient);
            let back = B::sums_of_norm(of_stream.clone(), gradient, normal, share, before, has_before);
            gradients.register::<B>(parent.id, back);
        }
        if let Some(sums) = sums {
            gradients.register::<B>(sums.id, of_sums);
        }
        if let Some(stream) = stream {
            let before = has_some(stream.id.value).then(|| gradients.consume::<B>(&stream));
            let all = match before {
                Some(before) => B::float_add(of_stream, before),
                None => of_stream,
            };
            gradients.register::<B>(stream.id, all);
        }
    }
}

#[derive(Debug)]
struct KnownBack;

impl<B: Backend> Backward<B, 1> for KnownBack {
    type State = FloatTensor<B>;

    fn backward(self, ops: Ops<FloatTensor<B>, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let factor = gradients.consume::<B>(&ops.node);
        if let [Some(logits)] = ops.parents {
            let factor = B::float_reshape(factor, [1, 1].into());
            gradients.register::<B>(logits.id, B::float_mul(ops.state, factor));
        }
    }
}

impl<B: Learned + GradientPasses, C: CheckpointStrategy> Learned for Autodiff<B, C> {
    fn known(
        logits: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        value: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (_, of_logits) = logits.into_parts();
        let [gradient, value] = [gradient, value].map(|tensor| tensor.into_primitive());
        match KnownBack.prepare::<C>([of_logits]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish(gradient, value),
            OpsKind::UnTracked(operation) => operation.finish(value),
        }
    }

    fn nested_attention(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        has_mask: bool,
    ) -> FloatTensor<Self> {
        let [(sums, of_sums), (biases, of_biases)] = [sums, biases].map(|parent| parent.into_parts());
        let mask = mask.into_primitive();
        let shape = biases.shape();
        match AttentionBack.prepare::<C>([of_sums, of_biases]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let (mixed, queries, keys, values, weights) =
                    B::attended(sums, biases, mask.clone(), samples, heads, has_mask);
                operation.finish(Attended { queries, keys, values, weights, mask, has_mask, shape }, mixed)
            }
            OpsKind::UnTracked(operation) => {
                operation.finish(B::nested_attention(sums, biases, mask, samples, heads, has_mask))
            }
        }
    }

    fn hidden(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((sums, of_sums), (bias, of_bias)) = (sums.into_parts(), bias.into_parts());
        match HiddenBack.prepare::<C>([of_sums, of_bias]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let hidden = B::hidden(sums.clone(), bias.clone());
                operation.finish(Summed { sums, bias }, hidden)
            }
            OpsKind::UnTracked(operation) => operation.finish(B::hidden(sums, bias)),
        }
    }

    fn normed(
        stream: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        drawn: FloatTensor<Self>,
        share: f32,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let to = sums.dtype();
        let [(stream, a), (sums, b), (parameters, c)] =
            [stream, sums, parameters].map(|parent| parent.into_parts());
        let drawn = drawn.into_primitive();
        match NormBack.prepare::<C>([a, b, c]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let (normed, normal, inverse) =
                    B::norm(stream, sums, parameters.clone(), drawn, share, epsilon);
                let place = Place::default();
                let kept = Normal { normal, inverse, parameters, share, to };
                let normed = operation.finish((kept, place.clone()), normed);
                place.open(normed.id().value);
                normed
            }
            OpsKind::UnTracked(operation) => {
                operation.finish(B::normed(stream, sums, parameters, drawn, share, epsilon))
            }
        }
    }
}

pub(crate) fn attention(
    sums: Tensor<3>,
    biases: Tensor<2>,
    mask: Option<Tensor<4>>,
    of: Samples,
) -> Tensor<2> {
    let has_mask = mask.is_some();
    // An operation has all of its tensors: another stands for a mask that is not there, and is not read.
    let mask = match mask {
        Some(mask) => mask.detach().into_dispatch(),
        None => biases.clone().detach().into_dispatch(),
    };
    let (sums, biases) = (sums.into_dispatch(), biases.into_dispatch());
    Tensor::from_dispatch(Dispatch::nested_attention(sums, biases, mask, of.count, of.heads, has_mask))
}

pub(crate) fn cross_entropy(logits: Tensor<2>, aim: Aim) -> Entropy {
    let fixed = logits.clone().inner();
    let share = aim.teacher.as_ref().map_or(0.0, |(_, share)| *share as f32);
    // An operation has all of its tensors: another stands for a teacher that is not there, and is not read.
    let taught = aim.teacher.map_or_else(|| fixed.clone(), |(taught, _)| taught.inner());
    let (loss, truth, gradient, probabilities) = Dispatch::entropy(
        fixed.into_dispatch(),
        aim.targets.inner().into_dispatch(),
        aim.weights.inner().into_dispatch(),
        taught.into_dispatch(),
        aim.smoothing as f32,
        share,
    );
    // What is on no tape is constant on that of the logits, if they are on one.
    let loss = Dispatch::known(logits.into_dispatch(), gradient, loss);
    let [loss, truth] = [loss, truth].map(Tensor::from_dispatch);
    Entropy { loss, truth, probabilities: Tensor::from_dispatch(probabilities) }
}

pub(crate) fn hidden(sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::hidden(sums.into_dispatch(), bias.into_dispatch()))
}

pub(crate) fn normed(
    stream: Tensor<2>,
    sums: Tensor<3>,
    parameters: Tensor<2>,
    dropped: Option<Dropped>,
    epsilon: f64,
) -> Tensor<2> {
    // An operation has all of its tensors: another stands for what is not dropped, and is not read.
    let (drawn, share) = match dropped {
        Some(Dropped { drawn, share }) => (drawn, share as f32),
        None => (stream.clone(), 0.0),
    };
    Tensor::from_dispatch(Dispatch::normed(
        stream.into_dispatch(),
        sums.into_dispatch(),
        parameters.into_dispatch(),
        drawn.detach().into_dispatch(),
        share,
        epsilon as f32,
    ))
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::tensor::Shape;

    pub fn attention(sums: &Shape) -> Shape {
        [sums[1], sums[2] / 3].into()
    }

    pub fn hidden(sums: &Shape) -> Shape {
        [sums[1], sums[2]].into()
    }
}
