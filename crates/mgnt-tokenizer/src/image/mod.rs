mod config;
mod decoder;
mod encoder;
mod residual;

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_weights::directory::ModelDirectory;
use mgnt_weights::{TensorMap, module};

pub use config::{ImageTokenizerConfig, Shortcut};
use decoder::Decoder;
use encoder::Encoder;

use crate::Error;
use crate::quantizer::{Quantized, Quantizer};

/// MaskGIT's image tokenizer.
#[derive(Module, Debug)]
pub struct ImageTokenizer {
    encoder: Encoder,
    quantizer: Quantizer,
    decoder: Decoder,
    #[module(skip)]
    config: ImageTokenizerConfig,
}

/// What one pass for training gives.
#[derive(Debug)]
pub struct TrainOutput {
    /// Reconstructed pictures, `[B, 3, H, W]`.
    pub reconstruction: Tensor<4>,
    /// Latents before quantization, `[B h w, D]`.
    pub latents: Tensor<2>,
    /// Codes and their losses.
    pub quantized: Quantized,
}

impl ImageTokenizer {
    /// A tokenizer with random weights, drawn from the device's generator after seeding it.
    pub fn init(config: &ImageTokenizerConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        device.seed(seed);
        let tokenizer = Self {
            encoder: Encoder::new(config, device),
            quantizer: Quantizer::new(config.codes, config.embedding, device),
            decoder: Decoder::new(config, device),
            config: config.clone(),
        };
        tokenizer.visit(&mut Drawn);
        Ok(tokenizer)
    }

    /// A tokenizer with the tensors of a map, named by their path in this module.
    pub fn from_weights(
        config: &ImageTokenizerConfig,
        weights: TensorMap,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(module::from_map(Self::init(config, 0, device)?, weights)?)
    }

    /// Reads a model directory (`config.ron`, `model.safetensors`).
    pub fn load(directory: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        let directory = ModelDirectory::new(directory.as_ref());
        let config: ImageTokenizerConfig = directory.config()?;
        Self::from_weights(&config, directory.weights()?, device)
    }

    /// Writes a model directory, whole or not at all.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<(), Error> {
        let weights = module::to_map(self)?;
        Ok(ModelDirectory::new(directory.as_ref()).save(&self.config, &weights)?)
    }

    /// Sizes and options.
    pub fn config(&self) -> &ImageTokenizerConfig {
        &self.config
    }

    /// The codebook.
    pub fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    /// With another codebook.
    pub fn with_quantizer(mut self, change: impl FnOnce(Quantizer) -> Quantizer) -> Self {
        self.quantizer = change(self.quantizer);
        self
    }

    /// Latents `[B, D, h, w]` of pictures `[B, 3, H, W]` in 0 to 1.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        self.encoder.forward(pictures)
    }

    /// One pass for training.
    pub fn forward_train(&self, pictures: Tensor<4>) -> TrainOutput {
        let latents = self.encode(pictures);
        let [batch, _, rows, columns] = latents.dims();
        let latents = to_rows(latents);
        let quantized = self.quantizer.forward_train(latents.clone());
        let codes = from_rows(quantized.codes.clone(), [batch, rows, columns]);
        TrainOutput { reconstruction: self.decoder.forward(codes), latents, quantized }
    }

    /// Tokens of pictures given as bytes `[size, size, 3]`, in raster order.
    pub fn tokens(&self, pictures: &[&[u8]], device: &Device) -> Result<Vec<Vec<u16>>, Error> {
        let input = self.to_tensor(pictures, device)?;
        let indices = self.quantizer.nearest(to_rows(self.encode(input)));
        let indices = indices.into_data().convert::<i64>().try_into_vec::<i64>();
        let indices = indices.map_err(|e| Error::Device(format!("{e:?}")))?;
        let each = self.config.grid() * self.config.grid();
        Ok(indices.chunks(each).map(|tokens| tokens.iter().map(|&t| t as u16).collect()).collect())
    }

    /// Pictures as bytes `[size, size, 3]` of tokens in raster order.
    pub fn pictures(&self, tokens: &[Vec<u16>], device: &Device) -> Result<Vec<Vec<u8>>, Error> {
        let grid = self.config.grid();
        for tokens in tokens {
            if tokens.len() != grid * grid {
                return Err(input("tokens", grid * grid, tokens.len()));
            }
            if let Some(token) = tokens.iter().find(|&&token| usize::from(token) >= self.config.codes) {
                return Err(input("token", format!("below {}", self.config.codes), token));
            }
        }
        let indices: Vec<i32> = tokens.iter().flatten().map(|&t| i32::from(t)).collect();
        let count = indices.len();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [count]), device);
        let codes = from_rows(self.quantizer.lookup(indices), [tokens.len(), grid, grid]);
        let pictures = self.decoder.forward(codes).clamp(0.0, 1.0).permute([0, 2, 3, 1]) * 255.0;
        let values = pictures.into_data().convert::<f32>().try_into_vec::<f32>();
        let values = values.map_err(|e| Error::Device(format!("{e:?}")))?;
        let each = self.config.size * self.config.size * 3;
        Ok(values.chunks(each).map(|picture| picture.iter().map(|v| v.round() as u8).collect()).collect())
    }

    /// Pictures given as bytes `[size, size, 3]` as a tensor `[B, 3, size, size]` in 0 to 1.
    pub fn to_tensor(&self, pictures: &[&[u8]], device: &Device) -> Result<Tensor<4>, Error> {
        let size = self.config.size;
        if let Some(wrong) = pictures.iter().find(|picture| picture.len() != size * size * 3) {
            return Err(input("picture", format!("{size}x{size}x3 bytes"), format!("{} bytes", wrong.len())));
        }
        let mut values = Vec::with_capacity(pictures.len() * size * size * 3);
        for picture in pictures {
            for channel in 0..3 {
                values.extend(picture.iter().skip(channel).step_by(3).map(|&v| f32::from(v) / 255.0));
            }
        }
        Ok(Tensor::from_data(TensorData::new(values, [pictures.len(), 3, size, size]), device))
    }
}

