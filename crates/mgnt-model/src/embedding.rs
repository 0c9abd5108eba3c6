use burn::module::{Module, Param};
use burn::nn::{Dropout, LayerNorm};
use burn::tensor::{DType, Int, Tensor};

use crate::kernels::{GoesOn, Kernels};
use crate::precision;

/// Tokens and positions to the residual stream; whole and shared by all sub-models.
#[derive(Module, Debug)]
pub(crate) struct Embedding {
    /// `[vocabulary, D]`, also the head's output matrix.
    pub tokens: Param<Tensor<2>>,
    /// `[1 + N, D]`.
    pub positions: Param<Tensor<2>>,
    pub norm: LayerNorm,
    pub dropout: Dropout,
}

impl Embedding {
    /// `tokens` and `positions`, both `[B, A]`, to `[1, B * A, D]`.
    pub fn forward(&self, tokens: Tensor<2, Int>, positions: Tensor<2, Int>) -> Tensor<3> {
        let sum = self.sum(tokens, positions).unsqueeze();
        self.dropout.forward(self.norm.forward(sum))
    }

    /// The same without a tape, by kernels of the device.
    pub fn forward_by(
        &self,
        kernels: &dyn Kernels,
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
    ) -> Tensor<3> {
        let sum = self.sum(tokens, positions);
        let norm = (&self.norm).into();
        kernels.add_norm(sum.into(), None, norm, GoesOn::Through, DType::F32).stream.full().unsqueeze()
    }

    fn sum(&self, tokens: Tensor<2, Int>, positions: Tensor<2, Int>) -> Tensor<2> {
        let rows = tokens.shape().num_elements();
        let token = self.tokens.val().select(0, tokens.reshape([rows]));
        let position = self.positions.val().select(0, positions.reshape([rows]));
        precision::full(token) + precision::full(position)
    }
}
