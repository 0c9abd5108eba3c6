//! Products as a device takes them, or in parts where it would round their operands.

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv3d};
use burn::tensor::Tensor;
use mgnt_weights::in_parts;

/// How convolutions and matrix products are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Products {
    /// As the device does.
    #[default]
    OfTheDevice,
    /// As exact as `f32`, for inference.
    InParts,
}

impl Products {
    pub fn conv2d(self, layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
        if self == Self::OfTheDevice {
            return layer.forward(x);
        }
        // For inference: on a tape a part of a weight would be a parameter that is none.
        let bare = |weight: Tensor<4>| Conv2d {
            weight: Param::from_tensor(weight.detach()),
            bias: None,
            ..layer.clone()
        };
        let y = in_parts(x, layer.weight.val(), |x, weight| bare(weight).forward(x));
        match &layer.bias {
            Some(bias) => y + bias.val().reshape([1, -1, 1, 1]),
            None => y,
        }
    }

    pub fn conv3d(self, layer: &Conv3d, x: Tensor<5>) -> Tensor<5> {
        if self == Self::OfTheDevice {
            return layer.forward(x);
        }
        let bare = |weight: Tensor<5>| Conv3d {
            weight: Param::from_tensor(weight.detach()),
            bias: None,
            ..layer.clone()
        };
        let y = in_parts(x, layer.weight.val(), |x, weight| bare(weight).forward(x));
        match &layer.bias {
            Some(bias) => y + bias.val().reshape([1, -1, 1, 1, 1]),
            None => y,
        }
    }

    pub fn matmul(self, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
        match self {
            Self::OfTheDevice => a.matmul(b),
            Self::InParts => in_parts(a, b, Tensor::matmul),
        }
    }
}