/// Draws every parameter now: Burn draws them at first use, which may come after who knows what other draws.
struct Drawn;

impl ModuleVisitor for Drawn {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}

fn input(field: &'static str, expected: impl ToString, got: impl ToString) -> Error {
    Error::Input { field, expected: expected.to_string(), got: got.to_string() }
}

/// `[B, D, h, w]` to `[B h w, D]`.
fn to_rows(latents: Tensor<4>) -> Tensor<2> {
    let [batch, width, rows, columns] = latents.dims();
    latents.permute([0, 2, 3, 1]).reshape([batch * rows * columns, width])
}

/// `[B h w, D]` to `[B, D, h, w]`.
fn from_rows(rows: Tensor<2>, [batch, height, width]: [usize; 3]) -> Tensor<4> {
    let [_, depth] = rows.dims();
    rows.reshape([batch, height, width, depth]).permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> ImageTokenizerConfig {
        ImageTokenizerConfig {
            size: 16,
            filters: 8,
            multipliers: vec![1, 2],
            residual_blocks: 1,
            embedding: 6,
            codes: 12,
            groups: 4,
            shortcut: Shortcut::Input,
        }
    }

    #[test]
    fn the_published_size_has_the_published_number_of_parameters() {
        let config = ImageTokenizerConfig::maskgit();
        let device = Device::flex();
        assert_eq!(Encoder::new(&config, &device).num_params(), 23_775_104);
        assert_eq!(Decoder::new(&config, &device).num_params(), 30_478_339);
    }

    #[test]
    fn tokens_and_pictures_have_their_shapes_and_survive_a_save() {
        let device = Device::flex();
        let tokenizer = ImageTokenizer::init(&small(), 3, &device).unwrap();
        let picture: Vec<u8> = (0..16 * 16 * 3).map(|i| (i % 256) as u8).collect();
        let tokens = tokenizer.tokens(&[&picture, &picture], &device).unwrap();
        assert_eq!((tokens.len(), tokens[0].len()), (2, 64));
        assert_eq!(tokens[0], tokens[1]);
        let pictures = tokenizer.pictures(&tokens, &device).unwrap();
        assert_eq!((pictures.len(), pictures[0].len()), (2, 16 * 16 * 3));

        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path().join("t")).unwrap();
        let again = ImageTokenizer::load(folder.path().join("t"), &device).unwrap();
        assert!(again.pictures(&tokens, &device).unwrap() == pictures);
        let same_seed = ImageTokenizer::init(&small(), 3, &device).unwrap();
        assert!(same_seed.pictures(&tokens, &device).unwrap() == pictures);
    }

    #[test]
    fn the_encoder_learns_through_the_quantizer() {
        let device = Device::flex().autodiff();
        let tokenizer = ImageTokenizer::init(&small(), 1, &device).unwrap();
        let picture: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let input = tokenizer.to_tensor(&[&picture], &device).unwrap();
        let out = tokenizer.forward_train(input.clone());
        let grads = (out.reconstruction - input).abs().mean().backward();
        let weight = tokenizer.encoder.conv_in.weight.val().grad(&grads).unwrap();
        assert!(weight.abs().sum().into_scalar::<f32>() > 0.0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let device = Device::flex();
        let tokenizer = ImageTokenizer::init(&small(), 0, &device).unwrap();
        assert!(tokenizer.tokens(&[&[0; 12]], &device).is_err());
        assert!(tokenizer.pictures(&[vec![12; 64]], &device).is_err());
        assert!(tokenizer.pictures(&[vec![0; 63]], &device).is_err());
    }
}
