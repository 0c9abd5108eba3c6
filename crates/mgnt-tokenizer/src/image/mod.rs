mod codes_of;
pub(crate) mod config;
mod decoder;
mod encoder;
mod residual;

use std::path::Path;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Int, Tensor};
use mgnt_weights::directory::ModelDirectory;
use mgnt_weights::{TensorMap, module};

pub use codes_of::codes_sha256;
pub use config::{ImageTokenizerConfig, Shortcut};
use decoder::Decoder;
use encoder::Encoder;

use crate::layers::{draw, from_rows, to_rows};
use crate::products::Products;
use crate::quantizer::{Quantized, Quantizer};
use crate::{Error, Probe, host};

/// MaskGIT's image tokenizer.
#[derive(Module, Debug)]
pub struct ImageTokenizer {
    encoder: Encoder,
    quantizer: Quantizer,
    decoder: Decoder,
    #[module(skip)]
    config: ImageTokenizerConfig,
    #[module(skip)]
    products: Products,
}

/// What the decoder made of codes, for training.
#[derive(Debug)]
pub struct Rebuilt {
    /// Reconstructed pictures, `[B, 3, H, W]`.
    pub pictures: Tensor<4>,
    /// What the decoder's last layer made them of, `[B, filters, H, W]`.
    pub last_input: Tensor<4>,
}

/// What one pass for training gives.
#[derive(Debug)]
pub struct TrainOutput {
    /// Pictures of the codes.
    pub rebuilt: Rebuilt,
    /// Latents before quantization, `[B h w, D]`.
    pub latents: Tensor<2>,
    /// Codes and their losses.
    pub quantized: Quantized,
}

impl ImageTokenizer {
    /// A tokenizer with random weights, drawn from the device's generator after seeding it.
    ///
    /// Fails where the sizes cannot be, and, as every way to a tokenizer does, on a device whose floats are not `f32`
    /// unless a type is named ([`check_float_type`](module::check_float_type)).
    pub fn init(config: &ImageTokenizerConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        let tokenizer = Self::undrawn(config, device)?;
        device.seed(seed);
        draw(&tokenizer.quantizer);
        draw(&tokenizer);
        Ok(tokenizer)
    }

    /// A tokenizer whose weights take no memory, and no random numbers, until they are asked for or filled.
    fn undrawn(config: &ImageTokenizerConfig, device: &Device) -> Result<Self, Error> {
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
        config: &ImageTokenizerConfig,
        weights: TensorMap,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(module::from_map(Self::undrawn(config, device)?, weights)?)
    }

    /// Reads a model directory (`config.ron`, `model.safetensors`).
    pub fn load(directory: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        let directory = ModelDirectory::new(directory.as_ref());
        let config: ImageTokenizerConfig = directory.config()?;
        config.validate().map_err(|error| directory.invalid(error))?;
        Ok(directory.fill(Self::undrawn(&config, device)?)?)
    }

