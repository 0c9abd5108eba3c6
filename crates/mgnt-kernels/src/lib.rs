//! Kernels for the blocks of `mgnt-model` on the devices of CubeCL (CUDA, Vulkan, Metal, DirectX): what stands between two
//! products is one pass over memory, where Burn's operations take several; and products leave their sums as they
//! are, in `f32`.
//!
//! With the feature `cuda` or `wgpu`, [`on`] gives a device's; [`NestedTransformer::with_kernels`] takes them:
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
//! operations of a backend, with and without fusion; the other modules have a kernel each.
//!
//! [`NestedTransformer::with_kernels`]: mgnt_model::NestedTransformer::with_kernels

#[cfg(feature = "cube")]
mod attend;
#[cfg(feature = "cube")]
mod columns;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cube")]
mod gelu;
#[cfg(feature = "cube")]
mod gradients;
#[cfg(feature = "cube")]
mod heads;
#[cfg(feature = "cube")]
mod learned;
#[cfg(feature = "cube")]
mod norm;
#[cfg(feature = "cube")]
mod norm_on_tape;
#[cfg(feature = "cube")]
mod passes;
#[cfg(feature = "cube")]
mod product;
#[cfg(feature = "cube")]
mod rows;

#[cfg(feature = "cube")]
pub use cube::on;
