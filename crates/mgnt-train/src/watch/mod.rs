//! What can be seen of a run: its log, read back, and event files for TensorBoard.

mod history;
mod tensorboard;

pub use history::History;
pub use tensorboard::EventFile;
