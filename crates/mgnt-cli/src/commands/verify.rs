//! `mgnt verify`: recomputes what a store of pictures or tokens promises.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::Args;

use super::watch::Progress;

/// Arguments of `mgnt verify`.
#[derive(Args)]
pub struct Arguments {
    /// A store of pictures or of tokens
    #[arg(value_name = "DATASET")]
    dataset: PathBuf,
}

/// Prints one line: what the store holds. A store that is not as it was written is an error that names the first bad
/// shard.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let progress: Mutex<Option<Progress>> = Mutex::new(None);
    let verified = mgnt_data::verify_telling(&arguments.dataset, &|_, shards| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.get_or_insert_with(|| Progress::new(shards, "shards")).add(1);
    });
    progress.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().for_each(Progress::finish);
    let verified = verified?;
    println!("{}: sound: {verified}", arguments.dataset.display());
    Ok(())
}
