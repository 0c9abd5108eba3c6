use burn::module::{Module, Param};
use burn::nn::Dropout;
use burn::tensor::activation::softmax;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{DType, Device, Tensor, s};

use crate::cache::{Cached, KeysValues};
use crate::compute::whole_rows;
use crate::{ModelConfig, SubModel, host, precision};

/// A projection whose sub-models use the first rows and columns of one weight.
#[derive(Module, Debug)]
pub(crate) struct Dense {
    /// `[in, out]`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
    /// Whether its product is as exact as `f32` on tensor cores too.
    pub exact: bool,
}

impl Dense {
    /// `x [1, R, n]`, the first n inputs, to the first `outputs` outputs `[1, R, outputs]`, both in `f32`. The product
    /// is taken in the weight's type.
    ///
    /// The weight is sliced, which is a view on the CPU and copies nothing. A backend that fuses takes what comes in a row:
    /// so the cast is right behind what made `x`, and views come before the product, between it and the sum nothing.
    pub fn forward(&self, x: Tensor<3>, outputs: usize) -> Tensor<3> {
        let x = x.cast(self.weight.val().dtype());
        let [_, _, inputs] = x.dims();
        let weight = self.weight.val().slice(s![0..inputs, 0..outputs]);
        let bias = self.bias.val().slice(s![0..outputs]).unsqueeze();
        precision::product(x, weight, self.exact) + bias
    }
}

/// What active positions attend over besides themselves.
pub(crate) struct Context {
    /// Samples in the batch.
    pub batch: usize,
    /// Positions that come before the active ones, and the buffers of all; none are needed where nothing stands beside the
    /// active ones.
    pub cached: Option<Cached>,
    /// Positions beyond the context's, where a device likes them.
    pub beyond: Option<Beyond>,
}

/// Positions that stand behind those of the context and that nothing attends to: an odd number of scores in a row costs
/// an accelerator its vectors (docs/cuda.md: the softmax took a third of a block).
#[derive(Clone)]
pub(crate) struct Beyond {
    count: usize,
    /// What is added to scores, `[1, 1, 1, 1, positions]`: nothing for the context's, what no exponential leaves for the others.
    hidden: Tensor<5>,
}

impl Beyond {
    /// As many as make `positions` whole; `None` where they are.
    pub fn new(positions: usize, device: &Device) -> Option<Self> {
        let count = whole_rows(positions) - positions;
        if count == 0 {
            return None;
        }
        // Filled on the device: a graph records nothing that comes from the host.
        let context = Tensor::zeros([1, 1, 1, 1, positions], device);
        let hidden = Tensor::full([1, 1, 1, 1, count], HIDDEN, device);
        Some(Self { count, hidden: Tensor::cat(vec![context, hidden], 4) })
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Keys and values of the context, then zeros.
    fn after(&self, KeysValues { keys, values }: KeysValues) -> KeysValues {
        let longer = |all: Tensor<4>| {
            let [batch, heads, _, width] = all.dims();
            let zeros = Tensor::zeros([batch, heads, self.count, width], (&all.device(), all.dtype()));
            Tensor::cat(vec![all, zeros], 2)
        };
        KeysValues { keys: longer(keys), values: longer(values) }
    }

    /// Scores `[B, heads, A, positions]`, of which no exponential leaves anything for the positions beyond.
    fn hide(&self, scores: Tensor<4>) -> Tensor<4> {
        scores + self.hidden.clone().squeeze_dim(0)
    }
}

/// A score whose exponential is zero beside any other, and finite: products with it are.
const HIDDEN: f32 = -1e30;

/// Softmax attention of which a sub-model uses the first heads.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    pub query: Dense,
    pub key: Dense,
    pub value: Dense,
    pub output: Dense,
    /// Queries, keys and values of each sub-model from one product, in the order of the configuration: for accelerators, else
    /// none. Each has columns of its own, so that its queries, keys and values are views of what comes out.
    pub joined: Vec<Dense>,
    pub dropout: Dropout,
    /// Whether exponentials are taken on the host, where a tape is.
    pub on_host: bool,
}

