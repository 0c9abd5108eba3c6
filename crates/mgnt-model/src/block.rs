use burn::module::Module;
use burn::nn::{Dropout, LayerNorm};
use burn::tensor::{Tensor, s};

use crate::attention::{Attention, Context, Dense};
use crate::cache::KeysValues;
use crate::gelu::gelu;
use crate::{ModelConfig, Norm, SubModel};

/// The MLP, of which a sub-model uses the first hidden units.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    pub up: Dense,
    pub down: Dense,
    /// Whether exponentials are taken on the host.
    pub on_host: bool,
}

impl Mlp {
    /// `x [1, R, features]` to the same shape.
    fn forward(&self, x: Tensor<3>, hidden: usize) -> Tensor<3> {
        let [_, _, features] = x.dims();
        self.down.forward(gelu(self.up.forward(x, hidden), self.on_host), features)
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
    /// `x [1, B * A, D]` to the same shape, with keys and values of the context.
    pub fn forward(
        &self,
        x: Tensor<3>,
        context: Context,
        config: &ModelConfig,
        sub_model: SubModel,
    ) -> (Tensor<3>, KeysValues) {
        let (hidden, features) = (sub_model.hidden(config), sub_model.features(config));
        let attend = |x: Tensor<3>| {
            let (mixed, all) = self.attention.forward(first(x, features), context, config, sub_model);
            (self.dropout.forward(mixed), all)
        };
        let think = |x: Tensor<3>| self.dropout.forward(self.mlp.forward(first(x, features), hidden));
        match config.norm {
            Norm::Post => {
                let (mixed, all) = attend(x.clone());
                let x = self.attention_norm.forward(sum(x, mixed));
                let y = think(x.clone());
                (self.mlp_norm.forward(sum(x, y)), all)
            }
            Norm::Pre => {
                let (mixed, all) = attend(self.attention_norm.forward(x.clone()));
                let x = sum(x, mixed);
                let y = think(self.mlp_norm.forward(x.clone()));
                (sum(x, y), all)
            }
        }
    }
}

/// The first features of each row.
fn first(x: Tensor<3>, features: usize) -> Tensor<3> {
    let [_, _, width] = x.dims();
    if features == width { x } else { x.slice(s![.., .., 0..features]) }
}

/// `x [1, R, D]` and a branch `y [1, R, features]` that adds to its first features.
fn sum(x: Tensor<3>, y: Tensor<3>) -> Tensor<3> {
    let ([_, _, width], [_, _, features]) = (x.dims(), y.dims());
    if features == width {
        return x + y;
    }
    let rest = x.clone().slice(s![.., .., features..width]);
    Tensor::cat(vec![x.slice(s![.., .., 0..features]) + y, rest], 2)
}
