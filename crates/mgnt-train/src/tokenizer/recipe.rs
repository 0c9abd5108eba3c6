use mgnt_tokenizer::ImageTokenizerConfig;
use serde::{Deserialize, Serialize};

use super::{AdversarialLoss, DiscriminatorConfig};
use crate::recipe::{in_ranges, within};
use crate::{Error, Optimization};

/// A run of the image tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecipe {
    /// Sizes of the tokenizer; the picture size must be the store's.
    pub tokenizer: ImageTokenizerConfig,
    /// What of it is trained.
    #[serde(default)]
    pub trained: Trained,
    /// Weight of the absolute error of the pictures.
    pub l1_weight: f64,
    /// Weight of the squared error of the pictures.
    pub l2_weight: f64,
    /// Weight of the perceptual distance, for which weights of a network are needed; 0 is none.
    #[serde(default)]
    pub perceptual_weight: f64,
    /// The game with a discriminator, where one is played.
    #[serde(default)]
    pub adversary: Option<Adversary>,
    /// Weight of the codebook's distance to the latents.
    pub codebook_weight: f64,
    /// Weight of the latents' distance to their codes.
    pub commitment_weight: f64,
    /// Weight of the entropy loss.
    pub entropy_weight: f64,
    /// Steps between revivals of codes unused since the last one; 0 is never.
    pub revive_every: usize,
    /// From this step on there are no revivals, so that the codebook settles.
    pub revive_until: usize,
    /// Optimisation, of tokenizer and discriminator alike.
    pub optimization: Optimization,
}

/// What of a tokenizer is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// All of it.
    #[default]
    Whole,
    /// The decoder of a tokenizer that is there: pictures keep their tokens, so that what was trained on them goes on being
    /// right, and only look better (as Muse finetunes its decoder, Chang et al., 2023). Weights and revivals of codes then say nothing.
    Decoder,
}

/// The game with a discriminator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adversary {
    /// Its sizes.
    pub discriminator: DiscriminatorConfig,
    /// What both sides minimise.
    pub loss: AdversarialLoss,
    /// Weight of the tokenizer's side.
    pub weight: AdversarialWeight,
    /// The game begins at this step, 0-based, when pictures are worth judging.
    pub from_step: usize,
    /// Weight of LeCAM's regularisation of the discriminator; 0 is none.
    pub lecam_weight: f64,
}

/// Weight of the tokenizer's side of the game.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdversarialWeight {
    /// Always the same.
    Fixed(f64),
    /// This, times the ratio of the norms that the gradients of the other terms and of this one have at the decoder's
    /// last layer (Esser et al., CVPR 2021), at most ten thousand. Each part of a step has its own ratio.
    Adaptive(f64),
}

impl TokenizerRecipe {
    /// Checks every value.
    pub fn validate(&self) -> Result<(), Error> {
        self.tokenizer.validate()?;
        let weights = [
            ("l1_weight", self.l1_weight),
            ("l2_weight", self.l2_weight),
            ("perceptual_weight", self.perceptual_weight),
            ("codebook_weight", self.codebook_weight),
            ("commitment_weight", self.commitment_weight),
            ("entropy_weight", self.entropy_weight),
        ];
        in_ranges(&weights.map(|(field, value)| (field, value, 0.0, 1e6)))?;
        if let Some(adversary) = &self.adversary {
            adversary.discriminator.validate(self.tokenizer.size)?;
            let (AdversarialWeight::Fixed(weight) | AdversarialWeight::Adaptive(weight)) = adversary.weight;
            in_ranges(&[
                ("adversary.weight", weight, 0.0, 1e6),
                ("adversary.lecam_weight", adversary.lecam_weight, 0.0, 1e6),
            ])?;
        }
        self.optimization.validate().map_err(within("optimization"))
    }
}