    /// Writes a model directory, whole or not at all. Low-rank updates ([`Module::apply_lora`]) are added to the weights that they
    /// change.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<(), Error> {
        let weights = module::to_map(&self.clone().materialize())?;
        Ok(ModelDirectory::new(directory.as_ref()).save(&self.config, &weights)?)
    }

    /// The same tokenizer, for inference, whose convolutions and products are as exact as `f32` where a device's tensor
    /// cores would round their operands to ten bits (TF32, on CUDA): each is taken as four.
    pub fn with_exact_products(mut self) -> Self {
        self.products = Products::InParts;
        self.quantizer = self.quantizer.with_exact_products();
        self
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

    /// Latents `[B, D, h, w]` of pictures `[B, 3, H, W]` in 0 to 1, of any height and width; sides that do not divide
    /// are rounded up, as the published code does.
    ///
    /// # Panics
    ///
    /// Where they have another number of channels, or there are none.
    pub fn encode(&self, pictures: Tensor<4>) -> Tensor<4> {
        host::check_channels("pictures", pictures.dims()).unwrap_or_else(|error| panic!("{error}"));
        self.encoder.forward(pictures, self.products)
    }

    /// Pictures `[B, 3, H, W]`, not clamped, of codes `[B, D, h, w]`.
    ///
    /// # Panics
    ///
    /// Where codes are of another width.
    pub fn decode(&self, codes: Tensor<4>) -> Tensor<4> {
        let (width, got) = (self.config.embedding, codes.dims());
        assert!(got[1] == width, "codes: expected shape [B, {width}, h, w], got {got:?}");
        self.decoder.forward(codes, self.products)
    }

    /// Pictures `[B, 3, H, W]`, not clamped, of numbers of codes `[B, h, w]`.
    pub fn decode_indices(&self, indices: Tensor<3, Int>) -> Result<Tensor<4>, Error> {
        host::check_indices(&indices, self.config.codes)?;
        let [batch, rows, columns] = indices.dims();
        Ok(self.decode(self.lookup(indices.flatten(0, 2), [batch, rows, columns])))
    }

    /// Everything between pictures `[B, 3, H, W]` in 0 to 1 and their reconstruction.
    ///
    /// Fails where latents are not finite, which have no code.
    pub fn probe(&self, pictures: Tensor<4>) -> Result<Probe<4, 3>, Error> {
        host::check_channels("pictures", pictures.dims())?;
        let latents = self.encode(pictures);
        let [batch, _, rows, columns] = latents.dims();
        let indices = self.quantizer.nearest_if_finite(to_rows(latents.clone()));
        host::check_found(&indices)?;
        let quantized = self.lookup(indices.clone(), [batch, rows, columns]);
        Ok(Probe {
            reconstruction: self.decode(quantized.clone()),
            indices: indices.reshape([batch, rows, columns]),
            latents,
            quantized,
        })
    }

    /// One pass for training.
    ///
    /// # Panics
    ///
    /// As [`encode`](Self::encode) does.
    pub fn forward_train(&self, pictures: Tensor<4>) -> TrainOutput {
        let latents = self.encode(pictures);
        let dims = latents.dims();
        let latents = to_rows(latents);
        let quantized = self.quantizer.forward_train(latents.clone());
        let rebuilt = self.rebuild(from_rows(quantized.codes.clone(), dims));
        TrainOutput { rebuilt, latents, quantized }
    }

    /// One pass for training the decoder alone, and the numbers of the codes, `[B h w]`: encoder and codebook leave nothing on
    /// the tape.
    ///
    /// # Panics
    ///
    /// As [`encode`](Self::encode) does.
    pub fn forward_train_decoder(&self, pictures: Tensor<4>) -> (Rebuilt, Tensor<1, Int>) {
        let held = self.clone().no_grad();
        let latents = held.encode(pictures);
        let [batch, _, rows, columns] = latents.dims();
        let indices = held.quantizer.nearest(to_rows(latents));
        (self.rebuild(held.lookup(indices.clone(), [batch, rows, columns])), indices)
    }

    fn rebuild(&self, codes: Tensor<4>) -> Rebuilt {
        let last_input = self.decoder.last_input(codes, self.products);
        Rebuilt { pictures: self.last_layer().forward(last_input.clone()), last_input }
    }

    /// This decoder behind the encoder and codebook of another of the same sizes: pictures have its tokens, to the bit.
    pub fn with_codes_of(mut self, other: &Self) -> Result<Self, Error> {
        if self.config != other.config {
            let (expected, got) = (format!("{:?}", self.config), format!("{:?}", other.config));
            return Err(Error::Input { field: "tokenizer of the codes", expected, got });
        }
        (self.encoder, self.quantizer) = (other.encoder.clone(), other.quantizer.clone());
        Ok(self)
    }

    /// The decoder's last layer, whose gradients some adaptive weights of losses go by.
    pub fn last_layer(&self) -> &Conv2d {
        &self.decoder.conv_out
    }

    /// Tokens of pictures given as bytes `[size, size, 3]`, in raster order.
    ///
    /// Fails where latents are not finite.
    pub fn tokens(&self, pictures: &[&[u8]], device: &Device) -> Result<Vec<Vec<u16>>, Error> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let input = self.to_tensor(pictures, device)?;
        let indices = self.quantizer.nearest_if_finite(to_rows(self.encode(input)));
        host::to_tokens(indices, self.config.grid() * self.config.grid())
    }

    /// Pictures as bytes `[size, size, 3]` of tokens in raster order.
    ///
    /// Fails where what the decoder makes of them is not finite.
    pub fn pictures(&self, tokens: &[Vec<u16>], device: &Device) -> Result<Vec<Vec<u8>>, Error> {
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let grid = self.config.grid();
        let indices = host::from_tokens(tokens, grid * grid, self.config.codes, device)?;
        host::to_bytes(self.decode(self.lookup(indices, [tokens.len(), grid, grid])))
    }

    /// Pictures given as bytes `[size, size, 3]` as a tensor `[B, 3, size, size]` in 0 to 1.
    pub fn to_tensor(&self, pictures: &[&[u8]], device: &Device) -> Result<Tensor<4>, Error> {
        let size = self.config.size;
        host::to_tensor(pictures, "picture", [pictures.len(), 3, size, size], device)
    }

    /// Codes `[B, D, h, w]` of their numbers `[B h w]`.
    fn lookup(&self, indices: Tensor<1, Int>, [batch, rows, columns]: [usize; 3]) -> Tensor<4> {
        from_rows(self.quantizer.lookup(indices), [batch, self.config.embedding, rows, columns])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn small() -> ImageTokenizerConfig {
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
        assert_eq!(config.parameters(), 23_775_104 + 30_478_339 + 1024 * 256);
        for shortcut in [Shortcut::Input, Shortcut::Published] {
            for (residual_blocks, multipliers) in [(1, vec![1]), (2, vec![1, 2, 2, 4]), (3, vec![3, 1])] {
                let config = ImageTokenizerConfig { shortcut, residual_blocks, multipliers, ..small() };
                let module = ImageTokenizer::undrawn(&config, &device).unwrap();
                assert_eq!(config.parameters(), module.num_params(), "{config:?}");
            }
        }
    }

    /// On a device that rounds nothing the parts make up the same products; sums in another order differ a little.
    #[test]
    fn exact_products_are_the_products() {
        let device = Device::flex();
        for shortcut in [Shortcut::Input, Shortcut::Published] {
            let config = ImageTokenizerConfig { shortcut, ..small() };
            let tokenizer = ImageTokenizer::init(&config, 3, &device).unwrap();
            let pictures = Tensor::random([2, 3, 16, 16], burn::tensor::Distribution::Default, &device);
            let (plain, exact) = (
                tokenizer.probe(pictures.clone()).unwrap(),
                tokenizer.with_exact_products().probe(pictures).unwrap(),
            );
            assert!(plain.indices.into_data() == exact.indices.into_data());
            for (plain, exact) in
                [(plain.latents, exact.latents), (plain.reconstruction, exact.reconstruction)]
            {
                let largest = plain.clone().abs().max().into_scalar::<f32>();
                let off = (plain - exact).abs().max().into_scalar::<f32>() / largest;
                assert!(off > 0.0 && off < 1e-5, "{off}");
            }
        }
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

    /// Whoever loads one in the midst of a run keeps the random numbers of that run, and a file of other shapes is told
    /// before anything of the config's sizes is made.
    #[test]
    fn loading_draws_nothing() {
        let device = Device::flex();
        let drawn = || Tensor::<1>::random([4], burn::tensor::Distribution::Default, &device).into_data();
        let tokenizer = ImageTokenizer::init(&small(), 3, &device).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path().join("t")).unwrap();
        let numbers = |load: bool| {
            device.seed(9);
            let first = drawn();
            if load {
                ImageTokenizer::load(folder.path().join("t"), &device).unwrap();
            }
            (first, drawn())
        };
        assert_eq!(numbers(true), numbers(false));
        let huge = ImageTokenizerConfig {
            codes: 65536,
            embedding: 65536,
            filters: 65536,
            multipliers: vec![1, 1],
            ..small()
        };
        let weights = ModelDirectory::new(folder.path().join("t")).weights().unwrap();
        assert!(ImageTokenizer::from_weights(&huge, weights, &device).is_err());
    }

    #[test]
    fn the_encoder_learns_through_the_quantizer() {
        let device = Device::flex().autodiff();
        let tokenizer = ImageTokenizer::init(&small(), 1, &device).unwrap();
        let picture: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let input = tokenizer.to_tensor(&[&picture], &device).unwrap();
        let out = tokenizer.forward_train(input.clone());
        let grads = (out.rebuilt.pictures - input).abs().mean().backward();
        let weight = tokenizer.encoder.conv_in.weight.val().grad(&grads).unwrap();
        assert!(weight.abs().sum().into_scalar::<f32>() > 0.0);
    }

    /// The tokenizer with something that is no number in the first value of a tensor.
    fn spoilt(tokenizer: &ImageTokenizer, name: &str, value: f32) -> ImageTokenizer {
        let mut weights = module::to_map(tokenizer).unwrap();
        let tensor = weights.remove(name).unwrap();
        let mut values = tensor.to_f32();
        values[0] = value;
        weights.insert_f32(name, tensor.shape(), &values).unwrap();
        ImageTokenizer::from_weights(tokenizer.config(), weights, &Device::flex()).unwrap()
    }

    #[test]
    fn what_is_not_finite_is_neither_a_token_nor_a_picture() {
        let device = Device::flex();
        let tokenizer = ImageTokenizer::init(&small(), 3, &device).unwrap();
        let picture: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 7 % 256) as u8).collect();
        let tokens = tokenizer.tokens(&[&picture], &device).unwrap();
        for value in [f32::NAN, f32::INFINITY] {
            for name in ["encoder.conv_out.bias", "quantizer.codebook"] {
                let spoilt = spoilt(&tokenizer, name, value);
                let error = spoilt.tokens(&[&picture], &device).unwrap_err().to_string();
                assert!(error.contains("latents are not finite"), "{name}: {error}");
                let input = spoilt.to_tensor(&[&picture], &device).unwrap();
                let error = spoilt.probe(input).unwrap_err().to_string();
                assert!(error.contains("latents are not finite"), "{name}: {error}");
            }
            let spoilt = spoilt(&tokenizer, "decoder.conv_out.bias", value);
            assert!(spoilt.tokens(&[&picture], &device).unwrap() == tokens);
            let error = spoilt.pictures(&tokens, &device).unwrap_err().to_string();
            assert!(error.contains("pictures are not finite"), "{error}");
        }
        let input = Tensor::full([1, 3, 16, 16], f32::NAN, &device);
        assert!(matches!(tokenizer.probe(input), Err(Error::NotFinite { .. })));
    }

    #[test]
    fn of_no_pictures_there_are_no_tokens() {
        let device = Device::flex();
        let tokenizer = ImageTokenizer::init(&small(), 3, &device).unwrap();
        assert!(tokenizer.tokens(&[], &device).unwrap().is_empty());
        assert!(tokenizer.pictures(&[], &device).unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let device = Device::flex();
        let tokenizer = ImageTokenizer::init(&small(), 0, &device).unwrap();
        assert!(tokenizer.tokens(&[&[0; 12]], &device).is_err());
        assert!(tokenizer.pictures(&[vec![12; 64]], &device).is_err());
        assert!(tokenizer.pictures(&[vec![0; 63]], &device).is_err());
        assert!(tokenizer.probe(Tensor::zeros([1, 16, 16, 3], &device)).is_err());
        assert!(tokenizer.decode_indices(Tensor::zeros([1, 0, 4], &device)).is_err());
        for index in [-1, 12] {
            assert!(tokenizer.decode_indices(Tensor::full([1, 2, 2], index, &device)).is_err());
        }
    }

    #[test]
    fn a_probe_says_what_the_bytes_say_and_takes_any_sides() {
        let device = Device::flex();
        let tokenizer = ImageTokenizer::init(&small(), 5, &device).unwrap();
        let picture: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 11 % 256) as u8).collect();
        let probe = tokenizer.probe(tokenizer.to_tensor(&[&picture], &device).unwrap()).unwrap();
        assert_eq!((probe.latents.dims(), probe.quantized.dims()), ([1, 6, 8, 8], [1, 6, 8, 8]));
        let tokens = tokenizer.tokens(&[&picture], &device).unwrap();
        let indices = host::to_tokens(probe.indices.flatten(0, 2), 64).unwrap();
        assert_eq!(indices, tokens);
        let bytes = host::to_bytes(probe.reconstruction).unwrap();
        assert!(bytes == tokenizer.pictures(&tokens, &device).unwrap());

        let probe = tokenizer.probe(Tensor::zeros([2, 3, 7, 10], &device)).unwrap();
        assert_eq!(probe.indices.dims(), [2, 4, 5]);
        assert_eq!(probe.reconstruction.dims(), [2, 3, 8, 10]);
    }
}
