//! Tokenizers: pictures and videos to grids of codes and back.
//!
//! [`ImageTokenizer`] is MaskGIT's VQGAN and [`VideoTokenizer`] MAGVIT's 3D-VQ: a convolutional encoder and decoder
//! around a [`quantizer`] that replaces each latent vector by the nearest of a learned codebook. They are Burn
//! modules, usable alone. The training objective of the first lives in `mgnt-train`, on top of
//! [`ImageTokenizer::forward_train`]; weights published elsewhere, and their names, are the matter of [`published`].
//!
//! Start with [`ImageTokenizerConfig`] and [`ImageTokenizer`].

mod error;
mod host;
mod image;
mod layers;
mod probe;
mod products;
pub mod published;
pub mod quantizer;
mod video;

pub use error::Error;
pub use image::{ImageTokenizer, ImageTokenizerConfig, Rebuilt, Shortcut, TrainOutput, codes_sha256};
pub use probe::Probe;
pub use video::{VideoTokenizer, VideoTokenizerConfig};
