//! One file a command: arguments, the call into the libraries, what is printed.

pub mod bench;
pub mod bench_against_torch;
pub mod bench_evaluation;
mod bench_train;
mod configs;
pub mod demo;
pub mod devices;
pub mod edit;
pub mod eval_fid;
mod evaluation;
pub mod export;
pub mod flops;
pub mod generate;
mod generation;
pub mod import;
pub mod import_tokens;
pub mod init;
mod output_folder;
pub mod parity;
pub mod prepare;
pub mod probe;
pub mod report;
mod samples;
pub mod serve_device;
pub mod strategy;
pub mod sweep;
pub mod tokenize;
pub mod train_imagenet;
pub mod train_tokenizer;
mod training;
pub mod verify;
mod watch;
mod watcher;

use std::io::Write;
use std::path::Path;

use serde::{Serialize, Serializer};

/// Serialises a path as text, whatever bytes it has: a report is not lost for its folder's name.
fn in_words<S: Serializer>(path: impl AsRef<Path>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.as_ref().to_string_lossy())
}

/// Prints one JSON object on standard output.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}
