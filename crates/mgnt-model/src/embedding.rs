use burn::module::{Module, Param};
use burn::nn::{Dropout, LayerNorm};
use burn::tensor::{DType, Int, Tensor};

use crate::kernels::{Dropped, Embedded, GoesOn, Kernels, Normed, key_of_pass, share, shared_norm};
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
        let token = self.tokens.val().select(0, tokens.flatten(0, 1));
        let position = self.positions.val().select(0, positions.flatten(0, 1));
        let sum = precision::full(token) + precision::full(position);
        self.dropout.forward(self.norm.forward(sum.unsqueeze()))
    }

    /// The same where a model learns by kernels, which drop by a key: that of `seed`, or one from the device.
    pub fn forward_learning(
        &self,
        kernels: &dyn Kernels,
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        seed: Option<u64>,
    ) -> Tensor<3> {
        let [token, position] = [(&self.tokens, tokens), (&self.positions, positions)]
            .map(|(table, numbers)| precision::full(kernels.rows_of(table.val(), numbers.flatten(0, 1))));
        let (sum, parameters) = ((token + position).unsqueeze(), shared_norm(&self.norm, kernels));
        let normed = kernels.normed(None, sum, parameters, None, DType::F32).input;
        let (share, device) = (share(&self.dropout), normed.device());
        if share == 0.0 || !device.is_autodiff() {
            return normed.unsqueeze();
        }
        let dropped = Dropped { key: key_of_pass(seed, 0, &device), site: 0, share };
        let [rows, width] = normed.dims();
        // What is off the tape is constant on it.
        (normed * kernels.factors(&dropped, rows, width)).unsqueeze()
    }

    /// The same without a tape, by kernels of the device: `[B * A, D]`, as the stream goes on, and as products of that type take it.
    pub fn forward_by(
        &self,
        kernels: &dyn Kernels,
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        on: GoesOn,
        to: DType,
    ) -> Normed {
        let [tokens, positions] = [tokens, positions].map(|numbers| numbers.flatten(0, 1));
        let (of_token, of_position) = (self.tokens.val(), self.positions.val());
        let embedded = Embedded { tokens, positions, of_token, of_position };
        kernels.embed(embedded, (&self.norm).into(), on, to)
    }
}
