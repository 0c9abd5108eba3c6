//! `mgnt bench train`: time of training steps and of a checkpoint.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, mpsc};

use anyhow::Context;
use burn::tensor::Device;
use mgnt_data::{TokenStore, TokenStoreInfo, TokenWriter};
use mgnt_model::kernels::Kernels;
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_train::objective::MaskedBatch;
use mgnt_train::{
    Description, Error, Event, Figures, Forecast, Interrupter, PartOutput, Recipe, RunOptions, Task,
    TransformerTask, run as train,
};

use super::bench::{Arguments, Row, median, row};
use super::configs;
use crate::device::gib;

/// Steps of a round: the first warms up.
const STEPS: usize = 3;

/// Milliseconds of steps and of a checkpoint.
#[derive(Default)]
struct Times {
    steps: Vec<f64>,
    checkpoints: Vec<f64>,
}

/// Steps on random tokens of the sizes of ImageNet 256, turn and turn about: the full model alone, the nested
/// objective, and that on one batch that is ready. And a checkpoint, with the share of the time that it takes.
pub fn rows(arguments: &Arguments, batch: usize, device: &Device) -> anyhow::Result<Vec<Row>> {
    let mut nested = of_batch(arguments, batch)?;
    let every = nested.optimization.checkpoint_every;
    let optimization = &mut nested.optimization;
    (optimization.steps, optimization.checkpoint_every, optimization.validate_every) =
        (STEPS, STEPS, usize::MAX);
    optimization.log_every = 1;
    let plain = Recipe { sub_models: vec![1], ..nested.clone() };
    let folder = tempfile::tempdir().context("a folder for the tokens")?;
    let store = Arc::new(random_tokens(&folder.path().join("tokens"), &nested.imagenet_model())?);
    let cpu = arguments.compute.device.is_cpu();

    let taped = nested.optimization.taped(device);
    let task = |recipe: &Recipe| -> Result<Drawn, Error> {
        let task = TransformerTask::new(recipe, &store, None, device)?;
        Drawn::new(arguments.compute.device.trained(task, device), &taped)
    };
    let (of_full, of_all) = (task(&plain)?, task(&nested)?);
    let of_repeated = of_all.clone().on_one_batch(&nested, &taped)?;
    let (mut full, mut all, mut repeated) = (Times::default(), Times::default(), Times::default());
    for round in 0..arguments.repeat {
        let timed = |task: &Drawn, recipe, saves, times: &mut Times| {
            let (out, stop) = (folder.path().join("run"), Interrupter::new());
            let options = RunOptions { saves, side_by_side: cpu, ..RunOptions::new(device, &out, &stop) };
            timed(task.clone(), recipe, options, times)
        };
        timed(&of_full, &plain, false, &mut full)?;
        // One checkpoint is enough of them: at scale L it has gigabytes.
        timed(&of_all, &nested, round == 0, &mut all)?;
        timed(&of_repeated, &nested, false, &mut repeated)?;
    }
    let mut rows: Vec<Row> = Vec::new();
    let (step, checkpoint) = (median(all.steps.clone()), median(all.checkpoints));
    let forecast = Forecast::new(&nested, &nested.imagenet_model(), arguments.compute.device.computed())?;
    for (name, times, flops) in [
        ("step, full model", full.steps, forecast.plain_step_flops),
        ("step, nested", all.steps, forecast.step_flops),
        ("step, nested, one batch", repeated.steps, forecast.step_flops),
    ] {
        rows.push(row(name.into(), batch, median(times), Some(flops), &rows));
    }
    let share = 100.0 * checkpoint / (checkpoint + every as f64 * step);
    let name = format!("checkpoint ({share:.2} % at one in {every} steps)");
    rows.push(row(name, batch, checkpoint, None, &rows));
    Ok(rows)
}

/// The recipe for another batch, in parts of as many samples as the recipe's: what a device holds at once stays the same.
fn of_batch(arguments: &Arguments, batch: usize) -> anyhow::Result<Recipe> {
    let mut recipe = configs::recipe(&arguments.config)?;
    let optimization = &mut recipe.optimization;
    let of_a_part = optimization.batch.div_ceil(optimization.parts.max(1)).max(1);
    (optimization.batch, optimization.parts) = (batch, batch.div_ceil(of_a_part));
    Ok(recipe)
}

