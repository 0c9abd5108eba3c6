//! From picture files to batches of tokens.
//!
//! A [`source`] (folder per class, or a tar of one) yields names, classes and bytes; [`Picture`] decodes, crops and
//! resizes; [`prepare`] packs the result into a [`PictureStore`]; a tokenizer turns that into a [`TokenStore`];
//! [`loader`] says which items a training step sees, as a pure function of seed and step.
//! [`PictureSet`] is any of these, or a plain folder, for those who measure pictures.
//! [`synthetic`] draws a small picture set for those who have none at hand.
//! No tensor and no device here: pictures and tokens are plain memory-mapped bytes.
//!
//! Start with [`prepare`] and the two stores.

mod error;
pub mod loader;
pub mod manifest;
pub mod picture;
mod prepare;
mod set;
mod shard;
pub mod source;
mod store;
pub mod synthetic;
mod tokens;

pub use error::Error;
pub use picture::{Filter, Limits, Picture};
pub use prepare::{PrepareOptions, PrepareReport, prepare};
pub use set::PictureSet;
pub use store::PictureStore;
pub use tokens::{TokenStore, TokenStoreInfo, TokenWriter};
