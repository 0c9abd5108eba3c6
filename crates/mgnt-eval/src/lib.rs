//! Measures of generated pictures.
//!
//! [`Inception`] is the network of the 2015 TensorFlow release under the key names of its PyTorch port; its features
//! become [`Statistics`] (streamed by a [`Meter`], in f64), and two of those a [`frechet_distance`]. [`ReferenceCache`]
//! keeps the statistics of references. [`Report`] says every choice
//! that the number depends on. Numbers of partial or other weights compare only with themselves, and the report says
//! so in words.
//!
//! Start with [`Inception::load`] and [`frechet_distance`].

mod error;
mod frechet;
mod inception;
mod inception_score;
mod meter;
mod reference;
mod report;
mod similarity;
mod statistics;

pub use error::Error;
pub use frechet::{Frechet, frechet_distance};
pub use inception::{Dims, Inception, resize};
pub use inception_score::{InceptionScore, inception_score};
pub use meter::{Measured, Meter};
pub use reference::{ReferenceCache, measure};
pub use report::{Protocol, Report};
pub use similarity::{psnr, ssim};
pub use statistics::Statistics;
