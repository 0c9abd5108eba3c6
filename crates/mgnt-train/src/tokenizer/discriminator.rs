use burn::module::{Module, ModuleMapper, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::leaky_relu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Sizes of a discriminator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscriminatorConfig {
    /// Width of the first convolution.
    pub filters: usize,
    /// Width after each halving as a multiple of it.
    pub multipliers: Vec<usize>,
    /// What is judged.
    pub judges: Judges,
}

/// What a discriminator's logits are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judges {
    /// Overlapping patches, one logit each (PatchGAN: Isola et al., CVPR 2017).
    Patches,
    /// The whole picture, one logit (StyleGAN2's head: Karras et al., CVPR 2020).
    Picture,
}

/// Tells real pictures from rebuilt ones: StyleGAN2's residual blocks, each of which halves its input behind a blur, so
/// that no pixel is passed over (Zhang, ICML 2019). It has no norm, so that a picture's logit does not depend on its
/// batch.
#[derive(Module, Debug)]
pub struct Discriminator {
    conv_in: Conv2d,
    blocks: Vec<Block>,
    conv_out: Conv2d,
    head: Head,
}

/// Two convolutions beside a narrow one, at half the resolution after the first.
#[derive(Module, Debug)]
struct Block {
    first: Conv2d,
    second: Conv2d,
    beside: Conv2d,
}

#[derive(Module, Debug)]
enum Head {
    Patches(Conv2d),
    Picture(Picture),
}

#[derive(Module, Debug)]
struct Picture {
    dense: Linear,
    out: Linear,
}

const SLOPE: f64 = 0.2;

impl DiscriminatorConfig {
    /// Checks the sizes for pictures of `size` pixels.
    pub fn validate(&self, size: usize) -> Result<(), Error> {
        let halvings = self.multipliers.len();
        let fits =
            halvings < usize::BITS as usize && size.is_multiple_of(1 << halvings) && size >> halvings >= 2;
        let wrong = |field: &str, expected: String, got: String| Error::Recipe {
            field: format!("adversary.discriminator.{field}"),
            expected,
            got,
        };
        const MOST: usize = 1 << 16;
        if !(1..=MOST).contains(&self.filters) {
            return Err(wrong("filters", format!("1 to {MOST}"), self.filters.to_string()));
        }
        if !fits || halvings == 0 {
            let expected =
                format!("at least one, and so few that pictures of {size} px can be halved so often");
            return Err(wrong("multipliers", expected, halvings.to_string()));
        }
        let is_width =
            |&by: &usize| self.filters.checked_mul(by).is_some_and(|width| (1..=MOST).contains(&width));
        if !self.multipliers.iter().all(is_width) {
            let expected = format!("numbers above 0, that make at most {MOST} of {} filters", self.filters);
            return Err(wrong("multipliers", expected, format!("{:?}", self.multipliers)));
        }
        Ok(())
    }

    /// Number of parameters for pictures of `size` pixels.
    pub fn parameters(&self, size: usize) -> usize {
        let mut width = self.filters;
        let mut all = 9 * 3 * width + width;
        for multiplier in &self.multipliers {
            let (from, to) = (width, self.filters * multiplier);
            all += 9 * from * from + from + 9 * from * to + to + from * to;
            width = to;
        }
        let side = size >> self.multipliers.len();
        let head = match self.judges {
            Judges::Patches => 9 * width + 1,
            Judges::Picture => side * side * width * width + width + width + 1,
        };
        all + 9 * width * width + width + head
    }
}

impl Discriminator {
    /// With random weights, the same for the same seed on every device, for pictures of `size` pixels.
    pub fn init(config: &DiscriminatorConfig, size: usize, seed: u64, device: &Device) -> Self {
        let mut width = config.filters;
        let blocks = config.multipliers.iter().map(|multiplier| {
            let block = Block::new(width, config.filters * multiplier, device);
            width = config.filters * multiplier;
            block
        });
        let blocks: Vec<Block> = blocks.collect();
        let side = size >> blocks.len();
        let linear = |inputs, outputs| {
            LinearConfig::new(inputs, outputs).with_initializer(Initializer::Zeros).init(device)
        };
        let head = match config.judges {
            Judges::Patches => Head::Patches(conv(width, 1, 3, true, device)),
            Judges::Picture => {
                Head::Picture(Picture { dense: linear(width * side * side, width), out: linear(width, 1) })
            }
        };
        let discriminator = Self {
            conv_in: conv(3, config.filters, 3, true, device),
            blocks,
            conv_out: conv(width, width, 3, true, device),
            head,
        };
        discriminator.map(&mut Draw(ChaCha8Rng::seed_from_u64(seed)))
    }

    /// Logits `[n]` of pictures `[B, 3, H, W]` in 0 to 1: high where they look real. `n` is `B`, or `B` times the number
    /// of patches.
    pub fn forward(&self, pictures: Tensor<4>) -> Tensor<1> {
        let x = activated(self.conv_in.forward(pictures * 2.0 - 1.0));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let x = activated(self.conv_out.forward(x));
        match &self.head {
            Head::Patches(out) => out.forward(x).flatten(0, 3),
            Head::Picture(Picture { dense, out }) => {
                let x: Tensor<2> = x.flatten(1, 3);
                out.forward(leaky_relu(dense.forward(x), SLOPE)).flatten(0, 1)
            }
        }
    }
}

impl Block {
    fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            first: conv(inputs, inputs, 3, true, device),
            second: conv(inputs, outputs, 3, true, device),
            beside: conv(inputs, outputs, 1, false, device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let beside = self.beside.forward(blurred(x.clone()));
        let x = blurred(activated(self.first.forward(x)));
        (activated(self.second.forward(x)) + beside) * std::f64::consts::FRAC_1_SQRT_2
    }
}

