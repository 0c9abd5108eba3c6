use burn::tensor::{DType, Tensor, s};

use super::Kernels;
use crate::attention::{Attention, Dense};
use crate::block::{Block, Mlp};
use crate::{ModelConfig, SubModel, precision};

/// The blocks of a model in training, with the kernels of its device: LayerNorm behind each sum, no dropout, every
/// position active and nothing cached.
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
            let bias = block.attention.output.bias.val();
            stream = self.kernels.normed(stream, sums, bias, (&block.attention_norm).into());
            let sums = self.mlp(&block.mlp, stream.clone());
            stream = self.kernels.normed(stream, sums, block.mlp.down.bias.val(), (&block.mlp_norm).into());
        }
        stream.reshape([1, rows, width])
    }

    fn attention(&self, attention: &Attention, x: Tensor<2>) -> Tensor<3> {
        let (heads, outputs) =
            (self.sub_model.heads(self.config), self.sub_model.attention_width(self.config));
        let apart = [&attention.query, &attention.key, &attention.value];
        let weights = apart.map(|dense| dense.weight.val().slice(s![.., 0..outputs]));
        let bias = Tensor::cat(apart.map(|dense| dense.bias.val().slice(s![0..outputs])).to_vec(), 0);
        let sums = self.product(x, Tensor::cat(weights.to_vec(), 1));
        let mixed = self.kernels.attention(sums, bias, self.samples, heads);
        self.back(mixed, &attention.output)
    }

    fn mlp(&self, Mlp { up, down, .. }: &Mlp, x: Tensor<2>) -> Tensor<3> {
        let hidden = self.sub_model.hidden(self.config);
        let sums = self.product(x, up.weight.val().slice(s![.., 0..hidden]));
        self.back(self.kernels.hidden(sums, up.bias.val().slice(s![0..hidden])), down)
    }

    /// To the residual stream, without the bias.
    fn back(&self, x: Tensor<2>, dense: &Dense) -> Tensor<3> {
        let [_, inputs] = x.dims();
        self.product(x, dense.weight.val().slice(s![0..inputs, ..]))
    }

    fn product(&self, x: Tensor<2>, weight: Tensor<2>) -> Tensor<3> {
        precision::cast(x, self.compute).matmul(weight).unsqueeze()
    }
}
