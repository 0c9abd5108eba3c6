use burn::module::Module;
use burn::nn::{Dropout, LayerNorm};
use burn::tensor::Tensor;

use crate::attention::{Attention, Dense, KeysValues};
use crate::gelu::gelu;
use crate::{ModelConfig, Norm, SubModel};

/// The MLP, of which a sub-model uses the first hidden units.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub up: Dense,
    pub down: Dense,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>, hidden: usize) -> Tensor<2> {
        self.down.first_inputs(gelu(self.up.first_outputs(x, hidden)))
    }
}

/// One transformer block.
#[derive(Module, Debug)]
pub(crate) struct Block {
    pub attention: Attention,
    pub attention_norm: LayerNorm,
    pub mlp: Mlp,
    pub mlp_norm: LayerNorm,
    pub dropout: Dropout,
}

impl Block {
    /// `x [B * A, D]` to the same shape, with the keys and values of the whole context.
    pub fn forward(
        &self,
        x: Tensor<2>,
        batch: usize,
        cached: Option<&KeysValues>,
        config: &ModelConfig,
        sub_model: SubModel,
    ) -> (Tensor<2>, KeysValues) {
        let hidden = sub_model.hidden(config);
        match config.norm {
            Norm::Post => {
                let (mixed, context) = self.attention.forward(x.clone(), batch, cached, config, sub_model);
                let x = self.attention_norm.forward(x + self.dropout.forward(mixed));
                let y = self.dropout.forward(self.mlp.forward(x.clone(), hidden));
                (self.mlp_norm.forward(x + y), context)
            }
            Norm::Pre => {
                let normed = self.attention_norm.forward(x.clone());
                let (mixed, context) = self.attention.forward(normed, batch, cached, config, sub_model);
                let x = x + self.dropout.forward(mixed);
                let y = self.mlp.forward(self.mlp_norm.forward(x.clone()), hidden);
                (x + self.dropout.forward(y), context)
            }
        }
    }
}
