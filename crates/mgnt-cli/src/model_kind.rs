//! Which kind of model a directory holds.

use std::fs;
use std::path::Path;

use anyhow::Context;
use mgnt_model::ModelConfig;
use mgnt_tokenizer::{ImageTokenizerConfig, VideoTokenizerConfig};
use mgnt_weights::directory::{CONFIG, ModelDirectory};

use crate::failure::bad_use;

/// What a model directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelKind {
    ImageTokenizer,
    VideoTokenizer,
    Transformer,
}

impl ModelKind {
    /// Told by which configuration parses: their fields have different names. Where none does, the error is that of the kind whose own field
    /// is there.
    pub fn of(directory: &ModelDirectory) -> anyhow::Result<Self> {
        directory.check()?;
        if directory.config::<ImageTokenizerConfig>().is_ok() {
            return Ok(Self::ImageTokenizer);
        }
        if directory.config::<VideoTokenizerConfig>().is_ok() {
            return Ok(Self::VideoTokenizer);
        }
        if directory.config::<ModelConfig>().is_ok() {
            return Ok(Self::Transformer);
        }
        let text = fs::read_to_string(directory.path().join(CONFIG)).unwrap_or_default();
        if text.contains("frames") {
            directory.config::<VideoTokenizerConfig>()?;
        } else if text.contains("multipliers") {
            directory.config::<ImageTokenizerConfig>()?;
        }
        directory.config::<ModelConfig>().context("not a tokenizer, and not a transformer")?;
        Ok(Self::Transformer)
    }

    /// What to say of a directory that did not load as one of this kind: that it is of another, which is easily given in this one's
    /// place, or else the error.
    pub fn missed(self, directory: &Path, error: anyhow::Error) -> anyhow::Error {
        match Self::of(&ModelDirectory::new(directory)) {
            Ok(got) if got != self => {
                bad_use(format!("{}: expected {}, got {}", directory.display(), self.name(), got.name()))
            }
            _ => error,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ImageTokenizer => "an image tokenizer",
            Self::VideoTokenizer => "a video tokenizer",
            Self::Transformer => "a transformer",
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use mgnt_tokenizer::VideoTokenizer;

    use super::*;

    #[test]
    fn a_model_of_another_kind_is_told_by_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("3dvq");
        let config = VideoTokenizerConfig {
            frames: 2,
            size: 4,
            filters: 4,
            multipliers: vec![1, 1],
            temporal_downsample: vec![true],
            encoder_residual_blocks: 1,
            decoder_residual_blocks: 1,
            embedding: 2,
            codes: 3,
            groups: 2,
        };
        VideoTokenizer::init(&config, 1, &Device::flex()).unwrap().save(&path).unwrap();
        assert_eq!(ModelKind::of(&ModelDirectory::new(&path)).unwrap(), ModelKind::VideoTokenizer);
        let missed = |kind: ModelKind| kind.missed(&path, anyhow::anyhow!("first")).to_string();
        assert!(
            missed(ModelKind::ImageTokenizer).ends_with("expected an image tokenizer, got a video tokenizer")
        );
        assert_eq!(missed(ModelKind::VideoTokenizer), "first");
        let config = path.join(CONFIG);
        fs::write(&config, fs::read_to_string(&config).unwrap().replace("filters:", "filter:")).unwrap();
        let error = ModelKind::of(&ModelDirectory::new(&path)).unwrap_err().to_string();
        assert!(error.contains("`filter`") && error.contains("VideoTokenizerConfig"), "{error}");
        let nothing = ModelKind::Transformer.missed(&folder.path().join("no"), anyhow::anyhow!("first"));
        assert_eq!(nothing.to_string(), "first");
    }
}
