use burn::module::Module;
use burn::nn::conv::{Conv3d, Conv3dConfig};
use burn::nn::{GroupNorm, PaddingConfig3d};
use burn::tensor::{Device, Tensor};

use crate::layers::{norm, swish};
use crate::products::Products;

/// A convolution of stride 1 that keeps the size; zeros stand on both sides, in time as in space.
pub(super) fn conv(inputs: usize, outputs: usize, kernel: usize, bias: bool, device: &Device) -> Conv3d {
    let margin = kernel / 2;
    Conv3dConfig::new([inputs, outputs], [kernel; 3])
        .with_padding(PaddingConfig3d::Explicit(margin, margin, margin))
        .with_bias(bias)
        .init(device)
}

/// Norm, swish, convolution, twice, beside a shortcut: the input, by a convolution where the width changes.
#[derive(Module, Debug)]
pub(super) struct ResidualBlock {
    norm1: GroupNorm,
    conv1: Conv3d,
    norm2: GroupNorm,
    conv2: Conv3d,
    shortcut: Option<Conv3d>,
}

impl ResidualBlock {
    pub fn new(inputs: usize, outputs: usize, groups: usize, device: &Device) -> Self {
        Self {
            norm1: norm(inputs, groups, device),
            conv1: conv(inputs, outputs, 3, false, device),
            norm2: norm(outputs, groups, device),
            conv2: conv(outputs, outputs, 3, false, device),
            shortcut: (inputs != outputs).then(|| conv(inputs, outputs, 1, false, device)),
        }
    }

    /// `[B, inputs, T, H, W]` to `[B, outputs, T, H, W]`.
    pub fn forward(&self, x: Tensor<5>, products: Products) -> Tensor<5> {
        let h = products.conv3d(&self.conv1, swish(self.norm1.forward(x.clone())));
        let h = products.conv3d(&self.conv2, swish(self.norm2.forward(h)));
        match &self.shortcut {
            None => x + h,
            Some(shortcut) => h + products.conv3d(shortcut, x),
        }
    }
}
