//! A run of any task: its folder, what it begins with, and Burn's training around it.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use burn::tensor::Device;
use burn::train::metric::LearningRateMetric;
use burn::train::{Interrupter, Learner, SupervisedTraining, TrainingStrategy};
use mgnt_weights::atomic::{self, Lock};
use mgnt_weights::directory::{CONFIG, WEIGHTS};
use serde::Serialize;

use crate::checkpoint::{Checkpoints, HandedOver, Progress, Start, WhenAsked};
use crate::event::{Event, Warning, Watcher};
use crate::identity::Identity;
use crate::learner::{Elsewhere, Figure, Renderer, Schedule, Stage, StepCounted, Steps, Trainee};
use crate::optimizer::{Updates, adamw};
use crate::part::Workers;
use crate::recipe::within;
use crate::task::{Description, Task};
use crate::teller::Teller;
use crate::watch::{DESCRIPTION, SAMPLES, step_of_sample};
use crate::{Error, Optimization, checkpoint};

/// Where and how a task is run.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// The device of the model and its optimiser, without a tape.
    pub device: &'a Device,
    /// Further devices, which take turns with the first in computing the parts of a step.
    pub others: &'a [Device],
    /// Two or more of the devices are of this process, and so share its generator of random numbers: parts that
    /// [draw from it](Task::draws_on_device) come one after the other.
    pub one_generator: bool,
    /// The run's folder.
    pub out: &'a Path,
    /// Continue the newest checkpoint; without, there must be none.
    pub resume: bool,
    /// Write checkpoints and the trained model; a bench goes without.
    pub saves: bool,
    /// Compute as many parts of a step at once as there are cores: right for CPUs.
    pub side_by_side: bool,
    /// Looked at between steps: whether to save and stop. The first step is done whatever it says.
    pub stop: &'a Interrupter,
}

impl<'a> RunOptions<'a> {
    /// A new run on one device, which is saved, and whose parts are computed one after the other.
    pub fn new(device: &'a Device, out: &'a Path, stop: &'a Interrupter) -> Self {
        Self {
            device,
            others: &[],
            one_generator: false,
            out,
            resume: false,
            saves: true,
            side_by_side: false,
            stop,
        }
    }
}

impl fmt::Debug for RunOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("device", self.device)
            .field("others", &self.others)
            .field("out", &self.out)
            .field("resume", &self.resume)
            .field("saves", &self.saves)
            .field("side_by_side", &self.side_by_side)
            .finish_non_exhaustive()
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were done.
    Finished,
    /// It was asked to stop after this many steps, and can be resumed.
    Interrupted(usize),
}

/// Trains a task in its folder: `run.json`, `metrics.jsonl`, `skipped.jsonl`, `checkpoints/`, `best/` with the averaged
/// model of the best validation, and at the end `model/` with the averaged weights.
///
/// Fails before anything is written where [`Optimization::validate`] does. Only one process at a time can train there; where
/// the folder is removed, or moved away, the run ends with an error and writes no more. A run is
/// resumed with the recipe and the data that it began with, which each checkpoint names.
///
/// Where a task [draws on the device](Task::draws_on_device), its draws are functions of seed and step only as long as nobody
/// else in the process draws from that device's generator or seeds it: of such runs, one at a time.
pub fn run<T: Task>(
    mut task: T,
    optimization: &Optimization,
    recipe: &impl Serialize,
    options: RunOptions,
    watcher: impl Watcher<T::Model> + 'static,
) -> Result<Outcome, Error> {
    let RunOptions { device, others, one_generator, out, resume, saves, side_by_side, stop } = options;
    optimization.validate().map_err(within("optimization"))?;
    if optimization.parts <= others.len() {
        return Err(Error::Recipe {
            field: "optimization.parts".into(),
            expected: format!("{} at least, one a device", others.len() + 1),
            got: optimization.parts.to_string(),
        });
    }
    if resume && !out.join(checkpoint::FOLDER).is_dir() {
        return Err(nothing_to_resume(out, ""));
    }
    let description = task.describe()?;
    let text = described(&description, recipe)?;
    if !resume {
        // Before the lock, which would stay beside what is refused.
        refuse_others(out)?;
        if !checkpoint::has_checkpoint(out)? {
            refuse_models(out, &text)?;
        }
    }
    let lock = lock(out)?;
    put_back(out)?;
    let mut watcher: Box<dyn Watcher<T::Model>> = Box::new(watcher);
    let checkpoints = Checkpoints::new(out, Identity::new(recipe, &description.data)?, optimization);
    let model = task.initial(&optimization.taped(device))?;
    let updates = task.kernels().map(Updates::new);
    let mut start = Start {
        optimizer: adamw(optimization, &model, updates.clone())?,
        trainee: Trainee::new(model, optimization.ema_decay, task.kernels()),
        schedule: None,
        progress: Progress::default(),
    };
    // To draw a large model takes a while.
    lock.check()?;
    if resume {
        let warn = &mut |warning| watcher.event(&Event::Warning(warning));
        let found = checkpoints.load_newest(&start, warn)?;
        start = found.ok_or_else(|| match checkpoint::has_damaged(out) {
            true => nothing_to_resume(out, &format!(": {ALL_DAMAGED}")),
            false => nothing_to_resume(out, ""),
        })?;
        task.recall(&start.progress.memory);
        // Those that a killed process had yet to remove, and those of a run that kept more.
        if saves && let Err(error) = checkpoints.remove_older() {
            watcher.event(&Event::Warning(Warning::OlderStays { reason: error.to_string() }));
        }
        remove_lost_samples(out, start.progress.step)?;
        // It may go on with other values of fields that change no weight.
        atomic::write_bytes(&out.join(DESCRIPTION), text.as_bytes())?;
    } else {
        if checkpoints.newest()?.is_some() {
            return Err(Error::run(out, "holds a run already; --resume continues it"));
        }
        begin_anew(out, &text)?;
    }
    atomic::remove_leftovers_of(out, |name| WRITTEN.contains(&name))?;
    if let Err(error) = checkpoint::remove_leftovers(out) {
        watcher.event(&Event::Warning(Warning::OlderStays { reason: error.to_string() }));
    }
    atomic::remove_leftovers_of(&out.join(SAMPLES), |name| step_of_sample(name).is_some())?;
    let tokens_a_step = optimization.batch * description.tokens_a_sample;
    watcher.event(&Event::Started {
        step: start.progress.step,
        steps: optimization.steps,
        samples_a_step: optimization.batch,
        tokens_a_step,
    });
    let teller = Teller::new(out, start.progress.step, optimization, tokens_a_step, watcher)?;
    let workers =
        Workers::new(device, others, side_by_side, optimization.parts)?.sharing_a_generator(one_generator);
    let stage = Stage::new(task, optimization, workers, updates);
    let checkpoints = saves.then_some(checkpoints);
    learn(stage, start, optimization, checkpoints, teller, (out, lock), stop)
}

