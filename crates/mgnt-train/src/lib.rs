//! Training of image tokenizers and nested transformers.
//!
//! A [`Recipe`] (or [`TokenizerRecipe`]) is the RON file that describes a run. [`TransformerTask`] and
//! [`TokenizerTask`] say what one step computes; [`run`](run()) is the step-counted loop around both: learning rate,
//! clipping, moving average, validation, checkpoints. Order of data, masks and dropout are pure functions of seed
//! and step, so a run that was stopped and resumed gives the same weights as one that was not.
//!
//! Start with [`run()`], and with [`objective`] for the mathematics.

mod checkpoint;
mod ema;
mod error;
pub mod objective;
mod optimizer;
mod part;
mod recipe;
mod run;
mod tokenizer_task;
mod transformer_task;
pub mod watch;

pub use error::Error;
pub use optimizer::learning_rate;
pub use recipe::{Optimization, Recipe, TokenizerRecipe, parse_with_overrides};
pub use run::{Event, Figures, Outcome, PartOutput, RunOptions, Task, run};
pub use tokenizer_task::TokenizerTask;
pub use transformer_task::TransformerTask;
