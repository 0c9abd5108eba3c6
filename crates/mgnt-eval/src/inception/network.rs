use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::activation::relu;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor, TensorData};
use mgnt_data::Picture;
use mgnt_data::manifest::sha256_of_file;
use mgnt_weights::{TensorMap, in_parts, module};
use rayon::prelude::*;

use super::convolution::{Kernel, Size, Walk};
use super::pool::Pool;
use super::resize::{Resize, SIDE};
use crate::Error;

/// Which features are taken: spatial means after a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dims {
    /// After the first max-pool.
    D64,
    /// After the second max-pool.
    D192,
    /// After `Mixed_6e`.
    D768,
    /// After `Mixed_7c`: the usual ones.
    D2048,
}

impl Dims {
    /// All, from the first layers to the last.
    pub const ALL: [Self; 4] = [Self::D64, Self::D192, Self::D768, Self::D2048];

    /// Number of features.
    pub fn count(self) -> usize {
        match self {
            Self::D64 => 64,
            Self::D192 => 192,
            Self::D768 => 768,
            Self::D2048 => 2048,
        }
    }

    /// The features of that number.
    pub fn from_count(count: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|dims| dims.count() == count)
    }
}

/// Channels of `Mixed_6d` that make the spatial features of ADM's evaluator, 17 x 17 of each.
const SPATIAL_CHANNELS: usize = 7;

/// What the network says of some pictures.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Activations {
    /// Features `[n, dims]`.
    pub features: Vec<f32>,
    /// Spatial features `[n, 2023]`: the first seven channels after `Mixed_6d`, 17 x 17 x 7, as ADM's evaluator
    /// takes them for sFID; where the network comes past that layer.
    pub spatial: Option<Vec<f32>>,
    /// Logits `[n, 1008]` without the last layer's bias, as torch-fidelity's Inception Score takes them; of the
    /// features of 2048 dimensions, where the weights have that layer.
    pub logits: Option<Vec<f32>>,
}

impl Activations {
    /// Adds what it says of further pictures; what it does not say of all of them is left out.
    pub fn extend(&mut self, more: Self) {
        if more.features.is_empty() {
            return;
        }
        if self.features.is_empty() {
            *self = more;
            return;
        }
        let join = |a: &mut Option<Vec<f32>>, b: Option<Vec<f32>>| match (a, b) {
            (Some(a), Some(b)) => a.extend(b),
            (a, _) => *a = None,
        };
        self.features.extend(more.features);
        join(&mut self.spatial, more.spatial);
        join(&mut self.logits, more.logits);
    }
}

/// Batch norm's epsilon of this network.
const NORM_EPSILON: f64 = 1e-3;

/// Inception v3 of the 2015 TensorFlow release, by the layout and key names of its PyTorch port (pytorch-fid), as far
/// as the weights reach.
#[derive(Debug)]
pub struct Inception {
    layers: BTreeMap<String, Folded>,
    /// `[classes, 2048]`.
    classifier: Option<Tensor<2>>,
    device: Device,
    resize: Resize,
    side_by_side: bool,
    exact_products: bool,
    path: PathBuf,
    sha256: String,
}

/// A convolution with its batch norm folded in.
#[derive(Debug)]
struct Folded {
    weight: Tensor<4>,
    bias: Tensor<1>,
    /// The same on the host, where processors compute.
    kernel: Option<Kernel>,
}

impl Inception {
    /// Reads weights with the names of the PyTorch port, as a PyTorch checkpoint (of either format) or safetensors;
    /// they may end at any layer. Asking for features that lie behind that is an error then.
    ///
    /// Fails on a device whose floats are not `f32` unless a type is named
    /// ([`check_float_type`](module::check_float_type)): distances would be those of halves.
    pub fn load(path: &Path, device: &Device) -> Result<Self, Error> {
        let sha256 = sha256_of_file(path)?;
        module::check_float_type(device)?;
        let tensors = mgnt_weights::read(path)?;
        let finite = tensors.check_finite().map_err(Error::from);
        let read = finite.and_then(|()| Self::from_tensors(tensors, path, sha256, device));
        read.map_err(|error| Error::File { path: path.into(), reason: error.to_string() })
    }

