//! Kernels for the transformers of `mgnt-model` on CUDA: what stands between two products is one pass over memory, where
//! Burn's operations take several; attention of halves keeps no scores; products are cuBLASLt's where a machine has it.
//!
//! With the feature `cuda`, `on(&device)` gives a CUDA device's; [`NestedTransformer::with_kernels`] takes them for decoding,
//! [`NestedTransformer::learning_with`] for training.
//!
//! Where anything in a build turns on Burn's `fusion`, as `burn` does with its default features, this crate needs its feature
//! `fusion` as well: CUDA is another backend then, and without it the compiler tells of traits that are not there.
//!
//! ```ignore
//! let model = NestedTransformer::load("runs/imagenette-64/model", &device)?;
//! let model = match mgnt_kernels::on(&device) {
//!     Some(kernels) => model.with_kernels(kernels),
//!     None => model.on_accelerator(),
//! };
//! ```
//!
//! What each computes is said, and by operations done, in [`mgnt_model::kernels`]; begin in `cuda/cube.rs`, which has them all.
//!
//! [`NestedTransformer::with_kernels`]: mgnt_model::NestedTransformer::with_kernels
//! [`NestedTransformer::learning_with`]: mgnt_model::NestedTransformer::learning_with

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(any(feature = "cuda", test))]
mod layout;
#[cfg(any(feature = "cuda", test))]
mod parts;
#[cfg(any(feature = "cuda", test))]
mod place;

#[cfg(feature = "cuda")]
pub use cuda::{library, on};
