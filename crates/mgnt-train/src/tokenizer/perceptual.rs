//! How alike two pictures are to a network that was trained to see: LPIPS (Zhang et al., CVPR 2018) on a VGG of the
//! user's, or the same distance on the maps of the Inception network.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::activation::relu;
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData};
use mgnt_data::manifest::sha256_of_file;
use mgnt_eval::Inception;
use mgnt_weights::TensorMap;

use crate::Error;

/// A distance of pictures by the features of a network, whose weights are never trained.
#[derive(Debug)]
pub struct Perceptual {
    network: Network,
    sha256: String,
}

#[derive(Debug)]
enum Network {
    Vgg(Box<Vgg>),
    Inception(Arc<Inception>),
}

/// VGG-16 as far as its last ReLU, and LPIPS' weights of its channels where they were given.
#[derive(Debug)]
struct Vgg {
    convolutions: Vec<(Tensor<4>, Tensor<1>)>,
    /// By tap, `[1, C, 1, 1]`.
    channels: Option<Vec<Tensor<4>>>,
}

/// Outputs of VGG-16's convolutions, by block; a max-pool stands between blocks, a tap after each.
const VGG: [&[usize]; 5] = [&[64, 64], &[128, 128], &[256, 256, 256], &[512, 512, 512], &[512, 512, 512]];
/// LPIPS' means and deviations of colours in -1 to 1.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// The least length of a vector of features that is divided by.
const LEAST: f64 = 1e-10;
/// Smaller pictures do not reach through the Inception network as far as `Mixed_6e`.
const INCEPTION_SIDE: usize = 64;

impl Perceptual {
    /// LPIPS from one file, or more that are taken together: torchvision's VGG-16 (`features.0.weight`, ...) and the
    /// linear layers of the `lpips` package (`lin0.model.1.weight`, ...), or a whole LPIPS module that holds both
    /// (`net.slice1.0.weight`, ...). Without linear layers all channels weigh the same.
    pub fn lpips(files: &[PathBuf], device: &Device) -> Result<Self, Error> {
        let mut tensors = TensorMap::new();
        let mut sums = Vec::new();
        for path in files {
            let read = mgnt_weights::read(path)?;
            read.check_finite().map_err(|error| error.at(path))?;
            read.iter().for_each(|(name, tensor)| tensors.insert(name, tensor.clone()));
            sums.push(sha256_of_file(path)?);
        }
        let named = files.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let vgg = Vgg::from_tensors(&tensors, Path::new(&named), device)?;
        Ok(Self { network: Network::Vgg(Box::new(vgg)), sha256: sums.join(" ") })
    }

    /// The distance on an Inception network, as far as its weights reach.
    pub fn inception(network: Arc<Inception>) -> Self {
        Self { sha256: network.sha256().to_owned(), network: Network::Inception(network) }
    }

    /// What its weights are known by.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Mean distance `[1]` of pictures `[B, 3, H, W]` in 0 to 1; gradients go to the first only.
    pub fn distance(&self, pictures: Tensor<4>, targets: Tensor<4>) -> Result<Tensor<1>, Error> {
        let (ours, theirs) = match &self.network {
            Network::Vgg(vgg) => (vgg.maps(pictures), vgg.maps(targets.inner())),
            Network::Inception(network) => {
                let input = |x: Tensor<4>| enlarged(x, INCEPTION_SIDE) * 2.0 - 1.0;
                (network.maps(input(pictures))?, network.maps(input(targets.inner()))?)
            }
        };
        let weights = |tap: usize| match &self.network {
            Network::Vgg(vgg) => vgg.channels.as_ref().map(|channels| channels[tap].clone()),
            Network::Inception(_) => None,
        };
        let taps = ours.into_iter().zip(theirs).enumerate();
        let distances = taps.map(|(tap, (a, b))| tap_distance(a, b, weights(tap)));
        let sum = distances.reduce(|sum, distance| sum + distance);
        sum.ok_or_else(|| Error::run("perceptual weights", "they reach no features"))
    }
}

/// Mean over pictures and places of the squared difference of two maps, whose vectors of channels have length one.
fn tap_distance(a: Tensor<4>, b: Tensor<4>, weights: Option<Tensor<4>>) -> Tensor<1> {
    let unit = |x: Tensor<4>| {
        // The square below is that of a length, and keeps the root's derivative finite where all channels are zero.
        let length = ((x.clone() * x.clone()).sum_dim(1) + LEAST * LEAST).sqrt();
        x / (length + LEAST)
    };
    let difference = unit(a) - unit(b);
    let square = difference.clone() * difference;
    let square = match weights {
        Some(weights) => square * weights,
        None => square,
    };
    square.sum_dim(1).mean()
}