    /// The same network with another way from pictures to its input.
    pub fn with_resize(mut self, resize: Resize) -> Self {
        self.resize = resize;
        self
    }

    /// The same network, whose convolutions are as exact as `f32` where a device's tensor cores would round their
    /// operands to ten bits (TF32, on CUDA): each is taken as four.
    pub fn with_exact_products(mut self) -> Self {
        self.exact_products = true;
        self
    }

    /// The same network, that gives each thread a part of a batch and computes convolutions on the host: for
    /// processors, where one operation alone leaves threads idle.
    pub fn side_by_side(mut self) -> Result<Self, Error> {
        self.side_by_side = true;
        for layer in self.layers.values_mut() {
            let [_, _, height, width] = layer.weight.dims();
            layer.kernel = Some(Kernel {
                weight: values(layer.weight.clone())?,
                bias: values(layer.bias.clone())?,
                size: Size { height, width },
            });
        }
        Ok(self)
    }

    fn from_tensors(tensors: TensorMap, path: &Path, sha256: String, device: &Device) -> Result<Self, Error> {
        let names: Vec<String> = tensors
            .iter()
            .filter_map(|(name, _)| Some(name.strip_suffix(".conv.weight")?.to_owned()))
            .collect();
        let mut layers = BTreeMap::new();
        for name in names {
            let folded = fold(&tensors, &name, device)?;
            layers.insert(name, folded);
        }
        let classifier = match tensors.get("fc.weight") {
            Ok(weight) => match *weight.require_float("fc.weight")?.shape() {
                [classes, 2048] if classes > 0 => {
                    Some(Tensor::<2>::from_data(TensorData::new(weight.to_f32(), [classes, 2048]), device))
                }
                _ => {
                    let got = format!("{:?}", weight.shape());
                    return Err(Error::input("fc.weight", "[classes, 2048]", got));
                }
            },
            Err(_) => None,
        };
        Ok(Self {
            layers,
            classifier,
            device: device.clone(),
            resize: Resize::default(),
            side_by_side: false,
            exact_products: false,
            path: path.into(),
            sha256,
        })
    }

    /// The file of the weights.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SHA-256 of that file.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// How pictures become the input.
    pub fn resize(&self) -> Resize {
        self.resize
    }

    /// Whether the weights reach these features.
    pub fn reaches(&self, dims: Dims) -> bool {
        let last = match dims {
            Dims::D64 => "Conv2d_2b_3x3",
            Dims::D192 => "Conv2d_4a_3x3",
            Dims::D768 => "Mixed_6e.branch_pool",
            Dims::D2048 => "Mixed_7c.branch_pool",
        };
        self.layers.contains_key(last)
    }

    /// An error that names the first tensor that is missing, where the weights do not reach these features.
    pub fn require(&self, dims: Dims) -> Result<(), Error> {
        if self.reaches(dims) {
            return Ok(());
        }
        let dot = Picture::new(1, 1, vec![0; 3])?;
        self.together(&[dot], dims).map(drop)
    }

    /// What the network says of pictures, of any sizes.
    pub fn activations(&self, pictures: &[Picture], dims: Dims) -> Result<Activations, Error> {
        let threads = rayon::current_num_threads();
        if !self.side_by_side || threads == 1 || pictures.len() < 2 {
            return self.together(pictures, dims);
        }
        let parts: Vec<Activations> = pictures
            .par_chunks(pictures.len().div_ceil(threads))
            .map(|part| self.together(part, dims))
            .collect::<Result<_, _>>()?;
        Ok(parts.into_iter().fold(Activations::default(), |mut all, part| {
            all.extend(part);
            all
        }))
    }

    fn together(&self, pictures: &[Picture], dims: Dims) -> Result<Activations, Error> {
        let input: Vec<f32> = pictures
            .par_iter()
            .flat_map_iter(|picture| self.resize.apply(picture.rgb(), picture.width(), picture.height()))
            .collect();
        let input = TensorData::new(input, [pictures.len(), 3, SIDE, SIDE]);
        let said = self.forward(Tensor::from_data(input, &self.device), dims)?;
        let logits = match (&self.classifier, dims) {
            (Some(weight), Dims::D2048) => {
                let (features, weight) = (said.features.clone(), weight.clone().transpose());
                Some(match self.exact_products {
                    true => in_parts(features, weight, Tensor::matmul),
                    false => features.matmul(weight),
                })
            }
            _ => None,
        };
        Ok(Activations {
            features: values(said.features)?,
            spatial: said.spatial.map(values).transpose()?,
            logits: logits.map(values).transpose()?,
        })
    }

