//! `mgnt init`: a model of random weights, to measure and to try things with.

use std::path::PathBuf;

use clap::Args;
use mgnt_model::NestedTransformer;

use super::configs;
use super::output_folder::{check_not_within, tell_of_leftovers_of_a_model};
use crate::device::{DeviceWord, gib};

/// Arguments of `mgnt init`.
#[derive(Args)]
pub struct Arguments {
    /// The model's config, or the folder of one like it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Seed of the weights
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The model directory to write
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

/// Copies of the weights at the fullest moment, as measured of a hundred million.
const COPIES: u64 = 3;

/// Draws and writes it.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = configs::file(&arguments.config);
    let config = configs::model(&file)?;
    config.validate()?;
    check_not_within("--config", &file, &arguments.out)?;
    tell_of_leftovers_of_a_model(&arguments.out)?;
    let needed = COPIES * 4 * config.parameters() as u64;
    if let Some(has) = DeviceWord::Cpu.memory()
        && needed > has
    {
        let (file, needed, has) = (file.display(), gib(needed), gib(has));
        anyhow::bail!(
            "{file}: not enough memory: to draw and write the weights takes about {needed}, and the device has {has}"
        );
    }
    NestedTransformer::init(&config, arguments.seed, &DeviceWord::Cpu.open()?)?.save(&arguments.out)?;
    let millions = config.parameters() as f64 / 1e6;
    tell!("{}: {millions:.2} M random parameters", arguments.out.display());
    Ok(())
}
