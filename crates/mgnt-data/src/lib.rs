//! From picture files to batches of tokens.
//!
//! A [`source`] (folder per class, tars, WebDataset, Parquet) yields names, classes and bytes; [`Picture`] decodes them
//! and makes them square by one of the field's conventions ([`Crop`]); [`prepare`] packs the result into a
//! [`PictureStore`]; a tokenizer turns that into a [`TokenStore`], shard by shard ([`TokenJob`]); [`verify`] recomputes
//! what a store promises. Both kinds of store are made resumably: shards that are done outlive the process.
//! [`loader`] says which items a training step sees, as a pure function of seed and step.
//! [`PictureSet`] is any of these, or a plain folder, for those who measure pictures.
//! [`synthetic`] draws a small picture set for those who have none at hand.
//! No tensor and no device here: pictures and tokens are plain memory-mapped bytes.
//!
//! Start with [`prepare`] and the two stores.

mod area;
mod crop;
mod error;
mod guard;
pub mod loader;
pub mod manifest;
pub mod picture;
mod prepare;
mod set;
mod shard;
pub mod source;
mod store;
pub mod synthetic;
mod token_job;
mod tokens;
mod unfinished;
mod verify;

/// What stores say that they were made by.
pub(crate) const MADE_BY: &str = concat!("mgnt ", env!("CARGO_PKG_VERSION"));

pub use crop::{Crop, Filter};
pub use error::Error;
pub use guard::in_guarded_decoder;
pub use picture::{Limits, Picture};
pub use prepare::{PrepareOptions, PrepareReport, prepare};
pub use set::{PictureSet, is_picture_name};
pub use source::{Format, HoldOut, Source, SourceOptions, class_names};
pub use store::{PictureStore, StoreManifest};
pub use token_job::{TokenJob, TokenShard};
pub use tokens::{TokenStore, TokenStoreInfo, TokenWriter};
pub use verify::{Verified, VerifiedKind, verify, verify_telling};