    /// Maps `[n, channels, h, w]` after the layers that features are taken from, in the order of [`Dims`] and as far as
    /// the weights reach and the input is large enough, of an input `[n, 3, height, width]` in -1 to 1: none below 11
    /// pixels, all four from 75. Gradients pass through to the input.
    pub fn maps(&self, x: Tensor<4>) -> Result<Vec<Tensor<4>>, Error> {
        let mut maps: Vec<Tensor<4>> = Vec::new();
        for stage in Dims::ALL.into_iter().filter(|&stage| self.reaches(stage)) {
            let input = maps.last().unwrap_or(&x).clone();
            let [_, _, height, width] = input.dims();
            // Below that some kernel has nothing to stand on. Stages that begin with a reduction need it alone.
            let least = match stage {
                Dims::D64 => 11,
                Dims::D192 => 5,
                Dims::D768 | Dims::D2048 => 3,
            };
            if height.min(width) < least {
                break;
            }
            maps.push(self.stage(stage, input, stage, &mut None)?);
        }
        Ok(maps)
    }

    /// What the network says of an input `[n, 3, 299, 299]` in -1 to 1.
    fn forward(&self, x: Tensor<4>, dims: Dims) -> Result<Said, Error> {
        let mut spatial = None;
        let mut stages = Dims::ALL.into_iter().filter(|&stage| stage <= dims);
        let last = stages.try_fold(x, |x, stage| self.stage(stage, x, dims, &mut spatial))?;
        Ok(Said { features: mean(last), spatial: spatial.map(first_channels) })
    }

    /// The layers behind the stage before, up to those that give the features of `stage`; `dims` is for errors.
    /// On the way past `Mixed_6d` its map goes to `spatial`.
    fn stage(
        &self,
        stage: Dims,
        mut x: Tensor<4>,
        dims: Dims,
        spatial: &mut Option<Tensor<4>>,
    ) -> Result<Tensor<4>, Error> {
        let run =
            |name: &str, x: Tensor<4>, stride: usize, same: bool| self.conv(name, x, stride, same, dims);
        match stage {
            Dims::D64 => {
                x = run("Conv2d_1a_3x3", x, 2, false)?;
                x = run("Conv2d_2a_3x3", x, 1, false)?;
                self.pool(Pool::Halving, run("Conv2d_2b_3x3", x, 1, true)?)
            }
            Dims::D192 => {
                x = run("Conv2d_3b_1x1", x, 1, true)?;
                self.pool(Pool::Halving, run("Conv2d_4a_3x3", x, 1, false)?)
            }
            Dims::D768 => {
                for block in ["Mixed_5b", "Mixed_5c", "Mixed_5d"] {
                    let branches: [&[&str]; 3] = [
                        &["branch1x1"],
                        &["branch5x5_1", "branch5x5_2"],
                        &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"],
                    ];
                    x = self.mixed(block, x, &branches, Pool::Mean, dims)?;
                }
                let long: &[&str] = &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"];
                x = self.reduction("Mixed_6a", x, &[&["branch3x3"], long], dims)?;
                for block in ["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"] {
                    let branches: [&[&str]; 3] = [
                        &["branch1x1"],
                        &["branch7x7_1", "branch7x7_2", "branch7x7_3"],
                        &[
                            "branch7x7dbl_1",
                            "branch7x7dbl_2",
                            "branch7x7dbl_3",
                            "branch7x7dbl_4",
                            "branch7x7dbl_5",
                        ],
                    ];
                    x = self.mixed(block, x, &branches, Pool::Mean, dims)?;
                    if block == "Mixed_6d" {
                        let [_, channels, _, _] = x.dims();
                        if channels < SPATIAL_CHANNELS {
                            let expected = format!("{block} with at least {SPATIAL_CHANNELS} channels");
                            return Err(Error::input("Inception weights", expected, channels));
                        }
                        *spatial = Some(x.clone());
                    }
                }
                Ok(x)
            }
            Dims::D2048 => {
                let long: &[&str] = &["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"];
                x = self.reduction("Mixed_7a", x, &[&["branch3x3_1", "branch3x3_2"], long], dims)?;
                x = self.split("Mixed_7b", x, Pool::Mean, dims)?;
                // The 2015 network pools by maximum in its last block.
                self.split("Mixed_7c", x, Pool::Largest, dims)
            }
        }
    }

