//! Training of image tokenizers and nested transformers.
//!
//! A [`Recipe`] (or [`TokenizerRecipe`]) is the RON file that describes a run. [`TransformerTask`] and
//! [`TokenizerTask`] say what one step computes; [`run`](run()) trains either with Burn's learner, under a strategy that
//! counts steps: learning rate, clipping, moving average, validation, checkpoints, told to a [`Watcher`]. Order of data,
//! masks and dropout are functions of seed and step alone (dropout by operations where nobody else in the process draws from
//! the device), so a run that was stopped and resumed gives the same weights as one that was not, to the bit
//! on the CPU.
//!
//! Start with [`run()`], and with [`objective`] and [`tokenizer`] for the mathematics.

mod checkpoint;
mod ema;
mod error;
mod event;
mod forecast;
mod identity;
#[cfg(test)]
#[path = "../../../tests/inception_stem.rs"]
mod inception_stem;
mod learner;
mod log;
mod moments;
pub mod objective;
mod optimizer;
mod part;
mod recipe;
mod run;
mod task;
mod teller;
pub mod tokenizer;
mod transformer_task;
pub mod watch;

pub use burn::train::Interrupter;
pub use checkpoint::has_checkpoint;
pub use error::Error;
pub use event::{Event, Line, Warning, Watcher};
pub use forecast::{Computed, Forecast, Memory};
pub use optimizer::learning_rate;
pub use recipe::{Optimization, Precision, Recipe, parse_with_overrides};
pub use run::{Outcome, RunOptions, run};
pub use task::{Description, Figures, PartOutput, Task};
pub use tokenizer::{TokenizerRecipe, TokenizerTask};
pub use transformer_task::TransformerTask;
