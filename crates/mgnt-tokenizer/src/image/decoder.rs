use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};

use super::config::ImageTokenizerConfig;
use super::residual::{ResidualBlock, conv};
use crate::layers::{norm, swish, twice};
use crate::products::Products;

/// Quantized latents `[B, D, h, w]` to pictures `[B, 3, H, W]`, not clamped.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    conv_in: Conv2d,
    middle: Vec<ResidualBlock>,
    /// By true level; run from the deepest to 0.
    levels: Vec<Vec<ResidualBlock>>,
    /// After level i + 1, on the way to level i.
    upsampled: Vec<Conv2d>,
    norm_out: GroupNorm,
    pub(super) conv_out: Conv2d,
}

impl Decoder {
    pub fn new(config: &ImageTokenizerConfig, device: &Device) -> Self {
        let deepest = config.last_width();
        let count = config.multipliers.len();
        let blocks = |inputs: usize, outputs: usize| -> Vec<ResidualBlock> {
            (0..config.residual_blocks)
                .map(|i| ResidualBlock::new(if i == 0 { inputs } else { outputs }, outputs, config, device))
                .collect()
        };
        Self {
            conv_in: conv(config.embedding, deepest, 3, true, device),
            middle: blocks(deepest, deepest),
            levels: (0..count)
                .map(|level| {
                    let above = if level + 1 < count { config.width(level + 1) } else { deepest };
                    blocks(above, config.width(level))
                })
                .collect(),
            upsampled: (1..count).map(|l| conv(config.width(l), config.width(l), 3, true, device)).collect(),
            norm_out: norm(config.width(0), config.groups, device),
            conv_out: conv(config.width(0), 3, 3, true, device),
        }
    }

    pub fn forward(&self, latents: Tensor<4>, products: Products) -> Tensor<4> {
        products.conv2d(&self.conv_out, self.last_input(latents, products))
    }

    /// All but the last layer.
    pub fn last_input(&self, latents: Tensor<4>, products: Products) -> Tensor<4> {
        let x = products.conv2d(&self.conv_in, latents);
        let mut x = self.middle.iter().fold(x, |x, block| block.forward(x, products));
        for (level, blocks) in self.levels.iter().enumerate().rev() {
            x = blocks.iter().fold(x, |x, block| block.forward(x, products));
            if level > 0 {
                x = products.conv2d(&self.upsampled[level - 1], twice(x));
            }
        }
        swish(self.norm_out.forward(x))
    }
}