    /// Branches of convolutions that keep the size, and one of a pool and a convolution.
    fn mixed(
        &self,
        block: &str,
        x: Tensor<4>,
        branches: &[&[&str]],
        pool: Pool,
        dims: Dims,
    ) -> Result<Tensor<4>, Error> {
        let mut parts = Vec::new();
        for branch in branches {
            parts.push(self.chain(block, branch, x.clone(), dims)?);
        }
        parts.push(self.conv(&format!("{block}.branch_pool"), self.pool(pool, x)?, 1, true, dims)?);
        Ok(Tensor::cat(parts, 1))
    }

    /// Branches whose last convolution halves the size, and a max-pool that does.
    fn reduction(
        &self,
        block: &str,
        x: Tensor<4>,
        branches: &[&[&str]],
        dims: Dims,
    ) -> Result<Tensor<4>, Error> {
        let mut parts = Vec::new();
        for branch in branches {
            let (last, before) = branch.split_last().unwrap_or((&"", &[]));
            let y = self.chain(block, before, x.clone(), dims)?;
            parts.push(self.conv(&format!("{block}.{last}"), y, 2, false, dims)?);
        }
        parts.push(self.pool(Pool::Halving, x)?);
        Ok(Tensor::cat(parts, 1))
    }

    /// The last two blocks, whose 3x3 convolutions are split in a wide and a high one side by side.
    fn split(&self, block: &str, x: Tensor<4>, pool: Pool, dims: Dims) -> Result<Tensor<4>, Error> {
        let one = |name: &str, x: Tensor<4>| self.conv(&format!("{block}.{name}"), x, 1, true, dims);
        let short = one("branch3x3_1", x.clone())?;
        let long = self.chain(block, &["branch3x3dbl_1", "branch3x3dbl_2"], x.clone(), dims)?;
        let parts = vec![
            one("branch1x1", x.clone())?,
            one("branch3x3_2a", short.clone())?,
            one("branch3x3_2b", short)?,
            one("branch3x3dbl_3a", long.clone())?,
            one("branch3x3dbl_3b", long)?,
            one("branch_pool", self.pool(pool, x)?)?,
        ];
        Ok(Tensor::cat(parts, 1))
    }

    fn chain(&self, block: &str, names: &[&str], x: Tensor<4>, dims: Dims) -> Result<Tensor<4>, Error> {
        names.iter().try_fold(x, |x, name| self.conv(&format!("{block}.{name}"), x, 1, true, dims))
    }

    /// Whether maps like these are computed on the host; gradients pass through the backend's operations only.
    fn on_host(&self, x: &Tensor<4>) -> bool {
        self.side_by_side && !x.device().is_autodiff()
    }

    fn pool(&self, pool: Pool, x: Tensor<4>) -> Result<Tensor<4>, Error> {
        if !self.on_host(&x) {
            return Ok(pool.apply(x));
        }
        let ([pictures, channels, height, width], device) = (x.dims(), x.device());
        let size = Size { height, width };
        let output = pool.output(size);
        let y = pool.on_host(&values(x)?, size);
        let shape = [pictures, channels, output.height, output.width];
        Ok(Tensor::from_data(TensorData::new(y, shape), &device))
    }

