//! Training of the image tokenizer: what it minimises, and the discriminator that it plays against.
//!
//! Start with [`TokenizerRecipe`] and [`TokenizerTask`].

mod adversarial;
mod discriminator;
mod forecast;
mod game;
mod model;
mod perceptual;
mod recipe;
mod start;
mod task;

pub use adversarial::{AdversarialLoss, Lecam};
pub use discriminator::{Discriminator, DiscriminatorConfig, Judges};
pub use model::TokenizerAndJudge;
pub use perceptual::Perceptual;
pub use recipe::{AdversarialWeight, Adversary, TokenizerRecipe, Trained};
pub use task::{Networks, Rfid, Seen, TokenizerTask};