/// Sets Burn's training up and launches it.
fn learn<T: Task>(
    stage: Stage<T>,
    start: Start<T::Model>,
    optimization: &Optimization,
    checkpoints: Option<Checkpoints>,
    teller: Teller<T::Model>,
    (out, lock): (&Path, Lock),
    stop: &Interrupter,
) -> Result<Outcome, Error> {
    let (stage, teller) = (Arc::new(stage), Arc::new(Mutex::new(teller)));
    let mut figures = stage.task().figures();
    figures.extend(["loss", "gradient_norm", "skipped"].map(str::to_owned));
    let validated = stage.task().validation_figures();
    let loader = |range| Arc::new(Steps { of: stage.clone(), range });
    let (handed_over, records) = mpsc::channel();
    let handed_over = HandedOver(handed_over);
    let mut training = SupervisedTraining::new(out, loader(0..optimization.steps), loader(0..1))
        .num_epochs(optimization.steps.div_ceil(optimization.validate_every))
        .metric_train_numeric(LearningRateMetric::new())
        .with_metric_logger(Elsewhere)
        .with_application_logger(None)
        .with_custom_checkpointers(handed_over.clone(), handed_over.clone(), handed_over)
        .with_checkpointing_strategy(WhenAsked)
        .with_interrupter(stop.clone())
        .renderer(Box::new(Renderer::new(teller.clone())));
    for name in &figures {
        training = training.metric_train_numeric(Figure::new(name));
    }
    for name in &validated {
        training = training.metric_valid_numeric(Figure::new(name));
    }

    let Start { trainee, optimizer, schedule, progress } = start;
    let mut learner = Learner::new(trainee, optimizer, Schedule::new(optimization));
    if let Some(record) = schedule {
        learner.load_scheduler(record);
    }
    let strategy = Arc::new(StepCounted {
        stage: stage.clone(),
        optimization: optimization.clone(),
        out: out.into(),
        lock,
        checkpoints,
        records: Mutex::new(records),
        teller,
        figures,
        validated,
        begins: progress,
        outcome: Mutex::new(None),
    });
    let saves = strategy.checkpoints.is_some();
    let result = training.with_training_strategy(TrainingStrategy::Custom(strategy.clone())).launch(learner);
    let outcome = strategy.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    let outcome = outcome.unwrap_or_else(|| Err(Error::Learner("it did not run the loop".into())))?;
    if let Some(error) = result.error {
        return Err(Error::Learner(error.to_string()));
    }
    if saves && outcome == Outcome::Finished {
        strategy.lock.check()?;
        stage.task().export(&result.model.average, &out.join("model"))?;
    }
    Ok(outcome)
}

/// Holds a run's folder, which is made, for this process.
fn lock(out: &Path) -> Result<Lock, Error> {
    let held = atomic::lock(&out.join("lock"))?;
    held.ok_or_else(|| Error::run(out, "another process trains in this folder"))
}

