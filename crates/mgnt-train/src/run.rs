//! The step-counted loop around every task.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use mgnt_weights::atomic;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, State};
use crate::optimizer::{adamw, clip_global_norm, learning_rate};
use crate::{Error, Optimization, ema, part};

/// Figures for the log, by name.
pub type Figures = Vec<(String, f64)>;

/// What the loop trains: a model, and what one step of it computes.
///
/// Everything random in it must be a function of the step and the recipe's seed, or be drawn from the device.
pub trait Task: Sync {
    /// The module that is trained.
    type Model: Module + Sync;
    /// What a part leaves for the work between two steps.
    type Extra: Send;

    /// The module before the first step, on a device with a tape.
    fn initial(&self, device: &Device) -> Result<Self::Model, Error>;

    /// Whether a step draws random numbers from the device, as dropout does.
    fn draws_on_device(&self) -> bool;

    /// The share of the loss of step `step`, 0-based, that these places of its batch make. Shares of all places add
    /// up to the loss of the whole batch.
    fn part(
        &self,
        model: &Self::Model,
        step: usize,
        places: Range<usize>,
    ) -> Result<PartOutput<Self::Extra>, Error>;

    /// A change of the model after a step that is no gradient's, and figures of the whole step.
    fn between(
        &mut self,
        model: Self::Model,
        step: usize,
        extras: Vec<Self::Extra>,
    ) -> Result<(Self::Model, Figures), Error> {
        let _ = (step, extras);
        Ok((model, Vec::new()))
    }

    /// What it remembers from step to step besides the model, for checkpoints.
    fn memory(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Goes on with what [`Task::memory`] gave.
    fn recall(&mut self, memory: &[u64]) {
        let _ = memory;
    }

    /// Figures of the averaged model on data that is not trained on, by name.
    fn validate(&self, average: &Self::Model) -> Result<Figures, Error>;

    /// Writes the averaged model as a model directory.
    fn export(&self, average: &Self::Model, folder: &Path) -> Result<(), Error>;
}

/// What a part of a step computed.
#[derive(Debug)]
pub struct PartOutput<E> {
    /// Its share of what is minimised, `[1]`.
    pub loss: Tensor<1>,
    /// Its share of parts of the loss and other figures for the log, by name.
    pub figures: Vec<(String, Tensor<1>)>,
    /// For [`Task::between`].
    pub extra: E,
}

/// Where and how a task is run.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions<'a> {
    /// The device, without a tape.
    pub device: &'a Device,
    /// The run's folder.
    pub out: &'a Path,
    /// Continue the newest checkpoint; without, there must be none.
    pub resume: bool,
    /// Compute the parts of a step in a thread each: right for CPUs.
    pub side_by_side: bool,
    /// Looked at between steps: whether to save and stop.
    pub stop: &'a AtomicBool,
}

/// One line of a run's log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Learning rate of the last of them; absent in a validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Seconds a step since the last line; absent in a validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_a_step: Option<f64>,
    /// Figures by name; those of a validation begin with `validation_`.
    #[serde(flatten)]
    pub figures: std::collections::BTreeMap<String, f64>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All steps were done.
    Finished,
    /// It was asked to stop after this many steps, and can be resumed.
    Interrupted(usize),
}

/// Steps in a row whose loss or gradient may be infinite before the run gives up.
const TOLERATED: usize = 10;

