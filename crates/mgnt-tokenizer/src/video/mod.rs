mod config;
mod decoder;
mod encoder;
mod residual;

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use mgnt_weights::directory::ModelDirectory;
use mgnt_weights::{TensorMap, module};

pub use config::VideoTokenizerConfig;
use decoder::Decoder;
use encoder::Encoder;

use crate::layers::{draw, from_rows, to_rows};
use crate::products::Products;
use crate::quantizer::Quantizer;
use crate::{Error, Probe, host};

/// MAGVIT's video tokenizer. It is not causal: the first frame has no special place.
#[derive(Module, Debug)]
pub struct VideoTokenizer {
    encoder: Encoder,
    quantizer: Quantizer,
    decoder: Decoder,
    #[module(skip)]
    config: VideoTokenizerConfig,
    #[module(skip)]
    products: Products,
}

impl VideoTokenizer {
    /// A tokenizer with random weights, drawn from the device's generator after seeding it.
    ///
    /// Fails where the sizes cannot be, and, as every way to a tokenizer does, on a device whose floats are not `f32`
    /// unless a type is named ([`check_float_type`](module::check_float_type)).
    pub fn init(config: &VideoTokenizerConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        let tokenizer = Self::undrawn(config, device)?;
        device.seed(seed);
        draw(&tokenizer.quantizer);
        draw(&tokenizer);
        Ok(tokenizer)
    }

    /// A tokenizer whose weights take no memory, and no random numbers, until they are asked for or filled.
    fn undrawn(config: &VideoTokenizerConfig, device: &Device) -> Result<Self, Error> {
        config.validate()?;
        module::check_float_type(device)?;
        Ok(Self {
            encoder: Encoder::new(config, device),
            quantizer: Quantizer::new(config.codes, config.embedding, device),
            decoder: Decoder::new(config, device),
            config: config.clone(),
            products: Products::default(),
        })
    }

    /// A tokenizer with the tensors of a map, named by their path in this module.
    pub fn from_weights(
        config: &VideoTokenizerConfig,
        weights: TensorMap,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(module::from_map(Self::undrawn(config, device)?, weights)?)
    }

    /// Reads a model directory (`config.ron`, `model.safetensors`).
    pub fn load(directory: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        let directory = ModelDirectory::new(directory.as_ref());
        let config: VideoTokenizerConfig = directory.config()?;
        config.validate().map_err(|error| directory.invalid(error))?;
        Ok(directory.fill(Self::undrawn(&config, device)?)?)
    }

