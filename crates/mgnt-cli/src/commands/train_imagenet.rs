//! `mgnt train-imagenet`: tokens become a nested transformer.

use clap::Args;
use mgnt_data::TokenStore;
use mgnt_train::{Recipe, TransformerTask, parse_with_overrides};

use super::training::TrainingArguments;

/// Arguments of `mgnt train-imagenet`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    training: TrainingArguments,
}

/// Trains the transformer.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let training = arguments.training;
    let recipe: Recipe = parse_with_overrides(&training.config, &training.overrides)?;
    let store = TokenStore::open(&training.data)?;
    let held_out = training.validation.as_ref().map(TokenStore::open).transpose()?;
    let device = training.device.open()?;
    let mut task = TransformerTask::new(&recipe, &store, held_out.as_ref(), &device)?;
    eprintln!("{:.2} M parameters", task.config().parameters() as f64 / 1e6);
    training.run(&mut task, &recipe.optimization, &recipe, &device)
}