impl Attention {
    /// With one product for queries, keys and values of each sub-model.
    pub fn join(&mut self, config: &ModelConfig) {
        let of = |p: usize| {
            let sub_model = SubModel::of_validated(p);
            let (features, width) = (sub_model.features(config), sub_model.attention_width(config));
            let apart = [&self.query, &self.key, &self.value];
            let weights = apart.map(|dense| dense.weight.val().slice(s![0..features, 0..width]));
            let biases = apart.map(|dense| dense.bias.val().slice(s![0..width]));
            Dense {
                weight: Param::from_tensor(Tensor::cat(weights.to_vec(), 1)),
                bias: Param::from_tensor(Tensor::cat(biases.to_vec(), 0)),
                exact: self.query.exact,
            }
        };
        self.joined = config.sub_models.iter().map(|&p| of(p)).collect();
    }

    /// Whether its scores come from a product, whose kernels like whole rows: not on processors; and off the tape where it is
    /// for accelerators, but in f16.
    ///
    /// Tensor cores multiply halves in the fused operation, which takes any number of positions. Nothing but f16 goes in: bf16
    /// would be taken apart into a dozen kernels, with a softmax in bf16.
    pub fn takes_whole_rows(&self) -> bool {
        let weight = self.query.weight.val();
        match weight.device().is_autodiff() {
            true => !self.on_host,
            false => !self.joined.is_empty() && weight.dtype() != DType::F16,
        }
    }

    /// Its projections.
    pub fn projections(&mut self) -> impl Iterator<Item = &mut Dense> {
        [&mut self.query, &mut self.key, &mut self.value, &mut self.output]
            .into_iter()
            .chain(&mut self.joined)
    }

    /// `x [1, B * A, features]` attends over the cached positions and its own.
    ///
    /// Returns `[1, B * A, features]`, and keys and values of the context.
    pub fn forward(
        &self,
        x: Tensor<3>,
        context: Context,
        config: &ModelConfig,
        sub_model: SubModel,
    ) -> (Tensor<3>, KeysValues) {
        let [_, rows, features] = x.dims();
        let Context { batch, cached, beyond } = context;
        let (query, fresh) = self.project(x, batch, config, sub_model);
        let all = match (cached, &beyond) {
            (Some(cached), beyond) => cached.followed_by(fresh, beyond.as_ref().map_or(0, Beyond::count)),
            (None, Some(beyond)) => beyond.after(fresh),
            (None, None) => fresh,
        };
        let mixed = self.mix(query, all.clone(), beyond);
        let mixed = mixed.swap_dims(1, 2).reshape([1, rows, sub_model.attention_width(config)]);
        (self.output.forward(mixed, features), all)
    }

    /// Queries `[B, heads, A, head width]`, keys and values of `x [1, B * A, features]`.
    fn project(
        &self,
        x: Tensor<3>,
        batch: usize,
        config: &ModelConfig,
        sub_model: SubModel,
    ) -> (Tensor<4>, KeysValues) {
        let (heads, width) = (sub_model.heads(config), config.head_width());
        let [_, rows, _] = x.dims();
        // What is cached and what attention multiplies has the type of the weights.
        let compute = self.query.weight.val().dtype();
        let by_head = |t: Tensor<3>| {
            let [_, _, outputs] = t.dims();
            t.cast(compute).reshape([batch, rows / batch, outputs / width, width])
        };
        let place = config.sub_models.iter().position(|&p| p == sub_model.p());
        // On a tape gradients are to reach the weights, which their copies would take.
        let joined = place.and_then(|place| self.joined.get(place)).filter(|_| !x.device().is_autodiff());
        let [query, keys, values] = match joined {
            Some(joined) => {
                let all = by_head(joined.forward(x, 3 * heads * width));
                [0, 1, 2].map(|i| all.clone().slice(s![.., .., i * heads..(i + 1) * heads, ..]))
            }
            None => [&self.query, &self.key, &self.value]
                .map(|dense| by_head(dense.forward(x.clone(), heads * width))),
        }
        .map(|t| t.swap_dims(1, 2));
        (query, KeysValues { keys, values })
    }

