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
        let tokenizer = ImageTokenizer::init(&recipe.tokenizer, recipe.optimization.seed, device)?;
        Ok(Self::starting_from(tokenizer, recipe, device))
    }

    /// A tokenizer that is there, with the recipe's discriminator of random weights.
    pub fn starting_from(tokenizer: ImageTokenizer, recipe: &TokenizerRecipe, device: &Device) -> Self {
        let seed = recipe.optimization.seed ^ DISCRIMINATOR_SEED;
        let size = recipe.tokenizer.size;
        let judge = recipe.adversary.as_ref().map(|adversary| &adversary.discriminator);
        let discriminator = judge.map(|config| Discriminator::init(config, size, seed, device));
        Self { tokenizer, discriminator }
    }
}
