//! Parallel decoding under a schedule of sub-models: the paper's contribution.
//!
//! A person writes a [`Strategy`]; against a model it becomes a [`Plan`], which is correct once it exists and holds
//! the shapes, the cache refreshes and the compute of every iteration. The [`Decoder`] runs the plan and leaves
//! tokens and a [`Ledger`]: what was planned beside what was measured.
//!
//! The loop keeps the positions of each sample in decode order (class token, decided tokens in the order of their
//! decision, undecided ones), so that the cache is a growing prefix and the positions to process are a suffix.
//!
//! Start with [`Strategy::parse`] and [`Decoder`].

mod decoder;
mod error;
mod ledger;
mod noise;
mod order;
mod plan;
mod sampler;
mod sequence;

pub use decoder::{Decoded, Decoder, Snapshot};
pub use error::Error;
pub use ledger::{Ledger, Line};
pub use noise::{Draws, Noise, Stream, gumbel};
pub use order::{OrderKind, halton};
pub use plan::{
    CachePolicy, Guidance, Iteration, MaskSchedule, ModelSchedule, Plan, Strategy, TokenTemperature,
};
pub(crate) use sampler::TokenSampler;
