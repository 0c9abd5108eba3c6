//! Checkpoints: a folder a step, whole or absent, with checksums that tell when it is damaged.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::{ModuleRecord, RecordError};
use mgnt_data::manifest::sha256_of_file;
use mgnt_weights::{atomic, directory};
use serde::{Deserialize, Serialize};

use crate::event::Warning;
use crate::identity::{Difference, Identity};
use crate::{Error, Optimization};

/// What a run consists of between two steps.
pub(crate) struct State<M> {
    pub model: M,
    pub average: M,
    pub optimizer: ModuleOptimizer,
    pub progress: Progress,
}

/// The small part of a run's state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Progress {
    /// Steps done, skipped ones too.
    pub step: usize,
    /// Steps skipped because loss or gradient was not finite.
    pub skipped: usize,
    /// Those of them in a row up to here.
    pub skipped_in_a_row: usize,
    /// Score of the model in `best/`.
    pub best: Option<f64>,
    /// What the task remembers from step to step.
    pub memory: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    progress: Progress,
    /// Recipe and data as JSON: a run is resumed with those that it began with.
    identity: String,
}

const FOLDER: &str = "checkpoints";
const MODEL: &str = "model.bpk";
const AVERAGE: &str = "average.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const HEADER: &str = "state.ron";
const FILES: [&str; 4] = [MODEL, AVERAGE, OPTIMIZER, HEADER];
/// Checksums of the files, as `sha256sum` writes and checks them.
const SUMS: &str = "SHA256SUMS";

/// Whether a run's folder has a checkpoint, whole or damaged.
pub fn has_checkpoint(run: &Path) -> Result<bool, Error> {
    Ok(!list(&run.join(FOLDER))?.is_empty())
}

/// The checkpoints of one run.
pub(crate) struct Checkpoints {
    folder: PathBuf,
    identity: Identity,
    keep: usize,
}

impl Checkpoints {
    /// Those in a run's folder.
    pub fn new(run: &Path, identity: Identity, optimization: &Optimization) -> Self {
        Self { folder: run.join(FOLDER), identity, keep: optimization.keep }
    }

    /// The folder that they lie in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes a checkpoint, then removes all but the newest ones that are to be kept. Where it fails, those before
    /// stay.
    pub fn save<M: Module>(&self, state: &State<M>) -> Result<(), Error> {
        let folder = self.folder.join(format!("step-{:08}", state.progress.step));
        atomic::write_folder(&folder, |folder| {
            let failed = |e: RecordError| Error::run(folder, e);
            // Burn syncs each file to disk.
            state.model.clone().into_record().save(folder.join(MODEL)).map_err(failed)?;
            state.average.clone().into_record().save(folder.join(AVERAGE)).map_err(failed)?;
            state.optimizer.to_record().save(folder.join(OPTIMIZER)).map_err(failed)?;
            let header = Header { progress: state.progress.clone(), identity: self.identity.to_json()? };
            directory::write_ron(&folder.join(HEADER), &header)?;
            let mut sums = String::new();
            for file in FILES {
                sums += &format!("{}  {file}\n", sha256_of_file(&folder.join(file))?);
            }
            Ok::<_, Error>(atomic::write_bytes(&folder.join(SUMS), sums.as_bytes())?)
        })?;
        let found = list(&self.folder)?;
        for old in &found[..found.len().saturating_sub(self.keep)] {
            fs::remove_dir_all(old).map_err(mgnt_weights::Error::io(old))?;
        }
        Ok(())
    }

    /// Step of the newest checkpoint, whole or not.
    pub fn newest(&self) -> Result<Option<usize>, Error> {
        let step = |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok();
        Ok(list(&self.folder)?.last().and_then(step))
    }

    /// Fills `state` from the newest whole checkpoint; `false` where there is none. A damaged one is set aside, with
    /// a warning, and the one before it is taken.
    pub fn load_newest<M: Module>(
        &self,
        state: &mut State<M>,
        warn: &mut dyn FnMut(Warning),
    ) -> Result<bool, Error> {
        for folder in list(&self.folder)?.iter().rev() {
            let Some(reason) = damage(folder) else {
                self.load(folder, state)?;
                return Ok(true);
            };
            // Out of the way of the count of kept ones, but there for who wants to look.
            let aside = folder.with_extension("damaged");
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(mgnt_weights::Error::io(&aside))?;
            }
            fs::rename(folder, &aside).map_err(mgnt_weights::Error::io(folder))?;
            warn(Warning::Damaged { path: aside, reason });
        }
        Ok(false)
    }

    fn load<M: Module>(&self, folder: &Path, state: &mut State<M>) -> Result<(), Error> {
        let path = folder.join(HEADER);
        let header: Header = directory::read_ron(&path)?;
        let before = Identity::from_json(&header.identity).map_err(|e| Error::run(&path, e))?;
        if let Some(Difference { field, before, now }) = self.identity.difference(&before) {
            return Err(Error::Resume { path: self.folder.clone(), field, before, now });
        }
        let module = |file: &str, old: &M| {
            let path = folder.join(file);
            let record = ModuleRecord::load(&path).map_err(|e| Error::run(&path, e))?;
            old.clone().try_load_record(record).map_err(|e| Error::run(&path, e))
        };
        let path = folder.join(OPTIMIZER);
        let optimizer = OptimizerRecord::load(&path).map_err(|e| Error::run(&path, e))?;
        (state.model, state.average) = (module(MODEL, &state.model)?, module(AVERAGE, &state.average)?);
        state.optimizer = state.optimizer.clone().load_record(optimizer);
        state.progress = header.progress;
        Ok(())
    }
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

/// What is wrong with the files of a checkpoint, if anything is.
fn damage(folder: &Path) -> Option<String> {
    let sums = match fs::read_to_string(folder.join(SUMS)) {
        Ok(sums) => sums,
        Err(error) => return Some(format!("{SUMS}: {error}")),
    };
    FILES.into_iter().find_map(|file| {
        let sum = sums.lines().find_map(|line| line.strip_suffix(file)?.strip_suffix("  "));
        match sha256_of_file(&folder.join(file)) {
            Err(error) => Some(error.to_string()),
            Ok(found) if Some(found.as_str()) != sum => Some(format!("{file} has another checksum")),
            Ok(_) => None,
        }
    })
}
