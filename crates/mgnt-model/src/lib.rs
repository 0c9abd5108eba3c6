//! The nested transformer of *Masked Generative Nested Transformers with Decode Time Scaling* (Goyal et al.,
//! ICML 2025): a MaskGIT-style bidirectional transformer whose one set of weights holds sub-models of 1, 1/2, 1/4
//! and 1/8 of the heads and hidden units.
//!
//! A Burn module that knows tokens, positions, sub-models and caches, and nothing of schedules: those are
//! `mgnt-decode`'s. It can be used alone, inside anyone's own network, trained by anyone's own loop.
//!
//! Start with [`ModelConfig`] (sizes and presets), [`NestedTransformer`] (the module) and [`SubModel`] (which slice
//! of it runs). [`kernels`] says what a device may bring of its own, [`compute`] says what a forward costs, without any tensor.

mod attention;
mod block;
mod cache;
pub mod compute;
mod config;
mod embedding;
mod error;
mod gelu;
mod head;
mod host;
mod initial;
pub mod kernels;
mod nesting;
mod precision;
pub mod published;
pub mod side_by_side;
mod transformer;
mod vocabulary;

pub use cache::KvCache;
pub use config::{ModelConfig, Nesting, Norm, Preset};
pub use error::Error;
pub use nesting::SubModel;
pub use transformer::NestedTransformer;
pub use vocabulary::Vocabulary;