    /// Writes a model directory, whole or not at all. Low-rank updates ([`Module::apply_lora`]) are added to the weights that they
    /// change.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<(), Error> {
        let weights = module::to_map(&self.clone().materialize())?;
        Ok(ModelDirectory::new(directory.as_ref()).save(&self.config, &weights)?)
    }

    /// The same tokenizer with convolutions and products as exact as `f32`, as
    /// [`ImageTokenizer::with_exact_products`](crate::ImageTokenizer::with_exact_products).
    pub fn with_exact_products(mut self) -> Self {
        self.products = Products::InParts;
        self.quantizer = self.quantizer.with_exact_products();
        self
    }

    /// Sizes.
    pub fn config(&self) -> &VideoTokenizerConfig {
        &self.config
    }

    /// The codebook.
    pub fn quantizer(&self) -> &Quantizer {
        &self.quantizer
    }

    /// Latents `[B, D, t, h, w]` of videos `[B, 3, T, H, W]` in 0 to 1, of any number of frames, height and width;
    /// lengths that do not divide are rounded up.
    ///
    /// # Panics
    ///
    /// Where they have another number of channels, or there are none.
    pub fn encode(&self, videos: Tensor<5>) -> Tensor<5> {
        host::check_channels("videos", videos.dims()).unwrap_or_else(|error| panic!("{error}"));
        self.encoder.forward(videos, self.products)
    }

    /// Videos `[B, 3, T, H, W]`, not clamped, of codes `[B, D, t, h, w]`.
    ///
    /// # Panics
    ///
    /// Where codes are of another width.
    pub fn decode(&self, codes: Tensor<5>) -> Tensor<5> {
        let (width, got) = (self.config.embedding, codes.dims());
        assert!(got[1] == width, "codes: expected shape [B, {width}, t, h, w], got {got:?}");
        self.decoder.forward(codes, self.products)
    }

    /// Videos `[B, 3, T, H, W]`, not clamped, of numbers of codes `[B, t, h, w]`.
    pub fn decode_indices(&self, indices: Tensor<4, Int>) -> Result<Tensor<5>, Error> {
        host::check_indices(&indices, self.config.codes)?;
        let dims = indices.dims();
        Ok(self.decode(self.lookup(indices.flatten(0, 3), dims)))
    }

    /// Everything between videos `[B, 3, T, H, W]` in 0 to 1 and their reconstruction.
    ///
    /// Fails where latents are not finite, which have no code.
    pub fn probe(&self, videos: Tensor<5>) -> Result<Probe<5, 4>, Error> {
        host::check_channels("videos", videos.dims())?;
        let latents = self.encode(videos);
        let [batch, _, layers, rows, columns] = latents.dims();
        let grid = [batch, layers, rows, columns];
        let indices = self.quantizer.nearest_if_finite(to_rows(latents.clone()));
        host::check_found(&indices)?;
        let quantized = self.lookup(indices.clone(), grid);
        Ok(Probe {
            reconstruction: self.decode(quantized.clone()),
            indices: indices.reshape(grid),
            latents,
            quantized,
        })
    }

    /// Tokens of videos given as bytes `[frames, size, size, 3]`: layer by layer, each in raster order.
    ///
    /// Fails where latents are not finite.
    pub fn tokens(&self, videos: &[&[u8]], device: &Device) -> Result<Vec<Vec<u16>>, Error> {
        if videos.is_empty() {
            return Ok(Vec::new());
        }
        let input = self.to_tensor(videos, device)?;
        let indices = self.quantizer.nearest_if_finite(to_rows(self.encode(input)));
        host::to_tokens(indices, self.config.grid().iter().product())
    }

    /// Videos as bytes `[frames, size, size, 3]` of tokens in the order of [`VideoTokenizer::tokens`].
    ///
    /// Fails where what the decoder makes of them is not finite.
    pub fn videos(&self, tokens: &[Vec<u16>], device: &Device) -> Result<Vec<Vec<u8>>, Error> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let [layers, rows, columns] = self.config.grid();
        let indices = host::from_tokens(tokens, layers * rows * columns, self.config.codes, device)?;
        host::to_bytes(self.decode(self.lookup(indices, [tokens.len(), layers, rows, columns])))
    }

    /// Videos given as bytes `[frames, size, size, 3]` as a tensor `[B, 3, frames, size, size]` in 0 to 1.
    pub fn to_tensor(&self, videos: &[&[u8]], device: &Device) -> Result<Tensor<5>, Error> {
        let (frames, size) = (self.config.frames, self.config.size);
        host::to_tensor(videos, "video", [videos.len(), 3, frames, size, size], device)
    }

    /// Codes `[B, D, t, h, w]` of their numbers `[B t h w]`.
    fn lookup(&self, indices: Tensor<1, Int>, [batch, layers, rows, columns]: [usize; 4]) -> Tensor<5> {
        from_rows(self.quantizer.lookup(indices), [batch, self.config.embedding, layers, rows, columns])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> VideoTokenizerConfig {
        VideoTokenizerConfig {
            frames: 4,
            size: 8,
            filters: 8,
            multipliers: vec![1, 2, 2],
            temporal_downsample: vec![true, false],
            encoder_residual_blocks: 1,
            decoder_residual_blocks: 2,
            embedding: 6,
            codes: 12,
            groups: 4,
        }
    }

    #[test]
    fn the_published_sizes_have_the_published_numbers_of_parameters() {
        let device = Device::flex();
        let count = |config: &VideoTokenizerConfig| {
            let (encoder, decoder) = (Encoder::new(config, &device), Decoder::new(config, &device));
            (encoder.num_params(), decoder.num_params(), config.codes * config.embedding)
        };
        let total = |config: &VideoTokenizerConfig| {
            let (encoder, decoder, codes) = count(config);
            encoder + decoder + codes
        };
        let (base, large) = (VideoTokenizerConfig::ucf101_base(), VideoTokenizerConfig::ucf101_large());
        assert_eq!(count(&base), (17_149_888, 23_167_811, 262_144));
        assert_eq!(count(&large), (68_443_776, 89_106_051, 262_144));
        assert_eq!((total(&base), total(&large)), (40_579_843, 157_811_971));
        let bair = |config: VideoTokenizerConfig| VideoTokenizerConfig {
            size: 64,
            multipliers: vec![1, 2, 4],
            temporal_downsample: vec![true, true],
            ..config
        };
        assert_eq!((total(&bair(base)), total(&bair(large))), (36_596_355, 141_882_371));
    }

    #[test]
    fn exact_products_are_the_products() {
        let device = Device::flex();
        let tokenizer = VideoTokenizer::init(&small(), 3, &device).unwrap();
        let videos = Tensor::random([2, 3, 4, 8, 8], burn::tensor::Distribution::Default, &device);
        let plain = tokenizer.probe(videos.clone()).unwrap();
        let exact = tokenizer.with_exact_products().probe(videos).unwrap();
        assert!(plain.indices.into_data() == exact.indices.into_data());
        let largest = plain.reconstruction.clone().abs().max().into_scalar::<f32>();
        let off = (plain.reconstruction - exact.reconstruction).abs().max().into_scalar::<f32>() / largest;
        assert!(off > 0.0 && off < 1e-5, "{off}");
    }

    #[test]
    fn tokens_and_videos_have_their_shapes_and_survive_a_save() {
        let device = Device::flex();
        let tokenizer = VideoTokenizer::init(&small(), 3, &device).unwrap();
        let video: Vec<u8> = (0..4 * 8 * 8 * 3).map(|i| (i * 5 % 256) as u8).collect();
        let tokens = tokenizer.tokens(&[&video, &video], &device).unwrap();
        assert_eq!((tokens.len(), tokens[0].len()), (2, 2 * 2 * 2));
        assert_eq!(tokens[0], tokens[1]);
        let videos = tokenizer.videos(&tokens, &device).unwrap();
        assert_eq!((videos.len(), videos[0].len()), (2, 4 * 8 * 8 * 3));

        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path().join("t")).unwrap();
        let again = VideoTokenizer::load(folder.path().join("t"), &device).unwrap();
        assert!(again.videos(&tokens, &device).unwrap() == videos);
        let same_seed = VideoTokenizer::init(&small(), 3, &device).unwrap();
        assert!(same_seed.videos(&tokens, &device).unwrap() == videos);
    }

    #[test]
    fn a_lone_frame_gives_one_layer_of_latents() {
        let device = Device::flex();
        let tokenizer = VideoTokenizer::init(&small(), 0, &device).unwrap();
        let probe = tokenizer.probe(Tensor::zeros([1, 3, 1, 8, 12], &device)).unwrap();
        assert_eq!(probe.indices.dims(), [1, 1, 2, 3]);
        assert_eq!(probe.reconstruction.dims(), [1, 3, 2, 8, 12]);
    }

    #[test]
    fn what_is_not_finite_is_neither_a_token_nor_a_video() {
        let device = Device::flex();
        let tokenizer = VideoTokenizer::init(&small(), 3, &device).unwrap();
        let video = vec![9; 4 * 8 * 8 * 3];
        let mut weights = module::to_map(&tokenizer).unwrap();
        for name in ["encoder.conv_out.bias", "decoder.conv_out.bias"] {
            let shape = weights.get(name).unwrap().shape().to_vec();
            weights.insert_f32(name, &shape, &vec![f32::NAN; shape[0]]).unwrap();
        }
        let spoilt = VideoTokenizer::from_weights(&small(), weights, &device).unwrap();
        let input = spoilt.to_tensor(&[&video], &device).unwrap();
        assert!(matches!(spoilt.tokens(&[&video], &device), Err(Error::NotFinite { .. })));
        assert!(matches!(spoilt.videos(&[vec![0; 8]], &device), Err(Error::NotFinite { .. })));
        assert!(matches!(spoilt.probe(input), Err(Error::NotFinite { .. })));
        assert!(spoilt.tokens(&[], &device).unwrap().is_empty());
        assert!(spoilt.videos(&[], &device).unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let device = Device::flex();
        let tokenizer = VideoTokenizer::init(&small(), 0, &device).unwrap();
        let error = tokenizer.tokens(&[&[0; 12]], &device).unwrap_err().to_string();
        assert_eq!(error, "video: expected 4x8x8x3 bytes, got 12 bytes");
        assert!(tokenizer.videos(&[vec![12; 8]], &device).is_err());
        assert!(tokenizer.videos(&[vec![0; 7]], &device).is_err());
        assert!(tokenizer.probe(Tensor::zeros([1, 1, 4, 8, 8], &device)).is_err());
        for index in [-1, 12] {
            let indices = Tensor::<4, Int>::full([1, 2, 2, 2], index, &device);
            assert!(tokenizer.decode_indices(indices).is_err());
        }
    }
}
