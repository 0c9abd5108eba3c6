use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv3d;
use burn::tensor::{Device, Tensor};

use super::config::VideoTokenizerConfig;
use super::residual::{ResidualBlock, conv};
use crate::layers::{even, halve, norm, swish};
use crate::products::Products;

/// Videos `[B, 3, T, H, W]` to latents `[B, D, t, h, w]`.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    conv_in: Conv3d,
    levels: Vec<Vec<ResidualBlock>>,
    middle: Vec<ResidualBlock>,
    norm_out: GroupNorm,
    conv_out: Conv3d,
    /// Whether time is halved after each level but the last.
    #[module(skip)]
    temporal: Vec<bool>,
}

impl Encoder {
    pub fn new(config: &VideoTokenizerConfig, device: &Device) -> Self {
        let block = |inputs, outputs| ResidualBlock::new(inputs, outputs, config.groups, device);
        let mut width = config.filters;
        let levels = (0..config.multipliers.len())
            .map(|level| {
                (0..config.encoder_residual_blocks)
                    .map(|_| block(std::mem::replace(&mut width, config.width(level)), config.width(level)))
                    .collect()
            })
            .collect();
        Self {
            conv_in: conv(3, config.filters, 3, false, device),
            levels,
            middle: (0..config.encoder_residual_blocks).map(|_| block(width, width)).collect(),
            norm_out: norm(width, config.groups, device),
            conv_out: conv(width, config.embedding, 1, true, device),
            temporal: config.temporal_downsample.clone(),
        }
    }

    pub fn forward(&self, videos: Tensor<5>, products: Products) -> Tensor<5> {
        let mut x = products.conv3d(&self.conv_in, videos);
        for (level, blocks) in self.levels.iter().enumerate() {
            x = blocks.iter().fold(x, |x, block| block.forward(x, products));
            if let Some(&temporal) = self.temporal.get(level) {
                x = pool(x, temporal);
            }
        }
        x = self.middle.iter().fold(x, |x, block| block.forward(x, products));
        products.conv3d(&self.conv_out, swish(self.norm_out.forward(x)))
    }
}

/// Means of blocks of (2 or 1) x 2 x 2 cells, sizes rounded up; the last block of an odd length is the mean of its
/// real cells.
fn pool(x: Tensor<5>, temporal: bool) -> Tensor<5> {
    let [batch, channels, frames, height, width] = x.dims();
    let x = halve(x.reshape([batch, channels * frames, height, width]));
    let [_, _, height, width] = x.dims();
    if !temporal {
        return x.reshape([batch, channels, frames, height, width]);
    }
    let x = even(x.reshape([batch * channels, frames, height * width]), 1);
    let half = frames.div_ceil(2);
    let x = x.reshape([batch * channels, half, 2, height * width]).mean_dim(2);
    x.reshape([batch, channels, half, height, width])
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn the_last_of_an_odd_number_of_frames_stands_alone() {
        let values: Vec<f32> = (0..12).map(|v| v as f32).collect();
        let x = Tensor::<5>::from_data(TensorData::new(values, [1, 1, 3, 2, 2]), &Device::flex());
        let values = |x: Tensor<5>| x.into_data().try_into_vec::<f32>().unwrap();
        assert_eq!(values(pool(x.clone(), true)), [3.5, 9.5]);
        assert_eq!(values(pool(x, false)), [1.5, 5.5, 9.5]);
    }
}
