//! `mgnt train-imagenet`: tokens become a nested transformer.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use mgnt_data::TokenStore;
use mgnt_model::ModelConfig;
use mgnt_tokenizer::ImageTokenizer;
use mgnt_train::{Computed, Forecast, Recipe, TransformerTask};
use serde::Serialize;

use super::generation::other_tokens;
use super::samples::Sampler;
use super::strategy::StrategyArguments;
use super::training::TrainingArguments;
use super::watcher::Draw;
use crate::model_kind::ModelKind;

/// Pictures of ImageNet's training set, for a forecast without data.
const IMAGENET_PICTURES: usize = 1_281_167;

/// Arguments of `mgnt train-imagenet`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    training: TrainingArguments,
    /// Begin with this model's weights, such as an imported checkpoint that was never nested
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// The tokenizer of the tokens: with it, samples are drawn every `optimization.draw_every` steps
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Sub-models of the samples that stand below those of the full model
    #[arg(long, value_name = "LIST", default_value = "growing", requires = "tokenizer")]
    schedule: String,
    /// Print sizes, memory and cost of the run, and do nothing; without --data for the sizes of ImageNet 256
    #[arg(long)]
    dry_run: bool,
}

/// Trains the transformer.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let training = arguments.training;
    let recipe: Recipe = training.recipe()?;
    training.checked(recipe.validate())?;
    if let Some(untrained) = untrained(recipe.class_dropout) {
        tell!("{untrained}");
    }
    if arguments.dry_run {
        let (config, samples) = match &training.data {
            Some(data) => {
                let store = TokenStore::open(data)?;
                (recipe.model(store.info()), store.len())
            }
            None => (recipe.imagenet_model(), IMAGENET_PICTURES),
        };
        training.checked(config.validate())?;
        let forecast = training.fitting(Forecast::new(&recipe, &config, training.computed()?))?;
        print!("{}", told(&recipe, &config, samples, &forecast));
        return Ok(());
    }
    let store = Arc::new(TokenStore::open(training.data()?)?);
    let held_out = training.validation.as_ref().map(TokenStore::open).transpose()?.map(Arc::new);
    training.checked(recipe.model(store.info()).validate())?;
    let device = training.home()?.open_to_train()?;
    let mut task = TransformerTask::new(&recipe, &store, held_out.as_ref(), &device)?;
    let computed = training.computed()?;
    if training.devices.len() < 2 || computed == Computed::ByKernels {
        task = training.home()?.trained(task, &device);
    } else if training.home()?.has_kernels() {
        tell!(
            "--devices: not all are CUDA's of this process, so blocks are computed by operations, not by CUDA's kernels"
        );
    }
    if let Some(folder) = &arguments.from {
        let started = training.fitting(task.starting_from(folder));
        task = started.map_err(|error| ModelKind::Transformer.missed(folder, error))?;
    }
    tell!("{:.2} M parameters", task.config().parameters() as f64 / 1e6);
    training.check_memory(&recipe.optimization, "", &|parts| {
        let mut recipe = recipe.clone();
        recipe.optimization.parts = parts;
        Ok(Forecast::new(&recipe, task.config(), computed)?.memory.total())
    })?;
    let sampler = match &arguments.tokenizer {
        Some(_) if recipe.optimization.draw_every == 0 => {
            tell!("no samples are drawn: the recipe's optimization.draw_every is 0");
            None
        }
        Some(folder) => {
            let tokenizer = ImageTokenizer::load(folder, &device)
                .map_err(|error| ModelKind::ImageTokenizer.missed(folder, error.into()))?;
            if let Some(others) = other_tokens(folder, store.info().tokens_sha256())? {
                anyhow::bail!("{others} than those of {}", training.data()?.display());
            }
            let strategy = StrategyArguments { schedule: Some(arguments.schedule), ..Default::default() };
            let plan = strategy.plan(task.config())?;
            Some(Sampler::new(tokenizer, plan, task.config(), &store.info().classes, &device)?)
        }
        None if recipe.optimization.draw_every > 0 => {
            tell!("no samples are drawn: --tokenizer is not given");
            None
        }
        None => None,
    };
    let draw = sampler.map(|sampler| -> Draw<_> { Box::new(move |model| sampler.grid(model)) });
    training.run(task, &recipe.optimization, &recipe, &device, draw)
}

/// What a share of dropped classes leaves untrained.
fn untrained(class_dropout: f64) -> Option<&'static str> {
    match class_dropout {
        0.0 => Some("class_dropout is 0: the null class is not trained, so decode without --guidance"),
        1.0 => Some("class_dropout is 1: no class is trained"),
        _ => None,
    }
}

/// A value as a recipe writes it.
fn in_recipe(value: &impl Serialize) -> String {
    ron::to_string(value).unwrap_or_default()
}

/// A forecast in words.
fn told(recipe: &Recipe, config: &ModelConfig, samples: usize, forecast: &Forecast) -> String {
    let optimization = &recipe.optimization;
    let in_gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = &forecast.memory;
    let epochs = optimization.steps as f64 * optimization.batch as f64 / samples as f64;
    format!(
        "model       {layers} layers, width {width}, {heads} heads, hidden {hidden}; {parameters:.2} M parameters\n\
         data        {tokens} tokens of {codes} codes, {classes} classes, {samples} samples\n\
         sub-models  p = {sub_models:?}, in a step: {students}; products in {precision}\n\
         step        {batch} samples in {parts} parts; {step:.4} TFLOP, {ratio:.3} of a plain step\n\
         run         {steps} steps, {epochs:.1} epochs; {all:.3e} FLOP, {hours:.1} h on one H100 at 40 % of {rate:.0} TFLOP/s\n\
         memory      {total:.2} GiB: weights, average, AdamW {state:.2}; gradients {gradients:.2}; \
         activations {activations:.2}, in parts of {part} samples (an estimate)\n\
         disk        {checkpoint:.2} GiB a checkpoint, {keep} kept\n",
        layers = config.layers,
        width = config.width,
        heads = config.heads,
        hidden = config.hidden,
        parameters = forecast.parameters as f64 / 1e6,
        tokens = config.tokens,
        codes = config.codes,
        classes = config.classes,
        sub_models = config.sub_models,
        students = in_recipe(&recipe.objective.students),
        precision = in_recipe(&recipe.precision),
        batch = optimization.batch,
        parts = optimization.parts,
        step = forecast.step_flops / 1e12,
        ratio = forecast.step_flops / forecast.plain_step_flops,
        steps = optimization.steps,
        all = forecast.flops,
        hours = forecast.h100_hours(),
        rate = forecast.h100_rate / 1e12,
        total = in_gib(memory.total()),
        state = in_gib(memory.state),
        gradients = in_gib(memory.gradients),
        part = forecast.samples_a_part,
        activations = in_gib(memory.activations),
        checkpoint = in_gib(forecast.checkpoint_bytes),
        keep = optimization.keep,
    )
}
