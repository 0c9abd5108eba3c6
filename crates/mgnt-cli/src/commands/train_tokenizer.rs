//! `mgnt train-tokenizer`: a packed store becomes an image tokenizer.

use clap::Args;
use mgnt_data::PictureStore;
use mgnt_tokenizer::ImageTokenizer;
use mgnt_train::{TokenizerRecipe, TokenizerTask, parse_with_overrides};

use super::samples::rebuilt;
use super::training::TrainingArguments;

/// Arguments of `mgnt train-tokenizer`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    training: TrainingArguments,
}

/// Trains the tokenizer.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let training = arguments.training;
    let recipe: TokenizerRecipe = parse_with_overrides(&training.config, &training.overrides)?;
    let store = PictureStore::open(training.data()?)?;
    let held_out = training.validation.as_ref().map(PictureStore::open).transpose()?;
    let device = training.home()?.open()?;
    let mut task = TokenizerTask::new(&recipe, &store, held_out.as_ref(), &device)?;
    let shown = held_out.as_ref().unwrap_or(&store);
    let draw = |tokenizer: &ImageTokenizer| rebuilt(tokenizer, shown, &device);
    training.run(&mut task, &recipe.optimization, &recipe, &device, Some(Box::new(draw)))
}
