use burn::nn::Dropout;
use burn::tensor::{DType, Device, Distribution, Tensor};

use super::{Dropped, Kernels, Samples};
use crate::attention::{Attention, Dense};
use crate::block::{Block, Mlp};
use crate::compute::whole_rows;
use crate::{ModelConfig, SubModel, precision};

/// The blocks of a model in training, with the kernels of its device: LayerNorm behind each sum, every position active and
/// nothing cached.
pub(crate) struct OnTape<'a> {
    pub kernels: &'a dyn Kernels,
    pub config: &'a ModelConfig,
    pub sub_model: SubModel,
    pub samples: usize,
    /// Type of products.
    pub compute: DType,
}

impl OnTape<'_> {
    /// `x [1, R, D]` before the first block to that after the last.
    pub fn through_blocks(&self, blocks: &[Block], x: Tensor<3>) -> Tensor<3> {
        let [_, rows, width] = x.dims();
        let mut stream = x.reshape([rows, width]);
        for block in blocks {
            let sums = self.attention(&block.attention, stream.clone());
            let (bias, drop) = (block.attention.output.bias.val(), dropped(&stream, &block.dropout));
            stream = self.kernels.normed(stream, sums, bias, drop, (&block.attention_norm).into());
            let sums = self.mlp(&block.mlp, stream.clone());
            let (bias, drop) = (block.mlp.down.bias.val(), dropped(&stream, &block.dropout));
            stream = self.kernels.normed(stream, sums, bias, drop, (&block.mlp_norm).into());
        }
        stream.reshape([1, rows, width])
    }

    fn attention(&self, attention: &Attention, x: Tensor<2>) -> Tensor<3> {
        let (heads, outputs) =
            (self.sub_model.heads(self.config), self.sub_model.attention_width(self.config));
        let apart = [&attention.query, &attention.key, &attention.value];
        let sums = self.kernels.dense_of_three(x, apart.map(|dense| dense.weight.val()), outputs);
        let mask = self.mask(heads, &sums, &attention.dropout);
        let of = Samples { count: self.samples, heads };
        let mixed = self.kernels.attention(sums, apart.map(|dense| dense.bias.val()), mask, of);
        self.back(mixed, &attention.output)
    }

    /// What attention's weights are multiplied by where some are dropped.
    fn mask(&self, heads: usize, sums: &Tensor<3>, dropout: &Dropout) -> Option<Tensor<4>> {
        let ([_, rows, _], device) = (sums.dims(), sums.device());
        if !drops(dropout, &device) {
            return None;
        }
        let active = rows / self.samples;
        let shape = [self.samples, heads, active, whole_rows(active)];
        let kept = Tensor::random(shape, Distribution::Bernoulli(1.0 - dropout.prob), &device);
        Some(precision::cast(kept / (1.0 - dropout.prob), self.compute))
    }

    fn mlp(&self, Mlp { up, down, .. }: &Mlp, x: Tensor<2>) -> Tensor<3> {
        let hidden = self.sub_model.hidden(self.config);
        let sums = self.kernels.dense(x, up.weight.val(), hidden);
        self.back(self.kernels.hidden(sums, up.bias.val()), down)
    }

    /// To the residual stream, without the bias.
    fn back(&self, x: Tensor<2>, dense: &Dense) -> Tensor<3> {
        self.kernels.dense(x, dense.weight.val(), self.config.width)
    }
}

fn drops(dropout: &Dropout, device: &Device) -> bool {
    dropout.prob > 0.0 && device.is_autodiff()
}

/// What of a branch to a stream `[R, D]` is dropped.
fn dropped(stream: &Tensor<2>, dropout: &Dropout) -> Option<Dropped> {
    let device = stream.device();
    drops(dropout, &device).then(|| Dropped {
        drawn: Tensor::random(stream.dims(), Distribution::Uniform(0.0, 1.0), &device),
        share: dropout.prob,
    })
}
