//! Kernels for the blocks of `mgnt-model` on CUDA: what stands between two products is one pass over memory, where Burn's
//! operations take several; and products leave their sums as they are, in `f32`.
//!
//! With the feature `cuda`, `on(&device)` gives a CUDA device's; [`NestedTransformer::with_kernels`] takes them. They are written
//! in CubeCL, for any device whose planes (warps, subgroups) are of one size; but no other was at hand to try them on.
//!
//! ```ignore
//! let model = NestedTransformer::load("runs/imagenette-64/model", &device)?;
//! let model = match mgnt_kernels::on(&device) {
//!     Some(kernels) => model.with_kernels(kernels),
//!     None => model.on_accelerator(),
//! };
//! ```
//!
//! What each computes is said, and by operations done, in [`mgnt_model::kernels`]. `passes` declares them to Burn as
//! operations of a backend, with and without fusion, `learned` those that a tape knows, and `gradients` what goes back through
//! these; the other modules hold the kernels.
//!
//! [`NestedTransformer::with_kernels`]: mgnt_model::NestedTransformer::with_kernels

#[cfg(feature = "cuda")]
mod attend;
#[cfg(feature = "cuda")]
mod columns;
#[cfg(feature = "cuda")]
mod cube;
#[cfg(feature = "cuda")]
mod dense;
#[cfg(feature = "cuda")]
mod dense_on_tape;
#[cfg(feature = "cuda")]
mod entropy;
#[cfg(feature = "cuda")]
mod flash;
#[cfg(feature = "cuda")]
mod gelu;
#[cfg(feature = "cuda")]
mod gradients;
#[cfg(feature = "cuda")]
mod heads;
#[cfg(any(feature = "cuda", test))]
mod layout;
#[cfg(feature = "cuda")]
mod learned;
#[cfg(feature = "cuda")]
mod library;
#[cfg(feature = "cuda")]
mod norm;
#[cfg(feature = "cuda")]
mod norm_on_tape;
#[cfg(any(feature = "cuda", test))]
mod parts;
#[cfg(feature = "cuda")]
mod passes;
#[cfg(feature = "cuda")]
mod product;
#[cfg(feature = "cuda")]
mod rows;
#[cfg(feature = "cuda")]
mod update;

#[cfg(feature = "cuda")]
pub use cube::on;
