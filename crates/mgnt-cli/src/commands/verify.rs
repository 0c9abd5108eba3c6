//! `mgnt verify`: recomputes what a store of pictures or tokens promises.

use std::path::PathBuf;

use clap::Args;

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
    let verified = mgnt_data::verify(&arguments.dataset)?;
    println!("{}: sound: {verified}", arguments.dataset.display());
    Ok(())
}
