use burn::nn::Dropout;
use burn::tensor::{DType, Device, Tensor};

use super::{Kernels, Samples};
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
            let (sums, bias) = dropped(sums, block.attention.output.bias.val(), &block.dropout);
            stream = self.kernels.normed(stream, sums, bias, (&block.attention_norm).into());
            let sums = self.mlp(&block.mlp, stream.clone());
            let (sums, bias) = dropped(sums, block.mlp.down.bias.val(), &block.dropout);
            stream = self.kernels.normed(stream, sums, bias, (&block.mlp_norm).into());
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
        let ones = Tensor::ones([self.samples, heads, active, whole_rows(active)], &device);
        Some(precision::cast(dropout.forward(ones), self.compute))
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

/// A branch of which some is dropped, its bias among it: that is added before then.
fn dropped(sums: Tensor<3>, bias: Tensor<1>, dropout: &Dropout) -> (Tensor<3>, Tensor<1>) {
    if !drops(dropout, &sums.device()) {
        return (sums, bias);
    }
    let nothing = bias.zeros_like().detach();
    (dropout.forward(precision::full(sums) + bias.unsqueeze()), nothing)
}
