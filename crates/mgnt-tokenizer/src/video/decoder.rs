use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv3d;
use burn::tensor::{Device, Tensor};

use super::config::VideoTokenizerConfig;
use super::residual::{ResidualBlock, conv};
use crate::layers::{norm, swish, twice};
use crate::products::Products;

/// Quantized latents `[B, D, t, h, w]` to videos `[B, 3, T, H, W]`, not clamped.
#[derive(Module, Debug)]
pub(super) struct Decoder {
    conv_in: Conv3d,
    middle: Vec<ResidualBlock>,
    /// By true level; run from the deepest to 0.
    levels: Vec<Vec<ResidualBlock>>,
    /// After level i + 1, on the way to level i.
    upsampled: Vec<Conv3d>,
    norm_out: GroupNorm,
    conv_out: Conv3d,
    /// Whether time is doubled on the way to each level but the last.
    #[module(skip)]
    temporal: Vec<bool>,
}

impl Decoder {
    pub fn new(config: &VideoTokenizerConfig, device: &Device) -> Self {
        let deepest = config.last_width();
        let count = config.multipliers.len();
        let blocks = |inputs: usize, outputs: usize| -> Vec<ResidualBlock> {
            (0..config.decoder_residual_blocks)
                .map(|i| {
                    ResidualBlock::new(if i == 0 { inputs } else { outputs }, outputs, config.groups, device)
                })
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
            temporal: config.temporal_downsample.clone(),
        }
    }

    pub fn forward(&self, latents: Tensor<5>, products: Products) -> Tensor<5> {
        let x = products.conv3d(&self.conv_in, latents);
        let mut x = self.middle.iter().fold(x, |x, block| block.forward(x, products));
        for (level, blocks) in self.levels.iter().enumerate().rev() {
            x = blocks.iter().fold(x, |x, block| block.forward(x, products));
            if level > 0 {
                x = products.conv3d(&self.upsampled[level - 1], upsample(x, self.temporal[level - 1]));
            }
        }
        products.conv3d(&self.conv_out, swish(self.norm_out.forward(x)))
    }
}

/// Nearest-neighbour upsampling by (2 or 1) x 2 x 2.
fn upsample(x: Tensor<5>, temporal: bool) -> Tensor<5> {
    let [batch, channels, frames, height, width] = x.dims();
    let times = if temporal { 2 } else { 1 };
    let x = x
        .reshape([batch * channels, frames, 1, height * width])
        .expand([batch * channels, frames, times, height * width])
        .reshape([batch, channels * frames * times, height, width]);
    twice(x).reshape([batch, channels, frames * times, 2 * height, 2 * width])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_becomes_a_block() {
        let x = Tensor::<5>::from_floats([[[[[1.0]], [[2.0]]]]], &Device::flex());
        let values = |x: Tensor<5>| x.into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(values(upsample(x.clone(), true)), [[1.0; 8], [2.0; 8]].concat());
        assert_eq!(values(upsample(x, false)), [[1.0; 4], [2.0; 4]].concat());
    }
}