    /// Convolution, folded batch norm, ReLU; `same` pads so that stride 1 keeps the size.
    fn conv(
        &self,
        name: &str,
        x: Tensor<4>,
        stride: usize,
        same: bool,
        dims: Dims,
    ) -> Result<Tensor<4>, Error> {
        let layer = self.layers.get(name).ok_or_else(|| Error::Weights {
            path: self.path.clone(),
            dims: dims.count(),
            tensor: format!("{name}.conv.weight"),
        })?;
        let [_, inputs, height, width] = layer.weight.dims();
        let [_, channels, _, _] = x.dims();
        if inputs != channels {
            return Err(Error::input("Inception weights", format!("{name} with {channels} inputs"), inputs));
        }
        // Any other kernel would make maps of sizes that do not go together.
        let kernel_fits = if same { height % 2 + width % 2 == 2 } else { (height, width) == (3, 3) };
        if !kernel_fits || height.max(width) > 7 {
            let expected = format!("{name} with a kernel of this network");
            return Err(Error::input("Inception weights", expected, format!("{height} x {width}")));
        }
        let padding = if same { [height / 2, width / 2] } else { [0, 0] };
        if let (Some(kernel), true) = (&layer.kernel, self.on_host(&x)) {
            let ([pictures, _, height, width], device) = (x.dims(), x.device());
            let (size, walk) = (Size { height, width }, Walk { stride, padding });
            let y = kernel.apply(&values(x)?, size, walk);
            let output = kernel.output(size, walk);
            let shape = [pictures, kernel.bias.len(), output.height, output.width];
            return Ok(Tensor::from_data(TensorData::new(y, shape), &device));
        }
        let options = ConvOptions::new([stride, stride], padding, [1, 1], 1);
        if self.exact_products {
            let y = in_parts(x, layer.weight.clone(), |x, weight| conv2d(x, weight, None, options.clone()));
            return Ok(relu(y + layer.bias.clone().reshape([1, -1, 1, 1])));
        }
        Ok(relu(conv2d(x, layer.weight.clone(), Some(layer.bias.clone()), options)))
    }
}

/// Tensors of the layers that are asked for.
struct Said {
    /// `[n, dims]`.
    features: Tensor<2>,
    /// `[n, 2023]`.
    spatial: Option<Tensor<2>>,
}

/// The spatial features `[n, rows x columns x 7]`: the channels of each place side by side, as TensorFlow has them.
fn first_channels(x: Tensor<4>) -> Tensor<2> {
    let [batch, _, height, width] = x.dims();
    x.narrow(1, 0, SPATIAL_CHANNELS).permute([0, 2, 3, 1]).reshape([batch, height * width * SPATIAL_CHANNELS])
}

/// `bn(conv(x)) = conv'(x) + b'`, in f64.
fn fold(tensors: &TensorMap, name: &str, device: &Device) -> Result<Folded, Error> {
    let full = format!("{name}.conv.weight");
    let weight = tensors.get(&full)?.require_float(&full)?;
    let [outputs, inputs, height, width] = *weight.shape() else {
        return Err(Error::input(
            "Inception weights",
            format!("{name} with four dimensions"),
            weight.shape().len(),
        ));
    };
    if weight.shape().contains(&0) {
        let got = format!("{:?}", weight.shape());
        return Err(Error::input("Inception weights", format!("{name} without an empty dimension"), got));
    }
    let norm = |part: &str| -> Result<Vec<f64>, Error> {
        let full = format!("{name}.bn.{part}");
        Ok(tensors.f32_of_shape(&full, &[outputs])?.into_iter().map(f64::from).collect())
    };
    let (gain, bias, mean, variance) =
        (norm("weight")?, norm("bias")?, norm("running_mean")?, norm("running_var")?);
    let scale: Vec<f64> = gain.iter().zip(variance).map(|(g, v)| g / (v + NORM_EPSILON).sqrt()).collect();
    let each = inputs * height * width;
    let weight =
        weight.to_f32().iter().enumerate().map(|(i, &w)| (f64::from(w) * scale[i / each]) as f32).collect();
    let bias = (0..outputs).map(|i| (bias[i] - mean[i] * scale[i]) as f32).collect();
    let weight: Vec<f32> = weight;
    let bias: Vec<f32> = bias;
    Ok(Folded {
        weight: Tensor::from_data(TensorData::new(weight, [outputs, inputs, height, width]), device),
        bias: Tensor::from_data(TensorData::new(bias, [outputs]), device),
        kernel: None,
    })
}

fn mean(x: Tensor<4>) -> Tensor<2> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height * width]).mean_dim(2).reshape([batch, channels])
}

fn values<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, Error> {
    module::numbers(tensor).map_err(Error::Device)
}

#[cfg(test)]
mod tests;
