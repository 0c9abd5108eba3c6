//! A block as devices compute it that have kernels for it: what stands between two products is one pass over memory.
//!
//! By a backend's operations it is several (a softmax four, over scores of which all but one are in `f32`), or, where the backend
//! fuses, as many as it can join. This module says what a kernel computes and in which order; who has a device's kernels
//! implements [`Kernels`] (`mgnt-kernels` does, for those of CubeCL) and hands them to
//! [`NestedTransformer::with_kernels`](crate::NestedTransformer::with_kernels).

mod on_tape;
mod operations;

use std::fmt::Debug;

use burn::nn::LayerNorm;
use burn::tensor::{DType, Device, Tensor, s};

use crate::attention::Dense;
use crate::block::{Block, Mlp};
use crate::cache::{Cached, KeysValues, KvCache};
use crate::compute::{parts, whole_rows};
use crate::transformer::NORM_EPSILON;
use crate::{ModelConfig, Norm, SubModel, precision};

pub(crate) use on_tape::OnTape;
pub use operations::Operations;

/// Kernels of a device, each one pass (attention: products with passes between). Rows are R = B * A, of B samples with A
/// active positions each; products take operands of one type and sum in `f32`.
pub trait Kernels: Debug + Send + Sync {
    /// `x [R, n]` times the first n rows and `outputs` columns of `weight`, which may be the view of a transposed one, in `parts` of n that are not summed yet: `[parts, R,
    /// outputs]` in `f32`, which nothing has rounded.
    fn product(&self, x: Tensor<2>, weight: Tensor<2>, outputs: usize, parts: usize) -> Tensor<3>;

    /// Queries, keys and values from `sums [1, R, 3 W]` of their product and `bias [3 W]`, in the type of the buffers: queries
    /// `[B, heads, A, head width]`; keys and values into the buffers `[B, heads, room, head width]`, positions `from` to
    /// `from + A`. Returns queries and both buffers; what else is in them stays.
    fn heads(
        &self,
        sums: Tensor<3>,
        bias: Tensor<1>,
        keys: Tensor<4>,
        values: Tensor<4>,
        from: usize,
    ) -> Heads;

    /// Softmax attention of `queries [B, heads, A, head width]` over the first `positions` of keys and values, scores
    /// divided by the root of the head width, the softmax in `f32`: `[R, heads * head width]` in the type of the operands.
    fn attend(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>, positions: usize) -> Tensor<2>;

    /// Tanh gelu of `sums [1, R, F]` and the first F of `bias`: `[R, F]` in type `to`.
    fn gelu(&self, sums: Tensor<3>, bias: Tensor<1>, to: DType) -> Tensor<2>;

    /// LayerNorm of `stream [R, D]` with a branch, its `parts [P, R, D]` and `bias [D]`, added: that sum and its
    /// LayerNorm, both `[R, D]`, the sum in `f32` and the other in type `to`. Where `is_post`, the LayerNorm in `f32` takes
    /// the sum's place.
    fn add_norm(
        &self,
        stream: Tensor<2>,
        branch: Option<Branch>,
        norm: Scales,
        is_post: bool,
        to: DType,
    ) -> Normed;

    /// As [`heads`](Self::heads) and [`attend`](Self::attend), for samples that attend over themselves alone; of a type
    /// throughout, that of `sums [1, R, 3 W]`. It may be on a tape, of which nothing but the weights has the size of scores.
    /// Where there is a `mask [samples, heads, A, whole rows of A]`, weights are multiplied by it.
    fn attention(&self, sums: Tensor<3>, bias: Tensor<1>, mask: Option<Tensor<4>>, of: Samples) -> Tensor<2>;

    /// As [`gelu`](Self::gelu) to the type of `sums [1, R, F]`. It may be on a tape.
    fn hidden(&self, sums: Tensor<3>, bias: Tensor<1>) -> Tensor<2>;

