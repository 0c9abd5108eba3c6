//! `mgnt flops`: planned compute of a schedule; runs no model.

use std::path::PathBuf;

use clap::Args;
use mgnt_decode::{CachePolicy, Ledger};
use mgnt_weights::atomic;
use mgnt_weights::directory::write_ron;

use super::configs;
use super::output_folder::check_not_read;
use super::print_json;
use super::strategy::StrategyArguments;
use crate::output::plot;

/// Arguments of `mgnt flops`.
#[derive(Args)]
pub struct Arguments {
    /// A model's config, or its folder
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Also draw compute by iteration, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Also write the strategy with the value of every iteration spelled out, as RON
    #[arg(long, value_name = "FILE")]
    save_strategy: Option<PathBuf>,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// Prints the table.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = configs::file(&arguments.config);
    let (config, strategy) = (Some(file.as_path()), arguments.strategy.strategy.as_deref());
    if let Some(path) = &arguments.save_strategy {
        check_not_read("--save-strategy", path, &[("--config", config)])?;
    }
    if let Some(path) = &arguments.plot {
        let others = [
            ("--config", config),
            ("--strategy", strategy),
            ("--save-strategy", arguments.save_strategy.as_deref()),
        ];
        check_not_read("--plot", path, &others)?;
    }
    let config = configs::model(&file)?;
    config.validate()?;
    let plan = arguments.strategy.plan(&config)?;
    let ledger = Ledger::new(&plan, 1);
    if let Some(path) = &arguments.save_strategy {
        write_ron(path, &plan.explicit())?;
    }
    if let Some(path) = &arguments.plot {
        let baseline = plan.strategy().clone().of_full_model().with_cache(CachePolicy::Off).plan(&config)?;
        atomic::write_bytes(path, plot::compute(&ledger, &Ledger::new(&baseline, 1))?.as_bytes())?;
    }
    if arguments.json {
        return print_json(&ledger);
    }
    print!("{ledger}");
    Ok(())
}
