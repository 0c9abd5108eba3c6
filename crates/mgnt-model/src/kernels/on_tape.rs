use burn::tensor::{DType, Device, Tensor};

use super::{Dropped, Kernels, LearnedBlock, LearnedStream, Samples};
use crate::{ModelConfig, SubModel};

/// The blocks of a model in training, with the kernels of its device: LayerNorm behind each sum, every position active and
/// nothing cached.
pub(crate) struct OnTape<'a> {
    pub kernels: &'a dyn Kernels,
    pub config: &'a ModelConfig,
    pub sub_model: SubModel,
    pub samples: usize,
    /// What dropout is a function of; else its key is drawn from the device.
    pub seed: Option<u64>,
}

impl OnTape<'_> {
    /// `x [1, R, D]` before the first block to that after the last.
    pub fn through_blocks(&self, blocks: &[LearnedBlock], x: Tensor<3>) -> Tensor<3> {
        let device = x.device();
        if !device.is_autodiff() {
            return self.pass(blocks, x);
        }
        // What a forward pass leaves for the backward one is of the same sizes at each step. So it is asked for as what stays, which a
        // device finds by its size: else the host looks through all that lives for each tensor, half the time of the thread that
        // launches (docs/cuda.md).
        device.memory_persistent_allocations(x, |x| self.pass(blocks, x))
    }

    fn pass(&self, blocks: &[LearnedBlock], x: Tensor<3>) -> Tensor<3> {
        let [_, rows, width] = x.dims();
        // Off the tape nothing is dropped.
        let drops = x.device().is_autodiff() && blocks.iter().any(LearnedBlock::drops);
        let key = || key_of_pass(self.seed, self.sub_model.p() as u32, &x.device());
        let mut dropout = Dropout { key: drops.then(key), sites: 0 };
        let mut stream = LearnedStream::from(x.reshape([rows, width]));
        for (index, block) in blocks.iter().enumerate() {
            let compute = block.up.dtype();
            // Behind the last no product of a block takes it.
            let to = if index + 1 == blocks.len() { DType::F32 } else { compute };
            let sums = self.attention(block, stream.input.clone(), &mut dropout);
            let dropped = dropout.next(block.dropout);
            stream = self.normed(stream, sums, &block.attention_norm, dropped, compute);
            let sums = self.mlp(block, stream.input.clone());
            let dropped = dropout.next(block.dropout);
            stream = self.normed(stream, sums, &block.mlp_norm, dropped, to);
        }
        stream.input.reshape([1, rows, width])
    }

    fn attention(&self, block: &LearnedBlock, x: Tensor<2>, dropout: &mut Dropout) -> Tensor<3> {
        let (heads, outputs) =
            (self.sub_model.heads(self.config), self.sub_model.attention_width(self.config));
        let sums = self.kernels.dense_of_three(x, block.qkv.clone(), outputs);
        let of = Samples { count: self.samples, heads };
        let dropped = dropout.next(block.attention_dropout);
        let mixed = self.kernels.attention(sums, block.qkv_biases.clone(), dropped, of);
        self.kernels.dense(mixed, block.output.clone(), self.config.width)
    }

    fn mlp(&self, block: &LearnedBlock, x: Tensor<2>) -> Tensor<3> {
        let hidden = self.sub_model.hidden(self.config);
        let sums = self.kernels.dense(x, block.up.clone(), hidden);
        let hidden = self.kernels.hidden(sums, block.up_bias.clone());
        self.kernels.dense(hidden, block.down.clone(), self.config.width)
    }

    fn normed(
        &self,
        stream: LearnedStream,
        sums: Tensor<3>,
        parameters: &Tensor<2>,
        dropped: Option<Dropped>,
        to: DType,
    ) -> LearnedStream {
        self.kernels.normed(Some(stream), sums, parameters.clone(), dropped, to)
    }
}

/// The key of the dropouts of a pass: through the blocks of sub-model p it is pass p, and pass 0 is the embedding, all sub-models'.
pub(crate) fn key_of_pass(seed: Option<u64>, pass: u32, device: &Device) -> Tensor<1> {
    match seed {
        Some(seed) => Dropped::key(seed, pass, device),
        None => Dropped::draw_key(device),
    }
}

/// The dropouts of a pass, one after another.
struct Dropout {
    /// Where something is dropped.
    key: Option<Tensor<1>>,
    /// How many there were.
    sites: u32,
}

impl Dropout {
    /// Of a share, if that is one.
    fn next(&mut self, share: f64) -> Option<Dropped> {
        self.sites += 1;
        let key = self.key.clone().filter(|_| share > 0.0)?;
        Some(Dropped { key, site: self.sites, share })
    }
}