/// What a run, or `mgnt report`, writes in its folder, whole or not at all: what else lies there is somebody else's.
const WRITTEN: [&str; 6] = [DESCRIPTION, "metrics.jsonl", "skipped.jsonl", "best", "model", "report.html"];

/// Fails where the folder has what a run would write over, and it is no run's.
fn refuse_others(out: &Path) -> Result<(), Error> {
    let is_ours = |text: &[u8]| {
        serde_json::from_slice::<serde_json::Value>(text)
            .is_ok_and(|found| ["task", "tokens_a_sample"].iter().all(|field| found.get(field).is_some()))
    };
    // With the files of a run beside it, a model could not be replaced any more.
    if let Some(name) = [CONFIG, WEIGHTS].iter().find(|name| out.join(name).exists()) {
        return Err(Error::run(out, format!("holds {name} of a model; take another folder")));
    }
    let description = out.join(DESCRIPTION);
    let ours = match fs::read(&description) {
        Ok(text) => is_ours(&text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(mgnt_weights::Error::io(&description)(error).into()),
    };
    // The manifest is a store's, which would be none with a run in it.
    let others = [DESCRIPTION, "metrics.jsonl", "skipped.jsonl", "manifest.json"];
    match others.iter().find(|name| out.join(name).exists()).filter(|_| !ours) {
        Some(name) => {
            Err(Error::run(out, format!("holds {name}, which is no training's; take another folder")))
        }
        None => Ok(()),
    }
}

const ALL_DAMAGED: &str =
    "all checkpoints are damaged; best/, where there is one, holds the model of the best validation";

/// The error of a resumption, and what `more` there is to say of it.
fn nothing_to_resume(out: &Path, more: &str) -> Error {
    Error::run(out, format!("there is no checkpoint to resume{more}"))
}

/// Fails where models or samples lie in a folder without whole checkpoints that would pass for this run's, or be lost to it.
fn refuse_models(out: &Path, description: &str) -> Result<(), Error> {
    if checkpoint::has_damaged(out) {
        return Err(Error::run(
            out,
            format!("{ALL_DAMAGED}; take another folder, or move best/ and remove checkpoints/"),
        ));
    }
    let before = fs::read_to_string(out.join(DESCRIPTION)).ok().and_then(|text| Identity::of_run(&text));
    let now = Identity::of_run(description);
    let is_same = before.zip(now).is_some_and(|(before, now)| now.difference(&before).is_none());
    let left = |name: &&&str| out.join(name).exists();
    if is_same && out.join("model").exists() {
        let reason = "holds model/ of this run, which is finished; take another folder, or remove it";
        return Err(Error::run(out, reason));
    }
    match ["model", "best", SAMPLES].iter().find(left) {
        Some(other) if !is_same => {
            let reason = format!("holds {other}/ of another run; take another folder, or remove it");
            Err(Error::run(out, reason))
        }
        _ => Ok(()),
    }
}

/// Writes `run.json` where a run without checkpoints may have been. What it left would pass for this one's: of the same run it is
/// removed, of another it is refused.
fn begin_anew(out: &Path, description: &str) -> Result<(), Error> {
    // Once more, now that no other process writes here.
    refuse_models(out, description)?;
    for folder in ["best", SAMPLES].map(|name| out.join(name)).iter().filter(|folder| folder.exists()) {
        fs::remove_dir_all(folder).map_err(mgnt_weights::Error::io(folder))?;
    }
    Ok(atomic::write_bytes(&out.join(DESCRIPTION), description.as_bytes())?)
}

/// Removes samples of steps after `step`, whose work was lost.
fn remove_lost_samples(out: &Path, step: usize) -> Result<(), Error> {
    for entry in fs::read_dir(out.join(SAMPLES)).into_iter().flatten().flatten() {
        let path = entry.path();
        let drawn = entry.file_name().to_str().and_then(step_of_sample);
        if drawn.is_some_and(|drawn| drawn > step) {
            fs::remove_file(&path).map_err(mgnt_weights::Error::io(&path))?;
        }
    }
    Ok(())
}

/// Puts folders back that were about to be replaced as the process was killed, before anything is looked for.
fn put_back(out: &Path) -> Result<(), Error> {
    for folder in ["best", "model"] {
        atomic::put_back(&out.join(folder))?;
    }
    Ok(checkpoint::put_back(out)?)
}

/// What `run.json` says.
fn described(description: &Description, recipe: &impl Serialize) -> Result<String, Error> {
    #[derive(Serialize)]
    struct Whole<'a, R> {
        #[serde(flatten)]
        description: &'a Description,
        recipe: &'a R,
    }
    serde_json::to_string_pretty(&Whole { description, recipe }).map_err(|e| Error::run(DESCRIPTION, e))
}

#[cfg(test)]
mod tests;
