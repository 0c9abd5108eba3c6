use std::path::Path;

use burn::tensor::Device;
use mgnt_data::manifest::sha256_of_file;
use mgnt_tokenizer::{ImageTokenizer, ImageTokenizerConfig};
use mgnt_weights::directory::{ModelDirectory, WEIGHTS};

use crate::Error;

/// A tokenizer that a training begins with.
#[derive(Debug)]
pub(super) struct Start {
    directory: ModelDirectory,
    tokenizer: ImageTokenizer,
}

impl Start {
    /// The tokenizer of a model directory, whose sizes must be those of `config`; pictures may be of another size.
    pub fn open(folder: &Path, config: &ImageTokenizerConfig, device: &Device) -> Result<Self, Error> {
        let directory = ModelDirectory::new(folder);
        if let Some((field, ours, given)) = other_size(config, &directory.config()?) {
            let expected = format!("{given}, as in {}", folder.display());
            return Err(Error::Recipe { field: format!("tokenizer.{field}"), expected, got: ours });
        }
        let tokenizer = ImageTokenizer::from_weights(config, directory.weights()?, device)?;
        Ok(Self { directory, tokenizer })
    }

    /// It as it was.
    pub fn tokenizer(&self) -> &ImageTokenizer {
        &self.tokenizer
    }

    /// It anew, with parameters of its own, on a device to train on.
    pub fn anew(&self, device: &Device) -> Result<ImageTokenizer, Error> {
        Ok(ImageTokenizer::from_weights(self.tokenizer.config(), self.directory.weights()?, device)?)
    }

    /// SHA-256 of its weights.
    pub fn sha256(&self) -> Result<String, Error> {
        Ok(sha256_of_file(&self.directory.path().join(WEIGHTS))?)
    }
}

/// The first size, but of the pictures, that differs, with its values.
fn other_size(
    ours: &ImageTokenizerConfig,
    given: &ImageTokenizerConfig,
) -> Option<(&'static str, String, String)> {
    let sizes = |c: &ImageTokenizerConfig| {
        [
            ("filters", c.filters.to_string()),
            ("multipliers", format!("{:?}", c.multipliers)),
            ("residual_blocks", c.residual_blocks.to_string()),
            ("embedding", c.embedding.to_string()),
            ("codes", c.codes.to_string()),
            ("groups", c.groups.to_string()),
            ("shortcut", if c.widens() { format!("{:?}", c.shortcut) } else { "none".into() }),
        ]
    };
    let mut pairs = sizes(ours).into_iter().zip(sizes(given));
    let ((name, ours), (_, given)) = pairs.find(|(ours, given)| ours != given)?;
    Some((name, ours, given))
}
