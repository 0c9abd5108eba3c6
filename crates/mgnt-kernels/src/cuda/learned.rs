//! The kernels that may be on a tape, and their backward passes.

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape};
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::CheckpointStrategy;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_cubecl::CubeBackend;

use crate::cuda::dense_on_tape::rounded;
use crate::cuda::dropped::Dropout;
use crate::cuda::gelu;
use crate::cuda::gradients::{GradientPasses, before, to_bias};
use crate::cuda::norm_on_tape::StreamAs;
use crate::place::Place;

/// Operations of which the first result is on the tape.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"), Autodiff)]
pub(crate) trait Learned: Backend {
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(dtype = sums, shape = shapes::attention(sums))]
    fn nested_attention(
        sums: FloatTensor<Self>,
        biases: FloatTensor<Self>,
        key: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        dropout: Dropout,
    ) -> FloatTensor<Self>;

    #[fusion(dtype = sums, shape = shapes::rows(sums))]
    fn hidden(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `sums [1, R, V]` and the first V of `bias`, `[R, V]` in the type of that.
    #[fusion(dtype = bias, shape = shapes::rows(sums))]
    fn with_bias(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `[R, D]` in type `to`, and off the tape its normal. The gradient of the stream is that of `input`, and `stream` is what is
    /// read.
    #[allow(clippy::too_many_arguments, reason = "its tensors, one by one")]
    #[fusion(meta = shapes::normed)]
    fn normed(
        input: FloatTensor<Self>,
        stream: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        key: FloatTensor<Self>,
        is: StreamAs,
        dropout: Dropout,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `value [1]`, of which the gradient of `logits [R, V]` is known.
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
        key: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        dropout: Dropout,
    ) -> FloatTensor<Self> {
        Self::attended(sums, biases, key, samples, heads, dropout).0
    }

    fn hidden(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let to = sums.dtype;
        gelu::of_sums(sums, bias, to)
    }

    fn with_bias(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let [_, rows, columns] = sums.shape().dims();
        let sums = Self::float_reshape(rounded::<Self>(sums, bias.dtype), [rows, columns].into());
        let bias = Self::float_slice(bias, &[(0..columns).into()]);
        Self::float_add(sums, Self::float_reshape(bias, [1, columns].into()))
    }

    fn normed(
        _: FloatTensor<Self>,
        stream: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        key: FloatTensor<Self>,
        is: StreamAs,
        dropout: Dropout,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (input, normal, _) = Self::norm(stream, scales, sums, parameters, key, is, dropout, to);
        (input, normal)
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
    key: FloatTensor<B>,
    dropout: Dropout,
    /// Of the biases.
    shape: Shape,
}

#[derive(Debug)]
struct AttentionBack;

impl<B: GradientPasses> Backward<B, 2> for AttentionBack {
    type State = Attended<B>;

    fn backward(self, ops: Ops<Attended<B>, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let Attended { queries, keys, values, weights, key, dropout, shape } = ops.state;
        let of_sums = B::attended_back(gradient, queries, keys, values, weights, key, dropout);
        let [sums, biases] = ops.parents;
        if let Some(biases) = biases {
            let back = to_bias::<B>(biases.id, || gradients.consume::<B>(&biases), &of_sums, shape);
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
            let back = to_bias::<B>(bias.id, || gradients.consume::<B>(&bias), &of_sums, shape);
            gradients.register::<B>(bias.id, back);
        }
        if let Some(sums) = sums {
            gradients.register::<B>(sums.id, of_sums);
        }
    }
}

#[derive(Debug)]
struct BiasBack;

impl<B: GradientPasses> Backward<B, 2> for BiasBack {
    /// The type of the sums, and the shape of the bias.
    type State = (DType, Shape);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        let (to, shape) = ops.state;
        let [sums, bias] = ops.parents;
        if let Some(bias) = bias {
            let back = to_bias::<B>(bias.id, || gradients.consume::<B>(&bias), &gradient, shape);
            gradients.register::<B>(bias.id, back);
        }
        if let Some(sums) = sums {
            let [rows, columns] = gradient.shape().dims();
            let of_sums = B::float_reshape(rounded::<B>(gradient, to), [1, rows, columns].into());
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
    key: FloatTensor<B>,
    dropout: Dropout,
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
        let (Normal { normal, inverse, parameters, key, dropout, to }, _) = ops.state;
        let [stream, sums, of_parameters] = ops.parents;
        let (others, has_others) = match &of_parameters {
            Some(parent) => before(parent.id, || gradients.consume::<B>(parent), &gradient),
            None => (gradient.clone(), false),
        };
        let (of_stream, of_sums, back) =
            B::norm_back(gradient, normal, inverse, parameters, key, dropout, to, others, has_others);
        if let Some(parent) = of_parameters {
            gradients.register::<B>(parent.id, back);
        }
        if let Some(sums) = sums {
            gradients.register::<B>(sums.id, of_sums);
        }
        if let Some(stream) = stream {
            let all = match before(stream.id, || gradients.consume::<B>(&stream), &of_stream) {
                (others, true) => B::float_add(of_stream, others),
                (_, false) => of_stream,
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
        key: FloatTensor<Self>,
        samples: usize,
        heads: usize,
        dropout: Dropout,
    ) -> FloatTensor<Self> {
        let [(sums, of_sums), (biases, of_biases)] = [sums, biases].map(|parent| parent.into_parts());
        let key = key.into_primitive();
        let shape = biases.shape();
        match AttentionBack.prepare::<C>([of_sums, of_biases]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let (mixed, queries, keys, values, weights) =
                    B::attended(sums, biases, key.clone(), samples, heads, dropout);
                operation.finish(Attended { queries, keys, values, weights, key, dropout, shape }, mixed)
            }
            OpsKind::UnTracked(operation) => {
                operation.finish(B::nested_attention(sums, biases, key, samples, heads, dropout))
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

    fn with_bias(sums: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((sums, of_sums), (bias, of_bias)) = (sums.into_parts(), bias.into_parts());
        let kept = (sums.dtype(), bias.shape());
        let logits = B::with_bias(sums, bias);
        match BiasBack.prepare::<C>([of_sums, of_bias]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => operation.finish(kept, logits),
            OpsKind::UnTracked(operation) => operation.finish(logits),
        }
    }

    fn normed(
        input: FloatTensor<Self>,
        stream: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        sums: FloatTensor<Self>,
        parameters: FloatTensor<Self>,
        key: FloatTensor<Self>,
        is: StreamAs,
        dropout: Dropout,
        to: DType,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let of = sums.dtype();
        let [(_, a), (sums, b), (parameters, c)] =
            [input, sums, parameters].map(|parent| parent.into_parts());
        let [stream, scales, key] = [stream, scales, key].map(|tensor| tensor.into_primitive());
        let (normed, normal, inverse) =
            B::norm(stream, scales, sums, parameters.clone(), key.clone(), is, dropout, to);
        let fixed = Self::from_inner(normal.clone());
        match NormBack.prepare::<C>([a, b, c]).compute_bound().stateful() {
            OpsKind::Tracked(operation) => {
                let place = Place::default();
                let kept = Normal { normal, inverse, parameters, key, dropout, to: of };
                let normed = operation.finish((kept, place.clone()), normed);
                place.open(normed.id().value);
                (normed, fixed)
            }
            OpsKind::UnTracked(operation) => (operation.finish(normed), fixed),
        }
    }
}

/// What comes out, by what goes in.
#[cfg(feature = "fusion")]
mod shapes {
    use burn::backend::fusion::custom::TensorSpec;
    use burn::tensor::{DType, Shape};

    use super::{Dropout, StreamAs};

    pub fn attention(sums: &Shape) -> Shape {
        [sums[1], sums[2] / 3].into()
    }

    pub fn rows(sums: &Shape) -> Shape {
        [sums[1], sums[2]].into()
    }

    #[allow(clippy::too_many_arguments, reason = "as many as the operation has")]
    pub fn normed(
        _input: &TensorSpec,
        _stream: &TensorSpec,
        _scales: &TensorSpec,
        sums: &TensorSpec,
        _parameters: &TensorSpec,
        _key: &TensorSpec,
        _is: &StreamAs,
        _dropout: &Dropout,
        to: &DType,
    ) -> (TensorSpec, TensorSpec) {
        let spec = |of: DType| TensorSpec::new([sums.shape[1], sums.shape[2]].into(), of);
        (spec(*to), spec(DType::F32))
    }
}