    fn mix(
        &self,
        query: Tensor<4>,
        KeysValues { keys, values }: KeysValues,
        beyond: Option<Beyond>,
    ) -> Tensor<4> {
        let compute = values.dtype();
        // The fused operation has no backward and knows no dropout on attention weights.
        if !query.device().is_autodiff() {
            let (exact, is_joined) = (self.query.exact, !self.joined.is_empty());
            return if is_joined && !self.takes_whole_rows() {
                in_whole_tiles(query, keys, values)
            } else if is_joined || exact {
                in_products(query, keys, values, beyond, exact)
            } else {
                attention(query, keys, values, None, None, AttentionModuleOptions::default())
            };
        }
        let scores = precision::full(scores(query, keys));
        let scores = match beyond {
            Some(beyond) => beyond.hide(scores),
            None => scores,
        };
        if self.dropout.prob == 0.0 {
            return weigh(scores, values, self.on_host);
        }
        let weights = self.dropout.forward(softmax(scores, 3));
        weights.cast(compute).matmul(values)
    }
}

/// Scaled products of queries and keys, `[B, heads, A, S]`.
fn scores(query: Tensor<4>, keys: Tensor<4>) -> Tensor<4> {
    let [_, _, _, head_width] = query.dims();
    (query * (head_width as f64).powf(-0.5)).matmul(keys.swap_dims(2, 3))
}

/// Attention as two products and a softmax in `f32`; positions beyond get no weight.
fn in_products(
    query: Tensor<4>,
    keys: Tensor<4>,
    values: Tensor<4>,
    beyond: Option<Beyond>,
    exact: bool,
) -> Tensor<4> {
    let compute = values.dtype();
    let ([batch, heads, active, width], [_, _, positions, _]) = (query.dims(), keys.dims());
    let scores = precision::matmul(query, keys.swap_dims(2, 3), exact);
    // As in `product`, another rank keeps the product out of the pass that follows; so that scaling is in that one, it
    // comes after the product.
    let scores = precision::full(scores.reshape([1, batch, heads, active, positions]));
    let scores = scores * (width as f64).powf(-0.5);
    let scores = match beyond {
        Some(beyond) => scores + beyond.hidden,
        None => scores,
    };
    let weights = softmax(scores, 4).cast(compute);
    precision::matmul(weights.reshape([batch, heads, active, positions]), values, exact)
}

/// Queries that an accelerator's fused attention takes at once. It takes no part of them, and its products have f16
/// operands whatever the type of the tensors (cubek-attention 0.3.1): so it is not for f32.
const TILE: usize = 32;

/// Attention with as many queries as tiles need; what comes of those beyond is dropped.
fn in_whole_tiles(query: Tensor<4>, keys: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
    let [batch, heads, active, width] = query.dims();
    let attend = |query| attention(query, keys, values, None, None, AttentionModuleOptions::default());
    if active.is_multiple_of(TILE) {
        return attend(query);
    }
    let beyond = active.next_multiple_of(TILE) - active;
    let zeros = Tensor::zeros([batch, heads, beyond, width], (&query.device(), query.dtype()));
    attend(Tensor::cat(vec![query, zeros], 2)).slice(s![.., .., ..active, ..])
}

