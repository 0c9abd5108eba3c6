//! The kernels that may be on a tape, and what goes back through them.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_cubecl::CubeBackend;
use mgnt_model::kernels::{Aim, Dropped, Entropy, Samples, Scales};

use crate::cuda::gelu;
use crate::cuda::gradients::GradientPasses;

/// Operations with one result, which Burn's tape knows how to hold.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait Learned: Backend {
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(dtype = sums, shape = shapes::attention(sums))]
    fn nested_attention(
        sums: FloatTensor<Self>,
        of_queries: FloatTensor<Self>,
        of_keys: FloatTensor<Self>,
        of_values: FloatTensor<Self>,
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
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
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
        of_queries: FloatTensor<Self>,
        of_keys: FloatTensor<Self>,
        of_values: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        has_mask: bool,
    ) -> FloatTensor<Self> {
        Self::attended(sums, of_queries, of_keys, of_values, mask, samples, heads, has_mask).0
    }

    fn hidden(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let to = sums.dtype;
        gelu::of_sums(sums, bias, to)
    }

    fn normed(
        stream: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        drawn: FloatTensor<Self>,
        share: f32,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        Self::norm(stream, sums, bias, gamma, beta, drawn, share, epsilon).0
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
    /// How many numbers a bias has.
    whole: usize,
}

#[derive(Debug)]
struct AttentionBack;

impl<B: GradientPasses> Backward<B, 4> for AttentionBack {
    type State = Attended<B>;

    fn backward(self, ops: Ops<Attended<B>, 4>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let Attended { queries, keys, values, weights, mask, has_mask, whole } = ops.state;
        let of_sums = B::attended_back(gradient, queries, keys, values, weights, mask, has_mask);
        let [sums, a, b, c] = ops.parents;
        if [&a, &b, &c].iter().any(|bias| bias.is_some()) {
            let (queries, keys, values) = B::sum_of_three(of_sums.clone(), whole);
            for (bias, back) in [(a, queries), (b, keys), (c, values)] {
                if let Some(bias) = bias {
                    gradients.register::<B>(bias.id, back);
                }
            }
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
        let whole = ops.state.bias.shape()[0];
        let of_sums = B::hidden_back(gradient, ops.state.sums, ops.state.bias);
        let [sums, bias] = ops.parents;
        if let Some(bias) = bias {
            gradients.register::<B>(bias.id, B::sum_of_columns(of_sums.clone(), whole));
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
    gamma: FloatTensor<B>,
    drawn: FloatTensor<B>,
    share: f32,
    /// Type of the sums.
    to: DType,
}

#[derive(Debug)]
struct NormBack;

impl<B: GradientPasses> Backward<B, 5> for NormBack {
    type State = Normal<B>;

    fn backward(self, ops: Ops<Normal<B>, 5>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let Normal { normal, inverse, gamma, drawn, share, to } = ops.state;
        let [stream, sums, bias, of_gamma, of_beta] = ops.parents;
        let (of_stream, of_sums) =
            B::norm_back(gradient.clone(), normal.clone(), inverse, gamma, drawn.clone(), share, to);
        if [&bias, &of_gamma, &of_beta].iter().any(|parameter| parameter.is_some()) {
            let (beta, gamma, branch) = B::sums_of_norm(gradient, normal, of_stream.clone(), drawn, share);
            for (parameter, back) in [(of_beta, beta), (of_gamma, gamma), (bias, branch)] {
                if let Some(parameter) = parameter {
                    gradients.register::<B>(parameter.id, back);
                }
            }
        }
        if let Some(sums) = sums {
            gradients.register::<B>(sums.id, of_sums);
        }
        if let Some(stream) = stream {
            gradients.register::<B>(stream.id, of_stream);
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
        of_queries: FloatTensor<Self>,
        of_keys: FloatTensor<Self>,
        of_values: FloatTensor<Self>,
        mask: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        has_mask: bool,
    ) -> FloatTensor<Self> {
        let [(sums, of_sums), (of_queries, a), (of_keys, b), (of_values, c)] =
            [sums, of_queries, of_keys, of_values].map(|parent| parent.into_parts());
        let mask = mask.into_primitive();
        let whole = of_queries.shape()[0];
        match AttentionBack.prepare::<C>([of_sums, a, b, c]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let (mixed, queries, keys, values, weights) =
                    B::attended(sums, of_queries, of_keys, of_values, mask.clone(), samples, heads, has_mask);
                operation.finish(Attended { queries, keys, values, weights, mask, has_mask, whole }, mixed)
            }
            OpsKind::UnTracked(operation) => {
                let mixed =
                    B::nested_attention(sums, of_queries, of_keys, of_values, mask, samples, heads, has_mask);
                operation.finish(mixed)
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
        bias: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        drawn: FloatTensor<Self>,
        share: f32,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let to = sums.dtype();
        let parents = [stream, sums, bias, gamma, beta];
        let [(stream, a), (sums, b), (bias, c), (gamma, d), (beta, e)] =
            parents.map(|parent| parent.into_parts());
        let drawn = drawn.into_primitive();
        match NormBack.prepare::<C>([a, b, c, d, e]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let (normed, normal, inverse) =
                    B::norm(stream, sums, bias, gamma.clone(), beta, drawn.clone(), share, epsilon);
                operation.finish(Normal { normal, inverse, gamma, drawn, share, to }, normed)
            }
            OpsKind::UnTracked(operation) => {
                operation.finish(B::normed(stream, sums, bias, gamma, beta, drawn, share, epsilon))
            }
        }
    }
}

pub(crate) fn attention(
    sums: Tensor<3>,
    biases: [Tensor<1>; 3],
    mask: Option<Tensor<4>>,
    of: Samples,
) -> Tensor<2> {
    let has_mask = mask.is_some();
    // An operation has all of its tensors: another stands for a mask that is not there, and is not read.
    let mask = match mask {
        Some(mask) => mask.detach().into_dispatch(),
        None => biases[0].clone().detach().into_dispatch(),
    };
    let [queries, keys, values] = biases.map(Tensor::into_dispatch);
    let sums = sums.into_dispatch();
    Tensor::from_dispatch(Dispatch::nested_attention(
        sums, queries, keys, values, mask, of.count, of.heads, has_mask,
    ))
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
    bias: Tensor<1>,
    dropped: Option<Dropped>,
    norm: Scales,
) -> Tensor<2> {
    // An operation has all of its tensors: another stands for what is not dropped, and is not read.
    let (drawn, share) = match dropped {
        Some(Dropped { drawn, share }) => (drawn, share as f32),
        None => (stream.clone(), 0.0),
    };
    Tensor::from_dispatch(Dispatch::normed(
        stream.into_dispatch(),
        sums.into_dispatch(),
        bias.into_dispatch(),
        norm.gamma.into_dispatch(),
        norm.beta.into_dispatch(),
        drawn.detach().into_dispatch(),
        share,
        norm.epsilon as f32,
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
