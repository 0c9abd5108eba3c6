//! Parallel decoding under a schedule of sub-models: the paper's contribution.
//!
//! A person writes a [`Strategy`]; against a model it becomes a [`Plan`], which is correct once it exists and holds
//! the shapes, the cache refreshes and the compute of every iteration. The [`Decoder`] runs the plan and leaves
//! tokens and a [`Ledger`]: what was planned beside what was measured.
//!
//! The loop keeps the positions of each sample in decode order (class token, decided tokens in the order of their
//! decision, undecided ones), so that the cache is a growing prefix and the positions to process are a suffix.
//!
//! [`edit`] has what inpainting needs around that (masks of pixels, blended seams), and [`search`] looks for the best
//! strategy under a compute budget. [`replay`] runs a plan over known tokens, to be compared with others.
//!
//! On an accelerator a decode may be [`resident`](Decoder::resident), and [`Recorded`] as one launch a batch.
//!
//! Start with [`Strategy::parse`] and [`Decoder`].

mod decoder;
pub mod edit;
mod error;
mod ledger;
mod memory;
mod noise;
mod order;
mod plan;
mod recorded;
pub mod replay;
mod resident;
mod sampler;
mod samples;
pub mod search;
mod sequence;
mod side_by_side;

pub use decoder::{Decoded, Decoder, Snapshot};
pub use error::Error;
pub use ledger::{Ledger, Line};
pub use memory::DecodeMemory;
pub use noise::{Draws, Noise, Stream, gumbel};
pub use order::{Candidate, Confidence, Order, OrderKind, Random, Rule, Sequenced, halton};
pub use plan::{
    CachePolicy, ChoiceTemperature, Guidance, Iteration, MaskSchedule, ModelSchedule, Plan, Strategy,
    TokenTemperature, Unconditional,
};
pub use recorded::Recorded;
pub(crate) use sampler::TokenSampler;