    /// LayerNorm of `stream [R, D]` with the `sums [1, R, D]` of a branch and its `bias` added, in `f32`. It may be on a tape.
    fn normed(&self, stream: Tensor<2>, sums: Tensor<3>, bias: Tensor<1>, norm: Scales) -> Tensor<2>;
}

/// What [`Kernels::attention`] attends within.
#[derive(Debug, Clone, Copy)]
pub struct Samples {
    /// How many there are.
    pub count: usize,
    /// Heads of each.
    pub heads: usize,
}

/// What [`Kernels::heads`] returns.
#[derive(Debug)]
pub struct Heads {
    /// `[B, heads, A, head width]`.
    pub queries: Tensor<4>,
    /// `[B, heads, room, head width]`.
    pub keys: Tensor<4>,
    /// `[B, heads, room, head width]`.
    pub values: Tensor<4>,
}

/// A branch that is to be added to the residual stream.
#[derive(Debug)]
pub struct Branch {
    /// Parts of its product, `[P, R, D]`, `f32`.
    pub parts: Tensor<3>,
    /// `[D]`, `f32`.
    pub bias: Tensor<1>,
}

/// Parameters of a LayerNorm.
#[derive(Debug)]
pub struct Scales {
    /// What the normal is multiplied by, `[D]`.
    pub gamma: Tensor<1>,
    /// What is added then, `[D]`.
    pub beta: Tensor<1>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl From<&LayerNorm> for Scales {
    fn from(norm: &LayerNorm) -> Self {
        let gamma = norm.gamma.val();
        let beta = match &norm.beta {
            Some(beta) => beta.val(),
            None => Tensor::zeros_like(&gamma),
        };
        Self { gamma, beta, epsilon: NORM_EPSILON }
    }
}

/// What [`Kernels::add_norm`] returns: the residual stream, and what the next product takes.
#[derive(Debug)]
pub struct Normed {
    /// `[R, D]`, `f32`.
    pub stream: Tensor<2>,
    /// `[R, D]`.
    pub input: Tensor<2>,
}

/// The blocks of a model with the kernels of its device.
pub(crate) struct ByKernels<'a> {
    pub kernels: &'a dyn Kernels,
    pub config: &'a ModelConfig,
    pub sub_model: SubModel,
    /// Its place in the configuration's list.
    pub place: usize,
    pub batch: usize,
    /// Type of products.
    pub compute: DType,
}

