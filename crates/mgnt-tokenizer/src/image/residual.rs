use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use super::config::{ImageTokenizerConfig, Shortcut};
use crate::layers::{norm, swish};
use crate::products::Products;

/// A convolution of stride 1 that keeps the size.
pub(super) fn conv(inputs: usize, outputs: usize, kernel: usize, bias: bool, device: &Device) -> Conv2d {
    let margin = kernel / 2;
    Conv2dConfig::new([inputs, outputs], [kernel, kernel])
        .with_padding(PaddingConfig2d::Explicit(margin, margin, margin, margin))
        .with_bias(bias)
        .init(device)
}

/// Norm, swish, convolution, twice, beside a shortcut.
#[derive(Module, Debug)]
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    #[module(skip)]
    kind: Shortcut,
}

impl ResidualBlock {
    pub fn new(inputs: usize, outputs: usize, config: &ImageTokenizerConfig, device: &Device) -> Self {
        let shortcut_inputs = match config.shortcut {
            Shortcut::Published => outputs,
            Shortcut::Input => inputs,
        };
        Self {
            norm1: norm(inputs, config.groups, device),
            conv1: conv(inputs, outputs, 3, false, device),
            norm2: norm(outputs, config.groups, device),
            conv2: conv(outputs, outputs, 3, false, device),
            shortcut: (inputs != outputs).then(|| conv(shortcut_inputs, outputs, 1, false, device)),
            kind: config.shortcut,
        }
    }

    pub fn forward(&self, x: Tensor<4>, products: Products) -> Tensor<4> {
        let h = products.conv2d(&self.conv1, swish(self.norm1.forward(x.clone())));
        let h = products.conv2d(&self.conv2, swish(self.norm2.forward(h)));
        match (&self.shortcut, self.kind) {
            (None, _) => x + h,
            (Some(shortcut), Shortcut::Published) => h.clone() + products.conv2d(shortcut, h),
            (Some(shortcut), Shortcut::Input) => h + products.conv2d(shortcut, x),
        }
    }
}
