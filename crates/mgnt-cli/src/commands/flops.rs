//! `mgnt flops`: planned compute of a schedule; runs no model.

use std::path::PathBuf;

use clap::Args;
use mgnt_decode::Ledger;
use mgnt_model::ModelConfig;
use mgnt_weights::directory::read_ron;

use super::print_json;
use super::strategy::StrategyArguments;

/// Arguments of `mgnt flops`.
#[derive(Args)]
pub struct Arguments {
    /// A model's config
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// Prints the table.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config: ModelConfig = read_ron(&arguments.config)?;
    config.validate()?;
    let plan = arguments.strategy.plan(&config)?;
    let ledger = Ledger::new(&plan, 1);
    if arguments.json {
        return print_json(&ledger);
    }
    print!("{ledger}");
    Ok(())
}
