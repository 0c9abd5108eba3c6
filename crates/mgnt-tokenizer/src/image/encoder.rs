use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};

use super::config::ImageTokenizerConfig;
use super::residual::{ResidualBlock, conv};
use crate::layers::{halve, norm, swish};
use crate::products::Products;

/// Pictures `[B, 3, H, W]` to latents `[B, D, h, w]`.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    pub(super) conv_in: Conv2d,
    levels: Vec<Vec<ResidualBlock>>,
    middle: Vec<ResidualBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub fn new(config: &ImageTokenizerConfig, device: &Device) -> Self {
        let mut width = config.filters;
        let levels = (0..config.multipliers.len())
            .map(|level| {
                (0..config.residual_blocks)
                    .map(|_| {
                        let block = ResidualBlock::new(width, config.width(level), config, device);
                        width = config.width(level);
                        block
                    })
                    .collect()
            })
            .collect();
        let middle = (0..config.residual_blocks).map(|_| ResidualBlock::new(width, width, config, device));
        Self {
            conv_in: conv(3, config.filters, 3, false, device),
            levels,
            middle: middle.collect(),
            norm_out: norm(width, config.groups, device),
            conv_out: conv(width, config.embedding, 1, true, device),
        }
    }

    pub fn forward(&self, pictures: Tensor<4>, products: Products) -> Tensor<4> {
        let mut x = products.conv2d(&self.conv_in, pictures);
        for (level, blocks) in self.levels.iter().enumerate() {
            x = blocks.iter().fold(x, |x, block| block.forward(x, products));
            if level + 1 < self.levels.len() {
                x = halve(x);
            }
        }
        x = self.middle.iter().fold(x, |x, block| block.forward(x, products));
        products.conv2d(&self.conv_out, swish(self.norm_out.forward(x)))
    }
}
