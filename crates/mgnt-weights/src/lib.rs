//! Files to named tensors and back.
//!
//! A [`TensorMap`] is what every file of weights, tokens or statistics becomes: names, types, shapes, bytes.
//! [`safetensors`] reads and writes the files, [`directory`] the pair `config.ron` + `model.safetensors` that a
//! trained model is, and [`atomic`] makes sure that nothing is ever left half-written.
//! [`flax`], [`torch`] and [`npz`] read files that others published, without trusting them; [`read`] tells which
//! checkpoint is which.
//! With the feature `module`, `module` moves tensors between a map and a Burn module, and `in_parts` takes products
//! with weights as exact as the weights are.
//! [`Fitting`] and [`Sizing`] tell all that does not fit a model. Nothing here knows a model's tensors.
//!
//! Start with [`TensorMap`] and [`directory::ModelDirectory`].

pub mod atomic;
pub mod directory;
mod error;
mod fitting;
pub mod flax;
mod format;
mod limits;
#[cfg(feature = "module")]
pub mod module;
pub mod npz;
#[cfg(feature = "module")]
mod parts;
pub mod safetensors;
mod tensor_map;
pub mod torch;

pub use error::Error;
pub use fitting::{Fitting, Sizing};
pub use format::read;
#[cfg(feature = "module")]
pub use parts::in_parts;
pub use tensor_map::{DType, NamedTensor, TensorMap};
