use std::path::Path;

use burn::tensor::Device;
use mgnt_data::manifest::sha256_of_file;
use mgnt_tokenizer::{ImageTokenizer, ImageTokenizerConfig};
use mgnt_weights::directory::{ModelDirectory, WEIGHTS};
use mgnt_weights::module;

use crate::Error;

/// A tokenizer that a training begins with.
#[derive(Debug)]
pub(super) struct Start {
    tokenizer: ImageTokenizer,
    sha256: String,
}

impl Start {
    /// The tokenizer of a model directory, whose sizes must be those of `config`; pictures may be of another size.
    pub fn open(folder: &Path, config: &ImageTokenizerConfig, device: &Device) -> Result<Self, Error> {
        let directory = ModelDirectory::new(folder);
        if let Some((field, ours, given)) = other_size(config, &directory.config()?) {
            let expected = format!("{given}, as in {}", folder.display());
            return Err(Error::Recipe { field: format!("tokenizer.{field}"), expected, got: ours });
        }
        let path = folder.join(WEIGHTS);
        let sha256 = sha256_of_file(&path)?;
        let weights = directory.weights()?;
        weights.check_finite().map_err(|error| error.at(&path))?;
        let tokenizer = ImageTokenizer::from_weights(config, weights, device)?;
        // It may be that of a training that goes on.
        if sha256_of_file(&path)? != sha256 {
            return Err(Error::run(folder, "the model changed while it was read; try again"));
        }
        Ok(Self { tokenizer, sha256 })
    }

    /// It as it was.
    pub fn tokenizer(&self) -> &ImageTokenizer {
        &self.tokenizer
    }

    /// It anew, with parameters of its own, on a device to train on.
    pub fn anew(&self, device: &Device) -> Result<ImageTokenizer, Error> {
        let weights = module::to_map(&self.tokenizer)?;
        Ok(ImageTokenizer::from_weights(self.tokenizer.config(), weights, device)?)
    }

    /// SHA-256 of its weights.
    pub fn sha256(&self) -> &str {
        &self.sha256
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