/// Fails where the device has less memory than a step of that batch takes; says which batch should fit.
pub fn check_memory(arguments: &Arguments, batch: usize) -> anyhow::Result<()> {
    let device = arguments.compute.device;
    let needs = |batch: usize| {
        let recipe = of_batch(arguments, batch)?;
        anyhow::Ok(Forecast::new(&recipe, &recipe.imagenet_model(), device.computed())?.memory.total())
    };
    let Some(has) = device.memory() else { return Ok(()) };
    let needed = needs(batch)?;
    if needed <= has {
        return Ok(());
    }
    let mut fits = batch;
    while fits > 0 && needs(fits)? > has {
        fits /= 2;
    }
    let proposal = if fits > 0 { format!("--batch {fits} should fit") } else { "no batch fits".into() };
    anyhow::bail!(
        "--device {device}: not enough memory: a step of {batch} takes about {}, and the device has {}; {proposal}",
        gib(needed),
        gib(has)
    )
}

/// Trains for some steps in a folder that is removed again.
fn timed<T: Task>(task: T, recipe: &Recipe, options: RunOptions, times: &mut Times) -> anyhow::Result<()> {
    let (tell, told) = mpsc::channel();
    // The run ends before what it told is read, and reads nothing itself.
    let watch = move |event: &Event| drop(tell.send(event.clone()));
    train(task, &recipe.optimization, recipe, options, watch)?;
    let mut seconds = Vec::new();
    for event in told {
        match event {
            Event::Trained(line) => seconds.extend(line.seconds_a_step),
            Event::Saved { seconds, .. } => times.checkpoints.push(seconds * 1e3),
            _ => (),
        }
    }
    times.steps.extend(seconds.into_iter().skip(1).map(|seconds| seconds * 1e3));
    Ok(std::fs::remove_dir_all(options.out)?)
}

/// A task whose first weights are drawn once, since those of scale L take longer than its steps; and the parts of its first
/// step's batch, where all steps are on these.
#[derive(Clone)]
struct Drawn {
    task: Arc<TransformerTask>,
    model: NestedTransformer,
    parts: Vec<(Range<usize>, MaskedBatch)>,
}

impl Drawn {
    /// On a device with a tape.
    fn new(task: TransformerTask, taped: &Device) -> Result<Self, Error> {
        let model = task.initial(taped)?;
        Ok(Self { task: Arc::new(task), model, parts: Vec::new() })
    }

    fn on_one_batch(self, recipe: &Recipe, taped: &Device) -> Result<Self, Error> {
        let places = recipe.optimization.places();
        let masked = |places: Range<usize>| Ok((places.clone(), self.task.masked(0, places, taped)?));
        let parts = places.into_iter().map(masked).collect::<Result<_, Error>>()?;
        Ok(Self { parts, ..self })
    }
}

impl Task for Drawn {
    type Model = NestedTransformer;
    type Extra = ();

    fn describe(&self) -> Result<Description, Error> {
        self.task.describe()
    }

    fn initial(&self, _: &Device) -> Result<NestedTransformer, Error> {
        Ok(self.model.clone())
    }

    fn kernels(&self) -> Option<Arc<dyn Kernels>> {
        self.task.kernels()
    }

    fn draws_on_device(&self) -> bool {
        self.task.draws_on_device()
    }

    fn items(&self, step: usize) -> Vec<usize> {
        self.task.items(if self.parts.is_empty() { step } else { 0 })
    }

    fn part(
        &self,
        model: &NestedTransformer,
        step: usize,
        places: Range<usize>,
    ) -> Result<PartOutput<()>, Error> {
        match self.parts.iter().find(|(range, _)| *range == places) {
            Some((_, batch)) => self.task.loss(model, step, places.start, batch),
            None => self.task.part(model, step, places),
        }
    }

    fn figures(&self) -> Vec<String> {
        self.task.figures()
    }

    fn validation_figures(&self) -> Vec<String> {
        self.task.validation_figures()
    }

    fn validate(&self, average: &NestedTransformer) -> Result<Figures, Error> {
        self.task.validate(average)
    }

    fn score(&self, validation: &Figures) -> Option<f64> {
        self.task.score(validation)
    }

    fn export(&self, average: &NestedTransformer, folder: &Path) -> Result<(), Error> {
        self.task.export(average, folder)
    }
}

fn random_tokens(folder: &Path, config: &ModelConfig) -> anyhow::Result<TokenStore> {
    let side = config.tokens.isqrt();
    let info = TokenStoreInfo {
        grid: [side, config.tokens / side],
        codes: config.codes,
        classes: (0..config.classes).map(|class| class.to_string()).collect(),
        tokenizer: "none".into(),
        codes_sha256: None,
        source: "random".into(),
    };
    std::fs::create_dir_all(folder)?;
    let mut writer = TokenWriter::new(folder, info);
    for item in 0..config.classes {
        let tokens: Vec<u16> =
            (0..config.tokens).map(|i| ((item * 7919 + i * 104_729) % config.codes) as u16).collect();
        writer.push(&tokens, item)?;
    }
    writer.finish()?;
    Ok(TokenStore::open(folder)?)
}
