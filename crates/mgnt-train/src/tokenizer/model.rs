use burn::module::Module;
use burn::tensor::Device;
use mgnt_tokenizer::ImageTokenizer;

use super::{Discriminator, TokenizerRecipe};
use crate::Error;

/// What a tokenizer's training trains.
#[derive(Module, Debug)]
pub struct TokenizerAndJudge {
    /// The tokenizer.
    pub tokenizer: ImageTokenizer,
    /// The discriminator, where the recipe has one.
    pub discriminator: Option<Discriminator>,
}

/// Keeps the discriminator's first weights apart from the tokenizer's.
const DISCRIMINATOR_SEED: u64 = 0x6a75_6467;

impl TokenizerAndJudge {
    /// Both with random weights.
    pub fn init(recipe: &TokenizerRecipe, device: &Device) -> Result<Self, Error> {
        let (config, seed) = (&recipe.tokenizer, recipe.optimization.seed);
        let discriminator = recipe.adversary.as_ref().map(|adversary| {
            Discriminator::init(&adversary.discriminator, config.size, seed ^ DISCRIMINATOR_SEED, device)
        });
        Ok(Self { tokenizer: ImageTokenizer::init(config, seed, device)?, discriminator })
    }
}
