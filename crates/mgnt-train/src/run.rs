//! The step-counted loop around every task.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Device;
use burn::train::Interrupter;
use mgnt_weights::atomic;
use serde::Serialize;

use crate::checkpoint::{Checkpoints, Progress, State};
use crate::event::{Event, Watcher};
use crate::identity::Identity;
use crate::optimizer::{adamw, clip_global_norm, learning_rate};
use crate::part::{Computed, Workers};
use crate::task::{Description, Task};
use crate::teller::Teller;
use crate::{Error, Optimization, ema, part};

/// Where and how a task is run.
#[derive(Clone, Copy)]
pub struct RunOptions<'a> {
    /// The device of the model and its optimiser, without a tape.
    pub device: &'a Device,
    /// Further devices, which take turns with the first in computing the parts of a step.
    pub others: &'a [Device],
    /// The run's folder.
    pub out: &'a Path,
    /// Continue the newest checkpoint; without, there must be none.
    pub resume: bool,
    /// Compute the parts of a step in a thread each: right for CPUs.
    pub side_by_side: bool,
    /// Looked at between steps: whether to save and stop.
    pub stop: &'a Interrupter,
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
/// Only one process at a time can do so. A run is resumed with the recipe and the data that it began with, which each
/// checkpoint names.
pub fn run<T: Task>(
    task: &mut T,
    optimization: &Optimization,
    recipe: &impl Serialize,
    options: RunOptions,
    watcher: &mut dyn Watcher<T::Model>,
) -> Result<Outcome, Error> {
    let RunOptions { device, others, out, resume, side_by_side, stop } = options;
    if optimization.parts <= others.len() {
        return Err(Error::Recipe {
            field: "optimization.parts".into(),
            expected: format!("{} at least, one a device", others.len() + 1),
            got: optimization.parts.to_string(),
        });
    }
    fs::create_dir_all(out).map_err(mgnt_weights::Error::io(out))?;
    let _lock = lock(out)?;
    let description = task.describe()?;
    let checkpoints = Checkpoints::new(out, Identity::new(recipe, &description.data)?, optimization);
    let model = task.initial(&part::taped(device, optimization))?;
    let optimizer = adamw(optimization)?;
    let mut state = State { average: model.valid(), model, optimizer, progress: Progress::default() };
    if resume {
        let found =
            checkpoints.load_newest(&mut state, &mut |warning| watcher.event(&Event::Warning(warning)))?;
        if !found {
            return Err(Error::run(out, "there is no checkpoint to resume"));
        }
        task.recall(&state.progress.memory);
    } else {
        if checkpoints.newest()?.is_some() {
            return Err(Error::run(out, "holds a run already; --resume continues it"));
        }
        write_description(out, &description, recipe)?;
    }
    remove_leftovers(out)?;
    remove_leftovers(checkpoints.folder())?;
    let tokens_a_step = optimization.batch * description.tokens_a_sample;
    watcher.event(&Event::Started {
        step: state.progress.step,
        steps: optimization.steps,
        samples_a_step: optimization.batch,
        tokens_a_step,
    });

    let workers = Workers { home: device, others, side_by_side };
    let mut teller = Teller::new(out, state.progress.step, optimization.steps, tokens_a_step, watcher)?;
    while state.progress.step < optimization.steps {
        let step = state.progress.step;
        let mut computed = part::compute(task, &state.model, optimization, step, &workers)?;
        let norm = clip_global_norm(&state.model, &mut computed.gradients, optimization.clip_norm);
        let Computed { loss, gradients, mut figures, extras } = computed;
        let rate = learning_rate(optimization, step);
        if loss.is_finite() && norm.is_finite() {
            state.model = state.optimizer.step(rate, state.model, gradients);
            let numbers;
            (state.model, numbers) = task.between(state.model, step, extras)?;
            figures.extend(numbers);
            let decay = ema::decay_at(optimization.ema_decay, step);
            state.average = ema::update(state.average, &state.model.valid(), decay);
            state.progress.skipped_in_a_row = 0;
        } else {
            state.progress.skipped += 1;
            state.progress.skipped_in_a_row += 1;
            let in_a_row = state.progress.skipped_in_a_row;
            teller.skipped(step, loss, norm, in_a_row, optimization.not_finite_limit, task.items(step));
            if in_a_row == optimization.not_finite_limit {
                return Err(Error::NotFinite { step, times: in_a_row });
            }
        }
        state.progress.step += 1;
        teller.counted += 1;

        let done = state.progress.step;
        let last = done == optimization.steps;
        if done.is_multiple_of(optimization.log_every) || last {
            figures.extend([("loss".to_owned(), loss), ("gradient_norm".to_owned(), norm)]);
            if state.progress.skipped > 0 {
                figures.push(("skipped".to_owned(), state.progress.skipped as f64));
            }
            teller.trained(done, rate, figures);
        }
        if done.is_multiple_of(optimization.validate_every) || last {
            let figures = task.validate(&state.average)?;
            let score = task.score(&figures).filter(|score| score.is_finite());
            teller.validated(done, figures);
            if let Some(score) = score.filter(|&score| state.progress.best.is_none_or(|best| score < best)) {
                match task.export(&state.average, &out.join("best")) {
                    Ok(()) => {
                        state.progress.best = Some(score);
                        teller.watcher.event(&Event::Best { step: done, score });
                    }
                    Err(error) => teller.not_saved(done, error, &checkpoints)?,
                }
            }
        }
        if optimization.draw_every > 0 && done.is_multiple_of(optimization.draw_every) {
            teller.draw(done, &state.average);
        }
        let stopped = stop.should_stop();
        if done.is_multiple_of(optimization.checkpoint_every) || last || stopped {
            state.progress.memory = task.memory();
            let clock = Instant::now();
            match checkpoints.save(&state) {
                Ok(()) => {
                    let seconds = clock.elapsed().as_secs_f64();
                    teller.watcher.event(&Event::Saved { step: done, seconds });
                }
                Err(error) if stopped && !last => return Err(error),
                Err(error) => teller.not_saved(done, error, &checkpoints)?,
            }
        }
        if stopped && !last {
            return Ok(Outcome::Interrupted(done));
        }
    }
    task.export(&state.average, &out.join("model"))?;
    Ok(Outcome::Finished)
}

/// Holds a run's folder for this process, for as long as the file is open.
fn lock(out: &Path) -> Result<File, Error> {
    let path = out.join("lock");
    let file = File::create(&path).map_err(mgnt_weights::Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::run(out, "another process trains in this folder")),
        Err(TryLockError::Error(error)) => Err(mgnt_weights::Error::io(&path)(error).into()),
    }
}

/// Removes what a process that was killed left half-written.
fn remove_leftovers(folder: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().ends_with(".tmp")) {
        let path = entry.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(mgnt_weights::Error::io(&path))?;
    }
    Ok(())
}

/// Writes `run.json`.
fn write_description(out: &Path, description: &Description, recipe: &impl Serialize) -> Result<(), Error> {
    #[derive(Serialize)]
    struct Whole<'a, R> {
        #[serde(flatten)]
        description: &'a Description,
        recipe: &'a R,
    }
    let path = out.join("run.json");
    let text = serde_json::to_string_pretty(&Whole { description, recipe });
    let text = text.map_err(|e| Error::run(&path, e))?;
    Ok(atomic::write_bytes(&path, text.as_bytes())?)
}

#[cfg(test)]
mod tests;
