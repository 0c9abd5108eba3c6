use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{DType, Device, Int, Tensor, s};

use super::{Attended, Branch, GoesOn, Kernels, Normed, Stream};
use crate::attention::Dense;
use crate::block::{Block, Mlp};
use crate::cache::{Cached, KeysValues, KvCache};
use crate::compute::whole_rows;
use crate::embedding::Embedding;
use crate::{ModelConfig, Norm, SubModel};

/// The blocks of a model with the kernels of its device.
pub(crate) struct ByKernels<'a> {
    pub kernels: &'a dyn Kernels,
    pub config: &'a ModelConfig,
    pub blocks: &'a [Block],
    /// Behind the last block, where LayerNorms stand before the branches.
    pub last_norm: Option<&'a LayerNorm>,
    /// One for each block.
    pub biases: &'a [Biases],
    pub sub_model: SubModel,
    /// Its place in the configuration's list.
    pub place: usize,
    pub batch: usize,
    /// Type of products.
    pub compute: DType,
}

/// A block's biases in the type that a device's products take them in: like the joined weights parameters, so that whatever moves or
/// loads those does so with these.
#[derive(Module, Debug)]
pub(crate) struct Biases {
    /// Of queries, keys and values, for each sub-model.
    qkv: Vec<Param<Tensor<1>>>,
    up: Param<Tensor<1>>,
}

impl Biases {
    /// Those of a block whose queries, keys and values are joined.
    pub fn new(block: &Block, kernels: &dyn Kernels) -> Self {
        let to = kernels.bias_type(block.mlp.up.weight.val().dtype());
        let cast = |dense: &Dense| Param::from_tensor(dense.bias.val().cast(to));
        Self { qkv: block.attention.joined.iter().map(cast).collect(), up: cast(&block.mlp.up) }
    }
}

