use burn::tensor::{DType, Device, Distribution, Tensor};

use super::{Dropped, Kernels, LearnedBlock, Samples};
use crate::compute::whole_rows;
use crate::transformer::NORM_EPSILON;
use crate::{ModelConfig, SubModel};

/// The blocks of a model in training, with the kernels of its device: LayerNorm behind each sum, every position active and
/// nothing cached.
pub(crate) struct OnTape<'a> {
    pub kernels: &'a dyn Kernels,
    pub config: &'a ModelConfig,
    pub sub_model: SubModel,
    pub samples: usize,
}

impl OnTape<'_> {
    /// `x [1, R, D]` before the first block to that after the last.
    pub fn through_blocks(&self, blocks: &[LearnedBlock], x: Tensor<3>) -> Tensor<3> {
        let [_, rows, width] = x.dims();
        let mut stream = x.reshape([rows, width]);
        for block in blocks {
            let sums = self.attention(block, stream.clone());
            stream = self.normed(stream, sums, &block.attention_norm, block.dropout);
            let sums = self.mlp(block, stream.clone());
            stream = self.normed(stream, sums, &block.mlp_norm, block.dropout);
        }
        stream.reshape([1, rows, width])
    }

    fn attention(&self, block: &LearnedBlock, x: Tensor<2>) -> Tensor<3> {
        let (heads, outputs) =
            (self.sub_model.heads(self.config), self.sub_model.attention_width(self.config));
        let sums = self.kernels.dense_of_three(x, block.heads.clone(), outputs);
        let mask = self.mask(heads, &sums, block.attention_dropout);
        let of = Samples { count: self.samples, heads };
        let mixed = self.kernels.attention(sums, block.head_biases.clone(), mask, of);
        self.kernels.dense(mixed, block.output.clone(), self.config.width)
    }

    fn mlp(&self, block: &LearnedBlock, x: Tensor<2>) -> Tensor<3> {
        let hidden = self.sub_model.hidden(self.config);
        let sums = self.kernels.dense(x, block.up.clone(), hidden);
        let hidden = self.kernels.hidden(sums, block.up_bias.clone());
        self.kernels.dense(hidden, block.down.clone(), self.config.width)
    }

    /// `share` of the sums is dropped.
    fn normed(&self, stream: Tensor<2>, sums: Tensor<3>, parameters: &Tensor<2>, share: f64) -> Tensor<2> {
        let share = on_tape(share, &stream.device());
        let dropped = (share > 0.0).then(|| {
            let drawn = Tensor::random(stream.dims(), Distribution::Uniform(0.0, 1.0), &stream.device());
            Dropped { drawn, share }
        });
        self.kernels.normed(stream, sums, parameters.clone(), dropped, NORM_EPSILON)
    }

    /// What attention's weights are multiplied by where a `share` is dropped, in the type of the sums.
    fn mask(&self, heads: usize, sums: &Tensor<3>, share: f64) -> Option<Tensor<4>> {
        let ([_, rows, _], share) = (sums.dims(), on_tape(share, &sums.device()));
        let active = rows / self.samples;
        let shape = [self.samples, heads, active, whole_rows(active)];
        (share > 0.0).then(|| {
            let to: (_, DType) = (&sums.device(), sums.dtype());
            // In a row: Burn leaves gaps between the rows of a tensor that has some, where a device likes them.
            let count = shape.iter().product::<usize>();
            let mask = Tensor::<1>::random([count], Distribution::Bernoulli(1.0 - share), to) / (1.0 - share);
            mask.reshape(shape)
        })
    }
}

/// The share that is dropped: off the tape nothing is.
fn on_tape(share: f64, device: &Device) -> f64 {
    if device.is_autodiff() { share } else { 0.0 }
}
