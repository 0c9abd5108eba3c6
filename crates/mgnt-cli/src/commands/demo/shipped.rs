//! Weights that come with mgnt.

use std::path::Path;

use anyhow::Context;
use burn::tensor::Device;
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_tokenizer::ImageTokenizer;

use super::compared::{Compared, Comparison};
use crate::device::Compute;

/// Guidance of both decodes: the clearest to the eye; by distance 1 is as good (docs/results.md).
pub const GUIDANCE: f64 = 2.0;

/// A transformer of photos with its tokenizer and the names of its classes.
pub struct Shipped {
    model: NestedTransformer,
    tokenizer: ImageTokenizer,
    names: Vec<String>,
}

impl Shipped {
    /// Reads a folder with `transformer`, `tokenizer` and `classes.txt`.
    pub fn load(folder: &Path, compute: &Compute, device: &Device) -> anyhow::Result<Self> {
        let model = compute.load(&folder.join("transformer"), device)?;
        let tokenizer = compute.image_tokenizer(&folder.join("tokenizer"), device)?;
        let list = folder.join("classes.txt");
        let names = std::fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let names: Vec<String> = names.lines().map(String::from).collect();
        anyhow::ensure!(
            names.len() == model.config().classes,
            "{}: expected {} lines, one a class, got {}",
            list.display(),
            model.config().classes,
            names.len()
        );
        Ok(Self { model, tokenizer, names })
    }

    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    /// Decodes `each` pictures of each class; in a `hurry`, of some classes only.
    pub fn compare(&self, each: usize, hurry: u16, seed: u64, device: &Device) -> anyhow::Result<Compared> {
        let Self { model, tokenizer, names } = self;
        let names = &names[..(names.len() / usize::from(hurry)).max(2).min(names.len())];
        Comparison { model, tokenizer, names, each, guidance: GUIDANCE, seed, device }.run()
    }
}
