//! Measures of generated pictures.
//!
//! [`Inception`] is the network of the 2015 TensorFlow release under the key names of its PyTorch port. What it says
//! of [`Pictures`] goes through a [`Meter`], which streams it into [`Statistics`] in f64, scores it, and keeps the
//! features of a bounded, drawn part; that leaves a [`Measured`]. Two of those make a [`Report`]:
//! [`frechet_distance`] (FID, and sFID of spatial features), [`kernel_distance`] (KID), and [`neighbours`] (precision,
//! recall, density, coverage), with every choice that they depend on. References are pictures, statistics that others
//! [published](Published), or files of our own; a [`ReferenceCache`] keeps what was measured. Numbers of partial or
//! other weights compare only with themselves, and the report says so in words.
//!
//! Start with [`Inception::load`], [`measure`] and [`Report::new`].

mod draw;
mod error;
mod features;
mod frechet;
mod inception;
mod inception_score;
#[cfg(test)]
#[path = "../../../tests/inception_stem.rs"]
mod inception_stem;
mod kernel_distance;
mod meter;
mod neighbours;
mod pictures;
mod published;
mod reference;
mod report;
mod similarity;
mod statistics;

pub use error::Error;
pub use features::Features;
pub use frechet::{Frechet, frechet_distance};
pub use inception::{Activations, Dims, Inception, Resize};
pub use inception_score::{InceptionScore, inception_score};
pub use kernel_distance::{KernelDistance, kernel_distance};
pub use meter::{Measured, Meter};
pub use neighbours::{Neighbours, neighbours};
pub use pictures::{Measuring, PictureArray, Pictures, is_npz, measure};
pub use published::{Origin, Published, write_adm, write_pytorch_fid};
pub use reference::{ReferenceCache, ResizeOfStatistics, Source, save};
pub use report::{Generation, Protocol, Report, Side, Spread};
pub use similarity::{psnr, ssim};
pub use statistics::{Moments, Statistics};
