use mgnt_weights::directory::ModelDirectory;
use sha2::{Digest, Sha256};

use super::ImageTokenizerConfig;
use crate::Error;

/// A checksum (SHA-256, in hexadecimal) of all that decides a picture's tokens: the numbers of a tokenizer's encoder and codebook,
/// whatever type they are kept in. Tokenizers with the same one read each other's tokens, whatever their decoders are.
pub fn codes_sha256(directory: &ModelDirectory) -> Result<String, Error> {
    // What no tensor's shape tells, but the size of pictures, which the grid of the tokens has.
    let config: ImageTokenizerConfig = directory.config()?;
    let shortcut = config.widens().then_some(config.shortcut);
    let mut digest = Sha256::new_with_prefix(format!("{} {shortcut:?}", config.groups));
    for (name, tensor) in directory.weights()?.iter().filter(|(name, _)| !name.starts_with("decoder.")) {
        digest.update(format!("\n{name} {:?}\n", tensor.shape()));
        tensor.to_f32().into_iter().for_each(|value| digest.update(value.to_le_bytes()));
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use mgnt_weights::DType;

    use super::*;
    use crate::image::tests::small as config;
    use crate::{ImageTokenizer, Shortcut};

    #[test]
    fn all_but_the_decoder_and_the_size_decides() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = ImageTokenizer::init(&config(), 3, &Device::flex()).unwrap();
        let weights = || mgnt_weights::module::to_map(&tokenizer).unwrap();
        let sum = |config: &ImageTokenizerConfig, weights: &mgnt_weights::TensorMap| {
            let directory = ModelDirectory::new(folder.path().join("t"));
            directory.save(config, weights).unwrap();
            codes_sha256(&directory).unwrap()
        };
        let first = sum(&config(), &weights());
        assert_eq!((first.len(), &first), (64, &sum(&config(), &weights())));
        for (name, decides) in [
            ("decoder.conv_in.weight", false),
            ("decoder.conv_out.bias", false),
            ("encoder.conv_in.weight", true),
            ("encoder.conv_out.bias", true),
            ("quantizer.codebook", true),
        ] {
            let mut weights = weights();
            let tensor = weights.remove(name).unwrap();
            let mut values = tensor.to_f32();
            values[0] += 1.0;
            weights.insert_f32(name, tensor.shape(), &values).unwrap();
            assert_eq!(sum(&config(), &weights) != first, decides, "{name}");
        }
        for (config, decides) in [
            (ImageTokenizerConfig { size: 32, ..config() }, false),
            (ImageTokenizerConfig { groups: 2, ..config() }, true),
            (ImageTokenizerConfig { shortcut: Shortcut::Published, ..config() }, true),
        ] {
            assert_eq!(sum(&config, &weights()) != first, decides, "{config:?}");
        }
        // Where no block changes the width there is no shortcut.
        let narrow = ImageTokenizerConfig { multipliers: vec![1, 1], ..config() };
        let tokenizer = ImageTokenizer::init(&narrow, 3, &Device::flex()).unwrap();
        let of_narrow = mgnt_weights::module::to_map(&tokenizer).unwrap();
        let published = ImageTokenizerConfig { shortcut: Shortcut::Published, ..narrow.clone() };
        assert_eq!(sum(&narrow, &of_narrow), sum(&published, &of_narrow));
        // Rounded weights have other tokens; the same numbers in another type have not.
        let mut kept_as = weights();
        let name = "encoder.conv_out.weight";
        for (dtype, is_first) in [(DType::F64, true), (DType::Bf16, false)] {
            let weight = kept_as.remove(name).unwrap();
            kept_as.insert(name, weight.to_float(name, dtype).unwrap());
            assert_eq!(sum(&config(), &kept_as) == first, is_first, "{dtype:?}");
        }
        assert!(codes_sha256(&ModelDirectory::new(folder.path().join("none"))).is_err());
    }
}
