//! What can be seen of a run: names of its files, its log, read back, and event files for TensorBoard.

mod files;
mod history;
mod tensorboard;

pub use files::{DESCRIPTION, SAMPLES, sample_file, step_of_sample};
pub(crate) use files::{step_name, step_number};
pub use history::History;
pub use tensorboard::EventFile;
