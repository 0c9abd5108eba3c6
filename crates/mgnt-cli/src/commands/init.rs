//! `mgnt init`: a model of random weights, to measure and to try things with.

use std::path::PathBuf;

use clap::Args;
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_weights::directory::read_ron;

use crate::device::DeviceWord;

/// Arguments of `mgnt init`.
#[derive(Args)]
pub struct Arguments {
    /// The model's config
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The model directory to write
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

/// Draws and writes it.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config: ModelConfig = read_ron(&arguments.config)?;
    NestedTransformer::init(&config, arguments.seed, &DeviceWord::Cpu.open()?)?.save(&arguments.out)?;
    let millions = config.parameters() as f64 / 1e6;
    tell!("{}: {millions:.2} M random parameters", arguments.out.display());
    Ok(())
}
