//! Checkpoints: a folder a step, whole or absent.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use mgnt_weights::{atomic, directory};
use serde::{Deserialize, Serialize};

use crate::Error;

/// What a run consists of between two steps.
pub(crate) struct State<M> {
    pub model: M,
    pub average: M,
    pub optimizer: ModuleOptimizer,
    /// Steps done.
    pub step: usize,
    /// What the task remembers from step to step.
    pub memory: Vec<u64>,
}

/// The small part of a checkpoint.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    step: usize,
    /// What the task remembers from step to step.
    #[serde(default)]
    memory: Vec<u64>,
    /// The recipe as JSON: a run is resumed with the recipe that it began with.
    recipe: String,
}

const HEADER: &str = "state.ron";

/// Writes a checkpoint and removes all but the newest `keep`.
pub(crate) fn save<M: Module>(run: &Path, state: &State<M>, recipe: &str, keep: usize) -> Result<(), Error> {
    let all = run.join("checkpoints");
    let folder = all.join(format!("step-{:08}", state.step));
    atomic::write_folder(&folder, |folder| {
        let failed = |e: burn::store::RecordError| Error::run(folder, format!("{e:?}"));
        state.model.clone().into_record().save(folder.join("model.bpk")).map_err(failed)?;
        state.average.clone().into_record().save(folder.join("average.bpk")).map_err(failed)?;
        state.optimizer.to_record().save(folder.join("optimizer.bpk")).map_err(failed)?;
        for file in ["model.bpk", "average.bpk", "optimizer.bpk"] {
            let path = folder.join(file);
            fs::File::open(&path).and_then(|f| f.sync_all()).map_err(mgnt_weights::Error::io(&path))?;
        }
        let header = Header { step: state.step, memory: state.memory.clone(), recipe: recipe.into() };
        Ok::<_, Error>(directory::write_ron(&folder.join(HEADER), &header)?)
    })?;
    let found = list(&all)?;
    for old in &found[..found.len().saturating_sub(keep)] {
        fs::remove_dir_all(old).map_err(mgnt_weights::Error::io(old))?;
    }
    Ok(())
}

/// Whether a run has any checkpoint, damaged or not.
pub(crate) fn any(run: &Path) -> Result<bool, Error> {
    Ok(!list(&run.join("checkpoints"))?.is_empty())
}

/// Fills `state` from the newest readable checkpoint; `false` where there is none. A damaged one is passed over with
/// a warning, and the one before it is taken.
pub(crate) fn load_newest<M: Module>(run: &Path, state: &mut State<M>, recipe: &str) -> Result<bool, Error> {
    for folder in list(&run.join("checkpoints"))?.iter().rev() {
        match load(folder, state, recipe) {
            Ok(()) => return Ok(true),
            Err(error @ Error::Run { .. }) => return Err(error),
            Err(error) => tracing::warn!("{} is damaged and passed over: {error}", folder.display()),
        }
    }
    Ok(false)
}

fn load<M: Module>(folder: &Path, state: &mut State<M>, recipe: &str) -> Result<(), Error> {
    let header: Header = directory::read_ron(&folder.join(HEADER))?;
    if header.recipe != recipe {
        let reason = "the run was begun with another recipe; resume with that one, or choose another --out";
        return Err(Error::run(folder, reason));
    }
    let module = |file: &str| {
        let path = folder.join(file);
        ModuleRecord::load(&path).map_err(|e| damaged(&path, e))
    };
    let (model, average) = (module("model.bpk")?, module("average.bpk")?);
    let path = folder.join("optimizer.bpk");
    let optimizer = OptimizerRecord::load(&path).map_err(|e| damaged(&path, e))?;
    let load = |old: &M, new| old.clone().try_load_record(new).map_err(|e| damaged(folder, e));
    let (model, average) = (load(&state.model, model)?, load(&state.average, average)?);
    state.model = model;
    state.average = average;
    state.optimizer = state.optimizer.clone().load_record(optimizer);
    state.step = header.step;
    state.memory = header.memory;
    Ok(())
}

fn damaged(path: &Path, error: impl std::fmt::Debug) -> Error {
    let reason = format!("{error:?}");
    mgnt_weights::Error::Format { path: path.into(), format: "burnpack", reason }.into()
}

/// Checkpoint folders, oldest first.
fn list(all: &Path) -> Result<Vec<PathBuf>, Error> {
    if !all.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(all).map_err(mgnt_weights::Error::io(all))? {
        let path = entry.map_err(mgnt_weights::Error::io(all))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.strip_prefix("step-").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit())) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