/// Runs a task in its folder: `metrics.jsonl`, `checkpoints/`, and at the end `model/` with the averaged weights.
///
/// `recipe` is the whole recipe, kept in each checkpoint so that no other can continue it.
pub fn run<T: Task>(
    task: &mut T,
    optimization: &Optimization,
    recipe: &impl Serialize,
    options: RunOptions,
    watch: &mut dyn FnMut(&Event),
) -> Result<Outcome, Error> {
    let RunOptions { device, out, resume, side_by_side, stop } = options;
    let recipe = serde_json::to_string(recipe).map_err(|e| Error::run(out, e))?;
    fs::create_dir_all(out).map_err(mgnt_weights::Error::io(out))?;
    let model = task.initial(&device.clone().autodiff())?;
    let mut state =
        State { average: model.valid(), model, optimizer: adamw(optimization)?, step: 0, memory: Vec::new() };
    if resume {
        if !checkpoint::load_newest(out, &mut state, &recipe)? {
            return Err(Error::run(out, "there is no checkpoint to resume"));
        }
        task.recall(&state.memory);
    } else if checkpoint::any(out)? {
        return Err(Error::run(out, "holds a run already; --resume continues it"));
    }

    let mut log = Log::open(out, state.step, watch)?;
    let (mut clock, mut counted, mut not_finite) = (Instant::now(), 0, 0);
    while state.step < optimization.steps {
        let step = state.step;
        let mut computed = part::compute(task, &state.model, optimization, step, device, side_by_side)?;
        let rate = learning_rate(optimization, step);
        let loss = computed.loss;
        let norm = clip_global_norm(&state.model, &mut computed.gradients, optimization.clip_norm);
        if loss.is_finite() && norm.is_finite() {
            state.model = state.optimizer.step(rate, state.model, computed.gradients);
            not_finite = 0;
        } else {
            not_finite += 1;
            tracing::warn!("step {step}: loss {loss}, gradient norm {norm}; the step is skipped");
            if not_finite == TOLERATED {
                return Err(Error::NotFinite { step, times: not_finite });
            }
        }
        let numbers;
        (state.model, numbers) = task.between(state.model, step, computed.extras)?;
        let decay = ema::decay_at(optimization.ema_decay, step);
        state.average = ema::update(state.average, &state.model.valid(), decay);
        state.step += 1;
        counted += 1;

        let last = state.step == optimization.steps;
        if state.step.is_multiple_of(optimization.log_every) || last {
            let mut figures = vec![("loss".to_owned(), loss), ("gradient_norm".to_owned(), norm)];
            figures.extend(computed.figures);
            figures.extend(numbers);
            let seconds = clock.elapsed().as_secs_f64() / f64::from(counted);
            log.write(&state, optimization, Some((rate, seconds)), figures)?;
            (clock, counted) = (Instant::now(), 0);
        }
        if state.step.is_multiple_of(optimization.validate_every) || last {
            let figures = task.validate(&state.average)?;
            let named = figures.into_iter().map(|(name, value)| (format!("validation_{name}"), value));
            log.write(&state, optimization, None, named.collect())?;
            (clock, counted) = (Instant::now(), 0);
        }
        let stopped = stop.load(Ordering::Relaxed);
        if state.step.is_multiple_of(optimization.checkpoint_every) || last || stopped {
            state.memory = task.memory();
            checkpoint::save(out, &state, &recipe, optimization.keep)?;
        }
        if stopped && !last {
            return Ok(Outcome::Interrupted(state.step));
        }
    }
    task.export(&state.average, &out.join("model"))?;
    Ok(Outcome::Finished)
}

pub(crate) fn number(tensor: Tensor<1>) -> Result<f64, Error> {
    let value = tensor.try_into_scalar::<f32>().map_err(|e| Error::Device(format!("{e:?}")))?;
    Ok(f64::from(value))
}

struct Log<'a> {
    file: fs::File,
    path: std::path::PathBuf,
    watch: &'a mut dyn FnMut(&Event),
}

impl<'a> Log<'a> {
    /// Opens the log of a run that has done `steps` steps: lines of later ones, whose work was lost, are dropped.
    fn open(out: &Path, steps: usize, watch: &'a mut dyn FnMut(&Event)) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Line {
            step: usize,
        }
        let path = out.join("metrics.jsonl");
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(mgnt_weights::Error::io(&path))?;
            let done =
                |line: &&str| serde_json::from_str::<Line>(line).is_ok_and(|l| l.step <= steps && steps > 0);
            let kept: String = text.lines().filter(done).map(|line| format!("{line}\n")).collect();
            atomic::write_bytes(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(mgnt_weights::Error::io(&path))?;
        Ok(Self { file, path, watch })
    }

    fn write<M>(
        &mut self,
        state: &State<M>,
        optimization: &Optimization,
        pace: Option<(f64, f64)>,
        figures: Figures,
    ) -> Result<(), Error> {
        let event = Event {
            step: state.step,
            steps: optimization.steps,
            learning_rate: pace.map(|p| p.0),
            seconds_a_step: pace.map(|p| p.1),
            figures: figures.into_iter().collect(),
        };
        let line = serde_json::to_string(&event).map_err(|e| Error::run(&self.path, e))?;
        writeln!(self.file, "{line}").map_err(mgnt_weights::Error::io(&self.path))?;
        (self.watch)(&event);
        Ok(())
    }
}