/// `softmax(scores) values` whose tape holds the weights and nothing else of the scores' size. Scores are in `f32`; the
/// result has the values' type, in which products are taken.
///
/// With weights `P` and result `O`, and `G` the gradient of `O`, that of the scores is
/// `P (G V' - rowsum(G O))`. That is also the gradient from `(P S) V - rowsum(P S) O`, where all but the scores `S` is
/// held fixed. So the softmax is taken off the tape, in one pass where the backend has one, and that term is added, less
/// its own value.
fn weigh(scores: Tensor<4>, values: Tensor<4>, on_host: bool) -> Tensor<4> {
    let compute = values.dtype();
    let off_the_tape = scores.clone().inner();
    let weights = if on_host { host::softmax(host::apart(off_the_tape)) } else { softmax(off_the_tape, 3) };
    let fixed = values.clone().inner();
    let [batch, heads, positions, width] = fixed.dims();
    // A column of ones gives the sums of rows in the same product; kernels of accelerators like eight.
    let columns = if on_host { 1 } else { 8 };
    let ones = Tensor::ones([batch, heads, positions, columns], (&fixed.device(), compute));
    let with_ones = Tensor::cat(vec![fixed, ones], 3);
    let moved = (scores * weights.clone()).cast(compute).matmul(with_ones);
    // A tensor off the tape is a constant beside one that is on it.
    let mixed = weights.cast(compute).matmul(values);
    let part = |from: usize, to: usize| precision::full(moved.clone().slice(s![.., .., .., from..to]));
    let back = part(0, width) - part(width, width + 1) * precision::full(mixed.clone().inner());
    mixed + (back.clone() - back.detach()).cast(compute)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn queries_beyond_change_nothing() {
        let device = Device::flex();
        device.seed(1);
        let drawn = |positions: usize| {
            Tensor::<4>::random([2, 3, positions, 8], Distribution::Normal(0.0, 1.0), &device)
        };
        for active in [1, 31, 32, 33, 257] {
            let (query, keys, values) = (drawn(active), drawn(257), drawn(257));
            let plain = softmax(scores(query.clone(), keys.clone()), 3).matmul(values.clone());
            let tiled = in_whole_tiles(query, keys, values);
            assert_eq!(tiled.dims(), [2, 3, active, 8]);
            assert!((tiled - plain).abs().max().into_scalar::<f32>() < 1e-5, "{active} queries");
        }
    }

    #[test]
    fn weighing_and_its_gradients_are_those_of_a_plain_softmax() {
        let device = Device::flex().autodiff();
        device.seed(1);
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
        // Two positions beyond, of values that are not zero, take no part; and in halves it is as near as halves are.
        let beyond = Beyond::new(14, &device).unwrap();
        let (scores, values) = (drawn([2, 3, 5, 14], 3.0), drawn([2, 3, 14, 4], 1.0));
        let whole =
            |t: Tensor<4>, dimension| Tensor::cat(vec![t.clone(), t], dimension).narrow(dimension, 0, 16);
        let plain = softmax(scores.clone(), 3).matmul(values.clone());
        let gradients = |mixed: &Tensor<4>| {
            let grads = (precision::full(mixed.clone()) * comes_back.clone()).sum().backward();
            [scores.grad(&grads).unwrap(), values.grad(&grads).unwrap()]
        };
        let gradients_of_plain = gradients(&plain);
        for (compute, bound) in [(DType::F32, 2e-6), (DType::BF16, 2e-2)] {
            let values = whole(values.clone(), 2).cast(compute);
            let ours = weigh(beyond.hide(whole(scores.clone(), 3)), values, false);
            assert_eq!(ours.dtype(), compute);
            for (a, b) in gradients(&ours).into_iter().zip(&gradients_of_plain) {
                let largest = b.clone().abs().max().into_scalar::<f32>();
                let farthest = farthest(a, b.clone());
                assert!(farthest < bound * largest, "{compute:?}: {farthest} of {largest}");
            }
            assert!(farthest(precision::full(ours.inner()), plain.clone().inner()) < bound);
        }
    }
}
