//! Tokenizers: pictures to grids of codes and back.
//!
//! [`ImageTokenizer`] is MaskGIT's VQGAN, a convolutional encoder and decoder around a [`quantizer`] that replaces
//! each latent vector by the nearest of a learned codebook. It is a Burn module, usable alone; its training
//! objective lives in `mgnt-train`, on top of [`ImageTokenizer::forward_train`].
//!
//! Start with [`ImageTokenizerConfig`] and [`ImageTokenizer`].

mod error;
mod image;
pub mod quantizer;

pub use error::Error;
pub use image::{ImageTokenizer, ImageTokenizerConfig, Shortcut, TrainOutput};