/// Each pixel repeated so often that the sides reach `side`.
fn enlarged(x: Tensor<4>, side: usize) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let factor = side.div_ceil(height.min(width).max(1));
    if factor == 1 {
        return x;
    }
    x.reshape([batch * channels, height, 1, width, 1])
        .expand([batch * channels, height, factor, width, factor])
        .reshape([batch, channels, factor * height, factor * width])
}

impl Vgg {
    fn from_tensors(tensors: &TensorMap, path: &Path, device: &Device) -> Result<Self, Error> {
        let tensor = |values: Vec<f32>, shape: [usize; 4]| -> Tensor<4> {
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        let named = |error: mgnt_weights::Error| Error::run(path, error);
        let mut convolutions = Vec::new();
        let mut inputs = 3;
        // torchvision numbers convolutions, ReLUs and pools alike.
        let mut number = 0;
        for (block, outputs) in VGG.iter().enumerate() {
            for &outputs in *outputs {
                let torchvision = format!("features.{number}");
                let lpips = format!("net.slice{}.{number}", block + 1);
                let name = if tensors.get(&format!("{lpips}.weight")).is_ok() { lpips } else { torchvision };
                let shape = [outputs, inputs, 3, 3];
                let weight = tensors.f32_of_shape(&format!("{name}.weight"), &shape).map_err(named)?;
                let bias = tensors.f32_of_shape(&format!("{name}.bias"), &[outputs]).map_err(named)?;
                let bias = Tensor::from_data(TensorData::new(bias, [outputs]), device);
                convolutions.push((tensor(weight, shape), bias));
                (inputs, number) = (outputs, number + 2);
            }
            number += 1;
        }
        let channels = if tensors.get("lin0.model.1.weight").is_ok() {
            let weights = VGG.iter().enumerate().map(|(tap, outputs)| {
                let shape = [1, *outputs.last().unwrap_or(&0), 1, 1];
                let name = format!("lin{tap}.model.1.weight");
                Ok(tensor(tensors.f32_of_shape(&name, &shape).map_err(named)?, shape))
            });
            Some(weights.collect::<Result<_, Error>>()?)
        } else {
            None
        };
        Ok(Self { convolutions, channels })
    }

    /// Maps after each block of pictures in 0 to 1; a block that a small picture does not reach is left out.
    fn maps(&self, pictures: Tensor<4>) -> Vec<Tensor<4>> {
        let device = pictures.device();
        let colours = |values: [f32; 3]| Tensor::<1>::from_floats(values, &device).reshape([1, 3, 1, 1]);
        let mut x = (pictures * 2.0 - 1.0 - colours(SHIFT)) / colours(SCALE);
        let mut maps = Vec::new();
        let mut convolutions = self.convolutions.iter();
        for (block, outputs) in VGG.iter().enumerate() {
            if block > 0 {
                if x.dims()[2..].iter().any(|&side| side < 2) {
                    break;
                }
                x = max_pool2d(x, MaxPoolOptions::new([2, 2]));
            }
            for (weight, bias) in convolutions.by_ref().take(outputs.len()) {
                let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
                x = relu(conv2d(x, weight.clone(), Some(bias.clone()), options));
            }
            maps.push(x.clone());
        }
        maps
    }
}

#[cfg(test)]
mod tests {
    use mgnt_weights::safetensors;

    use super::*;

    fn golden() -> TensorMap {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer-losses");
        safetensors::read(&path.join("case.safetensors")).unwrap()
    }