impl ByKernels<'_> {
    /// `x [1, B * A, D]` before the first block to that after the last, and the blocks' keys and values of the whole context
    /// where they are to be kept.
    pub fn through_blocks(
        &self,
        blocks: &[Block],
        last_norm: Option<&LayerNorm>,
        x: Tensor<3>,
        cache: Option<KvCache>,
        keep: bool,
    ) -> (Tensor<3>, Vec<KeysValues>) {
        let [_, rows, width] = x.dims();
        let length = cache.as_ref().map_or(0, KvCache::len);
        let room = Room { device: x.device(), length, positions: length + rows / self.batch };
        let mut cached = cache.into_iter().flat_map(KvCache::into_blocks);
        let (mut kept, mut written) = (Vec::new(), None);
        let mut stream = x.reshape([rows, width]);
        let mut input = match (self.config.norm, blocks.first()) {
            (Norm::Pre, Some(block)) => {
                let norm = (&block.attention_norm).into();
                self.kernels.add_norm(stream.clone(), None, norm, false, self.compute).input
            }
            _ => precision::cast(stream.clone(), self.compute),
        };
        let is_post = self.config.norm == Norm::Post;
        for (index, (block, [middle, last])) in blocks.iter().zip(behind(blocks, last_norm)).enumerate() {
            // What is not to be kept is written over by the next block.
            let buffer = self.buffer(cached.next().or_else(|| written.take()), &room);
            let (branch, all) = self.attention(block, input, buffer, &room);
            let normed = self.kernels.add_norm(stream, Some(branch), middle.into(), is_post, self.compute);
            if keep {
                kept.push(all);
            } else {
                written = Some(Cached { buffer: all, length: 0 });
            }
            let branch = self.mlp(block, normed.input);
            // Behind the last block the stream is normed wherever LayerNorms stand.
            let is_last = index + 1 == blocks.len();
            let is_post = is_post || is_last;
            let next = self.kernels.add_norm(normed.stream, Some(branch), last.into(), is_post, self.compute);
            (stream, input) = (next.stream, next.input);
        }
        (stream.reshape([1, rows, width]), kept)
    }

    /// Buffers for the context, with what is cached of it.
    fn buffer(&self, cached: Option<Cached>, room: &Room) -> KeysValues {
        let (heads, width) = (self.sub_model.heads(self.config), self.config.head_width());
        let shape = [self.batch, heads, whole_rows(room.positions), width];
        let zeros = |positions: usize| {
            KeysValues::zeros([self.batch, heads, positions, width], &room.device, self.compute)
        };
        let Some(Cached { buffer, .. }) = cached else {
            return zeros(shape[2]);
        };
        if buffer.keys.dims() == shape {
            return buffer;
        }
        let rest = zeros(shape[2] - room.length);
        let fitted = |old: Tensor<4>, rest: Tensor<4>| {
            Tensor::cat(vec![old.slice(s![.., .., ..room.length, ..]), rest], 2)
        };
        KeysValues { keys: fitted(buffer.keys, rest.keys), values: fitted(buffer.values, rest.values) }
    }

    fn attention(
        &self,
        block: &Block,
        input: Tensor<2>,
        buffer: KeysValues,
        room: &Room,
    ) -> (Branch, KeysValues) {
        let [_, features] = input.dims();
        let joined = &block.attention.joined[self.place];
        let sums = self.sums(joined, input, 3 * self.sub_model.attention_width(self.config));
        let Heads { queries, keys, values } =
            self.kernels.heads(sums, joined.bias.val(), buffer.keys, buffer.values, room.length);
        let mixed = self.kernels.attend(queries, keys.clone(), values.clone(), room.positions);
        (self.branch(&block.attention.output, mixed, features), KeysValues { keys, values })
    }

    fn mlp(&self, block: &Block, input: Tensor<2>) -> Branch {
        let [_, features] = input.dims();
        let Mlp { up, down, .. } = &block.mlp;
        let sums = self.sums(up, input, self.sub_model.hidden(self.config));
        let hidden = self.kernels.gelu(sums, up.bias.val(), self.compute);
        self.branch(down, hidden, features)
    }

    fn sums(&self, dense: &Dense, x: Tensor<2>, outputs: usize) -> Tensor<3> {
        self.kernels.product(x, dense.weight.val(), outputs, 1)
    }

    /// A projection to the residual stream, in as many parts as give a device enough to do.
    fn branch(&self, dense: &Dense, x: Tensor<2>, outputs: usize) -> Branch {
        let [rows, inputs] = x.dims();
        let parts = self.kernels.product(x, dense.weight.val(), outputs, parts(rows, inputs, outputs));
        Branch { parts, bias: dense.bias.val() }
    }
}

/// The context of a forward.
struct Room {
    device: Device,
    /// Positions that are cached.
    length: usize,
    /// All positions.
    positions: usize,
}

/// The LayerNorms that stand behind the two branches of each block: its own, or those before the next branch.
fn behind<'a>(blocks: &'a [Block], last_norm: Option<&'a LayerNorm>) -> Vec<[&'a LayerNorm; 2]> {
    match last_norm {
        None => blocks.iter().map(|block| [&block.attention_norm, &block.mlp_norm]).collect(),
        Some(last) => {
            let next = blocks.iter().skip(1).map(|block| &block.attention_norm).chain([last]);
            blocks.iter().zip(next).map(|(block, next)| [&block.mlp_norm, next]).collect()
        }
    }
}
