//! Parameters as the kernels of a training step take them: once for all sub-models, whose gradients for a parameter are then one.

use burn::nn::{Dropout, LayerNorm};
use burn::tensor::{DType, Tensor};

use super::{Kernels, Scales};
use crate::attention::Dense;
use crate::block::Block;
use crate::head::Head;

/// Those of a model.
#[derive(Debug, Clone)]
pub(crate) struct Learned {
    pub blocks: Vec<LearnedBlock>,
    pub head: LearnedHead,
}

/// Those of a block.
#[derive(Debug, Clone)]
pub(crate) struct LearnedBlock {
    /// Of queries, keys and values, `[3, D, D]`.
    pub qkv: Tensor<3>,
    /// `[3, D]`.
    pub qkv_biases: Tensor<2>,
    pub output: Tensor<2>,
    /// The bias before it, gamma and beta, `[3, D]`.
    pub attention_norm: Tensor<2>,
    pub up: Tensor<2>,
    pub up_bias: Tensor<1>,
    pub down: Tensor<2>,
    /// The bias before it, gamma and beta, `[3, D]`.
    pub mlp_norm: Tensor<2>,
    /// Share of attention's weights that is dropped on a tape.
    pub attention_dropout: f64,
    /// The same of what a branch adds.
    pub dropout: f64,
}

/// Those of the head.
#[derive(Debug, Clone)]
pub(crate) struct LearnedHead {
    pub weight: Tensor<2>,
    pub weight_bias: Tensor<1>,
    /// Zero, gamma and beta, `[3, D]`.
    pub norm: Tensor<2>,
    /// The transposed token table, `[D, vocabulary]`.
    pub table: Tensor<2>,
    /// `[vocabulary]`.
    pub bias: Tensor<1>,
}

/// Those of a LayerNorm of nothing but products without a bias: zero, gamma and beta, `[3, D]`.
pub(crate) fn shared_norm(norm: &LayerNorm, kernels: &dyn Kernels) -> Tensor<2> {
    let Scales { gamma, beta } = norm.into();
    let no_bias = gamma.clone().detach().zeros_like();
    kernels.shared_vectors([no_bias, gamma, beta])
}

/// What a dropout drops: a frozen part's nothing.
pub(crate) fn share(dropout: &Dropout) -> f64 {
    if dropout.training.is_enabled() { dropout.prob } else { 0.0 }
}

impl LearnedBlock {
    /// Matrices are taken in type `to`.
    pub fn new(block: &Block, kernels: &dyn Kernels, to: DType) -> Self {
        let Block { attention, mlp, .. } = block;
        let apart = [&attention.query, &attention.key, &attention.value];
        let matrix = |dense: &Dense| kernels.shared_matrix(dense.weight.val(), to);
        let norm = |before: &Dense, scales: Scales| {
            kernels.shared_vectors([before.bias.val(), scales.gamma, scales.beta])
        };
        Self {
            qkv: kernels.shared_matrices(apart.map(|dense| dense.weight.val()), to),
            qkv_biases: kernels.shared_vectors(apart.map(|dense| dense.bias.val())),
            output: matrix(&attention.output),
            attention_norm: norm(&attention.output, (&block.attention_norm).into()),
            up: matrix(&mlp.up),
            up_bias: kernels.shared_vector(mlp.up.bias.val()),
            down: matrix(&mlp.down),
            mlp_norm: norm(&mlp.down, (&block.mlp_norm).into()),
            attention_dropout: share(&attention.dropout),
            dropout: share(&block.dropout),
        }
    }

    /// Whether something is dropped of it on a tape.
    pub fn drops(&self) -> bool {
        self.attention_dropout > 0.0 || self.dropout > 0.0
    }
}

impl LearnedHead {
    /// Matrices are taken in type `to`. `table` is that of all tokens, `[vocabulary, D]`.
    pub fn new(head: &Head, table: Tensor<2>, kernels: &dyn Kernels, to: DType) -> Self {
        Self {
            weight: kernels.shared_matrix(head.dense.weight.val(), to),
            weight_bias: kernels.shared_vector(head.dense.bias.val()),
            norm: shared_norm(&head.norm, kernels),
            table: kernels.shared_matrix(table.transpose(), to),
            bias: kernels.shared_vector(head.bias.val()),
        }
    }

    /// `x [R, D]` to the logits of the first `rows` vocabulary entries, `[R, rows]`.
    pub fn forward(&self, kernels: &dyn Kernels, x: Tensor<2>, rows: usize) -> Tensor<2> {
        let [_, width] = x.dims();
        let hidden = kernels.hidden(kernels.dense(x, self.weight.clone(), width), self.weight_bias.clone());
        let to = self.table.dtype();
        let normed = kernels.normed(None, hidden.unsqueeze(), self.norm.clone(), None, to);
        kernels.with_bias(kernels.dense(normed.input, self.table.clone(), rows), self.bias.clone())
    }
}