    /// Values of -1 to 1 by the formula of the golden case.
    fn formula(name: &str, count: usize) -> impl Iterator<Item = f64> {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        (1..=count as u64).map(move |i| {
            let mut z = hash.wrapping_add(i.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            2.0 * ((z >> 40) as f64 / f64::from(1u32 << 24)) - 1.0
        })
    }

    fn vgg(linear: bool) -> TensorMap {
        let mut tensors = TensorMap::new();
        let mut add = |name: String, shape: &[usize], of: &dyn Fn(f64) -> f64| {
            let values: Vec<f32> = formula(&name, shape.iter().product()).map(|s| of(s) as f32).collect();
            tensors.insert_f32(&name, shape, &values).unwrap();
        };
        let (mut inputs, mut number) = (3, 0);
        for (tap, outputs) in VGG.iter().enumerate() {
            for &outputs in *outputs {
                let spread = (6.0 / (9 * inputs) as f64).sqrt();
                add(format!("features.{number}.weight"), &[outputs, inputs, 3, 3], &|s| s * spread);
                add(format!("features.{number}.bias"), &[outputs], &|s| s * 0.1);
                (inputs, number) = (outputs, number + 2);
            }
            number += 1;
            if linear {
                add(format!("lin{tap}.model.1.weight"), &[1, inputs, 1, 1], &f64::abs);
            }
        }
        tensors
    }

    fn tensor(map: &TensorMap, name: &str, device: &Device) -> Tensor<4> {
        let values = map.get(name).unwrap().to_f32();
        Tensor::<1>::from_floats(values.as_slice(), device).reshape([2, 3, 32, 32])
    }

    /// Distances and gradients that PyTorch gives; see `make.py` beside the golden.
    #[test]
    fn lpips_is_that_of_the_published_layout() {
        let device = Device::flex().autodiff();
        let case = golden();
        let folder = tempfile::tempdir().unwrap();
        let (whole, half) = (folder.path().join("vgg.safetensors"), folder.path().join("plain.safetensors"));
        safetensors::write(&whole, &vgg(true)).unwrap();
        safetensors::write(&half, &vgg(false)).unwrap();
        for (name, file) in [("lpips", whole), ("unweighted", half)] {
            let judge = Perceptual::lpips(&[file], &Device::flex()).unwrap();
            let pictures = tensor(&case, "pictures", &device).require_grad();
            let distance = judge.distance(pictures.clone(), tensor(&case, "targets", &device)).unwrap();
            let (got, expected) =
                (distance.clone().into_scalar::<f32>(), case.get(name).unwrap().to_f32()[0]);
            assert!((got / expected - 1.0).abs() < 1e-4, "{name}: {got} {expected}");
            let gradient = pictures.grad(&distance.backward()).unwrap();
            let gradient = gradient.into_data().try_into_vec::<f32>().unwrap();
            let expected = case.get(&format!("{name}_gradient")).unwrap().to_f32();
            let largest = expected.iter().fold(0.0, |m: f32, g| m.max(g.abs()));
            for (got, expected) in gradient.iter().zip(expected) {
                assert!((got - expected).abs() < 1e-3 * largest, "{name}: {got} {expected} of {largest}");
            }
        }
    }

    #[test]
    fn weights_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vgg.safetensors");
        let mut tensors = vgg(false);
        tensors.remove("features.28.bias");
        safetensors::write(&path, &tensors).unwrap();
        let error = Perceptual::lpips(&[path], &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("vgg.safetensors") && error.contains("features.28.bias"), "{error}");
    }

    #[test]
    fn a_distance_by_hand() {
        let device = Device::flex();
        let map = |values: [f32; 4]| Tensor::<1>::from_floats(values, &device).reshape([1, 2, 1, 2]);
        // Vectors (3, 4) and (0, 0), of which the second has no direction, against (4, 3) and (0, 1).
        let (a, b) = (map([3.0, 0.0, 4.0, 0.0]), map([4.0, 0.0, 3.0, 1.0]));
        let plain = tap_distance(a.clone(), b.clone(), None).into_scalar::<f32>();
        assert!((plain - (0.04 + 0.04 + 1.0) / 2.0).abs() < 1e-6, "{plain}");
        let weights = Tensor::<1>::from_floats([1.0, 2.0], &device).reshape([1, 2, 1, 1]);
        let weighted = tap_distance(a, b, Some(weights)).into_scalar::<f32>();
        assert!((weighted - (0.04 + 0.08 + 2.0) / 2.0).abs() < 1e-6, "{weighted}");
    }

    #[test]
    fn a_map_of_zeros_has_a_finite_gradient() {
        let device = Device::flex().autodiff();
        let zeros = Tensor::<4>::zeros([1, 2, 2, 2], &device).require_grad();
        let grads = tap_distance(zeros.clone(), Tensor::ones([1, 2, 2, 2], &device), None).backward();
        let sum = zeros.grad(&grads).unwrap().abs().sum().into_scalar::<f32>();
        assert!(sum.is_finite(), "{sum}");
    }

    #[test]
    fn small_pictures_are_enlarged() {
        let x = Tensor::<4>::from_floats([[[[1.0, 2.0]]]], &Device::flex());
        let large = enlarged(x, 3);
        assert_eq!(large.dims(), [1, 1, 3, 6]);
        let row = large.into_data().try_into_vec::<f32>().unwrap()[..6].to_vec();
        assert_eq!(row, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    }
}