impl ByKernels<'_> {
    /// What stands before the first block, of `tokens` at `positions`, both `[B, A]`.
    pub fn embedded(&self, embedding: &Embedding, [tokens, positions]: [Tensor<2, Int>; 2]) -> Normed {
        let embedded = |on, to| embedding.forward_by(self.kernels, tokens, positions, on, to);
        match self.goes_on() {
            // The first block has a LayerNorm of its own.
            GoesOn::Past => self.first(embedded(GoesOn::Through, DType::F32).input),
            on => embedded(on, self.compute),
        }
    }

    /// How the residual stream goes on from block to block.
    fn goes_on(&self) -> GoesOn {
        match self.config.norm {
            Norm::Pre => GoesOn::Past,
            Norm::Post => GoesOn::to_products_of(self.compute),
        }
    }

    /// The stream `[B * A, D]` before the first block, and what that takes.
    pub fn first(&self, x: Tensor<2>) -> Normed {
        let stream = Stream::from(x.clone());
        match (self.config.norm, self.blocks.first()) {
            (Norm::Pre, Some(block)) => {
                let norm = (&block.attention_norm).into();
                self.kernels.add_norm(stream, None, norm, GoesOn::Past, self.compute)
            }
            _ => Normed { stream, input: x.cast(self.compute) },
        }
    }

    /// From what stands before the first block to the stream `[1, B * A, D]` after the last; and, where `keep` is above 0, each
    /// block's buffers, with the keys and values of the first `keep` positions of the context.
    pub fn through_blocks(
        &self,
        first: Normed,
        cache: Option<KvCache>,
        keep: usize,
    ) -> (Tensor<3>, Vec<KeysValues>) {
        let Normed { mut stream, mut input } = first;
        let [rows, width] = input.dims();
        let length = cache.as_ref().map_or(0, KvCache::len);
        let room = Room { device: input.device(), length, positions: length + rows / self.batch, keep };
        let mut cached = cache.into_iter().flat_map(KvCache::into_blocks);
        let (mut kept, mut written) = (Vec::new(), None);
        let on = self.goes_on();
        let all = self.blocks.iter().zip(self.biases).zip(behind(self.blocks, self.last_norm));
        for (index, ((block, biases), [middle, last])) in all.enumerate() {
            // What is not to be kept is written over by the next block.
            let buffer = self.buffer(cached.next().or_else(|| written.take()), &room);
            let (branch, all) = self.attention(block, biases, input, buffer, &room);
            let normed = self.kernels.add_norm(stream, Some(branch), middle.into(), on, self.compute);
            if keep > 0 {
                kept.push(all);
            } else {
                written = Some(Cached { buffer: all, length: 0 });
            }
            let branch = self.mlp(block, biases, normed.input);
            // Behind the last block the stream is normed wherever LayerNorms stand, and leaves in f32.
            let is_last = index + 1 == self.blocks.len();
            let on = if is_last { GoesOn::Through } else { on };
            let next = self.kernels.add_norm(normed.stream, Some(branch), last.into(), on, self.compute);
            (stream, input) = (next.stream, next.input);
        }
        (stream.full().reshape([1, rows, width]), kept)
    }

    /// Buffers for the context, with what is cached of it.
    fn buffer(&self, cached: Option<Cached>, room: &Room) -> KeysValues {
        let (heads, width) = (self.sub_model.heads(self.config), self.config.head_width());
        let shape = [self.batch, heads, whole_rows(room.positions), width];
        // Kernels write all that is behind what is cached.
        let unwritten = |positions: usize| {
            KeysValues::unwritten([self.batch, heads, positions, width], &room.device, self.compute)
        };
        let Some(Cached { buffer, .. }) = cached else {
            return unwritten(shape[2]);
        };
        if buffer.keys.dims() == shape {
            return buffer;
        }
        let rest = unwritten(shape[2] - room.length);
        let fitted = |old: Tensor<4>, rest: Tensor<4>| {
            Tensor::cat(vec![old.slice(s![.., .., ..room.length, ..]), rest], 2)
        };
        KeysValues { keys: fitted(buffer.keys, rest.keys), values: fitted(buffer.values, rest.values) }
    }

    fn attention(
        &self,
        block: &Block,
        biases: &Biases,
        input: Tensor<2>,
        buffer: KeysValues,
        room: &Room,
    ) -> (Branch, KeysValues) {
        let [_, features] = input.dims();
        let joined = &block.attention.joined[self.place];
        let (weight, bias) = (joined.weight.val(), biases.qkv[self.place].val());
        let KeysValues { keys, values } = buffer;
        let Attended { mixed, keys, values } =
            self.kernels.attend_anew(input, weight, bias, keys, values, room.length, room.keep);
        (self.branch(&block.attention.output, mixed, features), KeysValues { keys, values })
    }

    fn mlp(&self, block: &Block, biases: &Biases, input: Tensor<2>) -> Branch {
        let [_, features] = input.dims();
        let Mlp { up, down, .. } = &block.mlp;
        let outputs = self.sub_model.hidden(self.config);
        let hidden = self.kernels.gelu(input, up.weight.val(), biases.up.val(), outputs, self.compute);
        self.branch(down, hidden, features)
    }

    /// Small sub-models move more than they compute, of which branches are much: theirs are rounded. Those of large ones
    /// are not, since the stream keeps what rounding does to it, and would bring logits of bf16 a fifth further from those of
    /// `f32` (1.6e-2 to 1.9e-2 of parity's samples).
    fn branch_type(&self) -> DType {
        let is_small = self.sub_model.hidden(self.config) <= self.config.width;
        if is_small { self.compute } else { DType::F32 }
    }

    /// A projection to the residual stream.
    fn branch(&self, dense: &Dense, x: Tensor<2>, outputs: usize) -> Branch {
        let parts = self.kernels.product(x, dense.weight.val(), outputs, self.branch_type());
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
    /// Those that are to be cached.
    keep: usize,
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
