use burn::module::{Module, Param};
use burn::nn::Dropout;
use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Tensor, s};

use crate::{ModelConfig, SubModel, host, precision};

/// A projection whose sub-models use the first rows and columns of one weight.
#[derive(Module, Debug)]
pub(crate) struct Dense {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Dense {
    /// `x [R, n]`, the first n inputs, to the first `outputs` outputs `[R, outputs]`, both in `f32`. The product is
    /// taken in the weight's type.
    ///
    /// The weight is sliced, which is a view on the CPU and copies nothing; rows are two-dimensional, since Burn
    /// would copy the view to fold a batch.
    pub fn forward(&self, x: Tensor<2>, outputs: usize) -> Tensor<2> {
        let [_, inputs] = x.dims();
        let weight = self.weight.val().slice(s![0..inputs, 0..outputs]);
        let bias = self.bias.val().slice(s![0..outputs]);
        precision::product(x, weight) + bias.unsqueeze()
    }
}

/// Keys and values of one block, each `[B, heads, positions, head width]`.
#[derive(Debug, Clone)]
pub(crate) struct KeysValues {
    pub keys: Tensor<4>,
    pub values: Tensor<4>,
}

impl KeysValues {
    /// The first `length` positions, of at most all, in memory of their own: a slice would hold the whole context's.
    fn prefix(self, length: usize) -> Self {
        let cut = |whole: Tensor<4>| {
            let part = whole.slice(s![.., .., 0..length, ..]);
            Tensor::empty(part.shape(), (&part.device(), part.dtype())).slice_assign(s![..], part)
        };
        Self { keys: cut(self.keys), values: cut(self.values) }
    }

    /// Bytes of both.
    pub fn bytes(&self) -> u64 {
        let bytes = |t: &Tensor<4>| (t.shape().num_elements() * t.dtype().size()) as u64;
        bytes(&self.keys) + bytes(&self.values)
    }

    /// These positions, then those of `fresh`.
    fn followed_by(&self, fresh: KeysValues) -> Self {
        Self {
            keys: Tensor::cat(vec![self.keys.clone(), fresh.keys], 2),
            values: Tensor::cat(vec![self.values.clone(), fresh.values], 2),
        }
    }
}

/// What active positions attend over besides themselves, and what is kept for the next call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Samples in the batch.
    pub batch: usize,
    /// Positions that come before the active ones.
    pub cached: Option<&'a KeysValues>,
    /// How many positions, cached ones first, to keep.
    pub keep: usize,
}

/// Softmax attention of which a sub-model uses the first heads.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub query: Dense,
    pub key: Dense,
    pub value: Dense,
    pub output: Dense,
    pub dropout: Dropout,
    /// Whether exponentials are taken on the host, where a tape is.
    pub on_host: bool,
}

impl Attention {
    /// `x [B * A, features]` attends over the cached positions and its own.
    ///
    /// Returns `[B * A, features]` and what is to be kept of the context's keys and values.
    pub fn forward(
        &self,
        x: Tensor<2>,
        context: Context,
        config: &ModelConfig,
        sub_model: SubModel,
    ) -> (Tensor<2>, Option<KeysValues>) {
        let Context { batch, cached, keep } = context;
        let (heads, width) = (sub_model.heads(config), sub_model.attention_width(config));
        let [rows, features] = x.dims();
        // What is cached and what attention multiplies has the type of the weights.
        let compute = self.query.weight.val().dtype();
        let by_head = |t: Tensor<2>| {
            let t = precision::cast(t, compute);
            t.reshape([batch, rows / batch, heads, config.head_width()]).swap_dims(1, 2)
        };
        let query = by_head(self.query.forward(x.clone(), width));
        let fresh = KeysValues {
            keys: by_head(self.key.forward(x.clone(), width)),
            values: by_head(self.value.forward(x, width)),
        };
        let all = match cached {
            Some(cached) => cached.followed_by(fresh),
            None => fresh,
        };
        let mixed = self.mix(query, all.keys.clone(), all.values.clone());
        let kept = (keep > 0).then(|| all.prefix(keep));
        let mixed = mixed.swap_dims(1, 2).reshape([rows, width]);
        (self.output.forward(mixed, features), kept)
    }

    fn mix(&self, query: Tensor<4>, keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
        // The fused operation has no backward and knows no dropout on attention weights.
        if !query.device().is_autodiff() {
            return attention(query, keys, values, None, None, AttentionModuleOptions::default());
        }
        let [_, _, _, head_width] = query.dims();
        let compute = values.dtype();
        let scores = (query * (head_width as f64).powf(-0.5)).matmul(keys.swap_dims(2, 3));
        if self.dropout.prob == 0.0 && compute == DType::F32 {
            return weigh(scores, values, self.on_host);
        }
        let weights = self.dropout.forward(softmax(precision::full(scores), 3));
        precision::cast(weights, compute).matmul(values)
    }
}

/// `softmax(scores) values` whose tape holds the weights and nothing else of the scores' size.
///
/// With weights `P` and result `O`, and `G` what comes back to `O`, what goes back to the scores is
/// `P (G V' - rowsum(G O))`. That is also what goes back from `(P S) V - rowsum(P S) O`, where all but the scores `S` is
/// held fixed. So the softmax is taken off the tape, in one pass where the backend has one, and that term is added, less
/// its own value.
fn weigh(scores: Tensor<4>, values: Tensor<4>, on_host: bool) -> Tensor<4> {
    let off_the_tape = scores.clone().inner();
    let weights = if on_host { host::softmax(off_the_tape) } else { softmax(off_the_tape, 3) };
    let fixed = values.clone().inner();
    let [batch, heads, positions, width] = fixed.dims();
    // A column of ones gives the sums of rows in the same product.
    let ones = Tensor::ones([batch, heads, positions, 1], &fixed.device());
    let with_ones = Tensor::cat(vec![fixed, ones], 3);
    let moved = (scores * weights.clone()).matmul(with_ones);
    // A tensor off the tape is a constant beside one that is on it.
    let mixed = weights.matmul(values);
    let sums = moved.clone().slice(s![.., .., .., width..]);
    let back = moved.slice(s![.., .., .., 0..width]) - sums * mixed.clone().inner();
    mixed + (back.clone() - back.detach())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn weighing_and_its_gradients_are_those_of_a_plain_softmax() {
        let device = Device::flex().autodiff();
        let drawn = |shape: [usize; 4], scale: f64| {
            Tensor::<4>::random(shape, Distribution::Normal(0.0, scale), &device).require_grad()
        };
        let (scores, values) = (drawn([2, 3, 5, 7], 3.0), drawn([2, 3, 7, 4], 1.0));
        let comes_back = drawn([2, 3, 5, 4], 1.0).detach();
        let gradients = |mixed: &Tensor<4>| {
            let grads = (mixed.clone() * comes_back.clone()).sum().backward();
            [scores.grad(&grads).unwrap(), values.grad(&grads).unwrap()]
        };
        let plain = softmax(scores.clone(), 3).matmul(values.clone());
        let farthest = |a: Tensor<4>, b: Tensor<4>| (a - b).abs().max().into_scalar::<f32>();
        let gradients_of_plain = gradients(&plain);
        for on_host in [false, true] {
            let ours = weigh(scores.clone(), values.clone(), on_host);
            for (a, b) in gradients(&ours).into_iter().zip(&gradients_of_plain) {
                assert!(farthest(a, b.clone()) < 2e-6);
                assert!(b.clone().abs().max().into_scalar::<f32>() > 0.1);
            }
            assert!(farthest(ours.inner(), plain.clone().inner()) < 1e-6);
        }
    }
}