fn conv(inputs: usize, outputs: usize, side: usize, bias: bool, device: &Device) -> Conv2d {
    let around = side / 2;
    Conv2dConfig::new([inputs, outputs], [side, side])
        .with_padding(PaddingConfig2d::Explicit(around, around, around, around))
        .with_bias(bias)
        .with_initializer(Initializer::Zeros)
        .init(device)
}

fn activated(x: Tensor<4>) -> Tensor<4> {
    leaky_relu(x, SLOPE)
}

/// Half the resolution: every second cell after a blur by the filter 1 3 3 1 of each axis; zeros around.
fn blurred(x: Tensor<4>) -> Tensor<4> {
    const TAPS: [f32; 4] = [0.125, 0.375, 0.375, 0.125];
    let [batch, channels, height, width] = x.dims();
    let kernel: Vec<f32> = TAPS.iter().flat_map(|row| TAPS.map(|column| row * column)).collect();
    let kernel = Tensor::from_data(TensorData::new(kernel, [1, 1, 4, 4]), &x.device());
    let x = x.reshape([batch * channels, 1, height, width]);
    conv2d(x, kernel, None, ConvOptions::new([2, 2], [1, 1], [1, 1], 1)).reshape([
        batch,
        channels,
        height / 2,
        width / 2,
    ])
}

/// Draws matrices and kernels with the spread that keeps the size of what passes (He et al., ICCV 2015); biases
/// stay zero.
struct Draw(ChaCha8Rng);

impl ModuleMapper for Draw {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let dims = param.dims();
        if D < 2 {
            return param;
        }
        // A kernel is [out, in, h, w], a linear layer's matrix [in, out].
        let fan_in = if D == 2 { dims[0] } else { dims[1..].iter().product() };
        let bound = (6.0 / (1.0 + SLOPE * SLOPE) / fan_in as f64).sqrt() as f32;
        let count = dims.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.0.random_range(-bound..bound)).collect();
        param.map(|old| {
            let new = Tensor::from_data(TensorData::new(values, dims), &old.device());
            if old.is_require_grad() { new.require_grad() } else { new }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values<const R: usize>(x: Tensor<R>) -> Vec<f32> {
        x.into_data().try_into_vec().unwrap()
    }

    fn config(judges: Judges) -> DiscriminatorConfig {
        DiscriminatorConfig { filters: 4, multipliers: vec![2, 2], judges }
    }

    #[test]
    fn a_blur_by_hand() {
        let mut one = [0.0; 16];
        one[5] = 64.0;
        let x = Tensor::<1>::from_floats(one, &Device::flex()).reshape([1, 1, 4, 4]);
        // The cell at row 1, column 1 is seen by the windows that begin at -1 and at 1, as their third and first cell.
        assert_eq!(values(blurred(x)), [9.0, 3.0, 3.0, 1.0]);
        let flat = Tensor::<4>::ones([2, 3, 8, 8], &Device::flex());
        let half = blurred(flat);
        assert_eq!(half.dims(), [2, 3, 4, 4]);
        assert!((values(half)[5] - 1.0).abs() < 1e-6, "a constant stays what it is inside");
    }

    #[test]
    fn logits_of_patches_and_of_pictures() {
        let device = Device::flex();
        let pictures = Tensor::<4>::ones([2, 3, 16, 16], &device) * 0.3;
        for (judges, count) in [(Judges::Patches, 2 * 16), (Judges::Picture, 2)] {
            let logits = |seed| {
                values(Discriminator::init(&config(judges), 16, seed, &device).forward(pictures.clone()))
            };
            let first = logits(1);
            assert_eq!(first.len(), count);
            let parameters = Discriminator::init(&config(judges), 16, 1, &device).num_params();
            assert_eq!(config(judges).parameters(16), parameters);
            assert_eq!(first, logits(1));
            assert_ne!(first, logits(2));
            assert!(first.iter().all(|logit| logit.is_finite() && *logit != 0.0));
        }
    }

    #[test]
    fn a_logit_does_not_depend_on_the_batch() {
        let device = Device::flex();
        let discriminator = Discriminator::init(&config(Judges::Picture), 16, 1, &device);
        let ramp: Vec<f32> = (0..2 * 3 * 256).map(|i| (i % 97) as f32 / 97.0).collect();
        let pair = Tensor::<1>::from_floats(ramp.as_slice(), &device).reshape([2, 3, 16, 16]);
        let both = values(discriminator.forward(pair.clone()));
        let second = values(discriminator.forward(pair.narrow(0, 1, 1)));
        assert!((both[1] - second[0]).abs() < 1e-5, "{both:?} {second:?}");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused_by_name() {
        assert!(config(Judges::Patches).validate(16).is_ok());
        let with = |filters, multipliers: &[usize]| DiscriminatorConfig {
            filters,
            multipliers: multipliers.into(),
            judges: Judges::Patches,
        };
        assert!(with(1 << 16, &[1]).validate(16).is_ok());
        for (config, size, field) in [
            (config(Judges::Patches), 18, "multipliers"),
            (config(Judges::Patches), 4, "multipliers"),
            (with(4, &[]), 16, "multipliers"),
            (with(4, &[2, 0]), 16, "multipliers"),
            (with(4, &[1 << 15]), 16, "multipliers"),
            (with(4, &[1 << 63, 2]), 16, "multipliers"),
            (with(0, &[2]), 16, "filters"),
            (with((1 << 16) + 1, &[1]), 16, "filters"),
        ] {
            let error = config.validate(size).unwrap_err().to_string();
            assert!(error.contains(&format!("`adversary.discriminator.{field}`")), "{error}");
        }
    }
}
