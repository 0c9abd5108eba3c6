//! Checkpoints: a folder a step, whole or absent, with checksums that tell when it is damaged.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender};

use burn::module::{Module, ModuleDisplay};
use burn::optim::lr_scheduler::LrSchedulerRecord;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::{ModuleRecord, RecordError};
use burn::train::checkpoint::{
    Checkpoint, Checkpointer, CheckpointerError, CheckpointingAction, CheckpointingStrategy,
};
use burn::train::metric::store::EventStoreClient;
use mgnt_data::manifest::sha256_of_file;
use mgnt_weights::{atomic, directory};
use serde::{Deserialize, Serialize};

use crate::event::Warning;
use crate::identity::{Difference, Identity};
use crate::learner::Trainee;
use crate::watch::{step_name, step_number};
use crate::{Error, Optimization};

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
    /// The validation after this step failed, and is still to come.
    #[serde(default)]
    pub unvalidated: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    progress: Progress,
    /// Recipe and data as JSON: a run is resumed with those that it began with.
    identity: String,
}

pub(crate) const FOLDER: &str = "checkpoints";
/// The model and its average.
const MODEL: &str = "model.bpk";
const OPTIMIZER: &str = "optimizer.bpk";
const SCHEDULE: &str = "schedule.bpk";
const HEADER: &str = "state.ron";
/// Ending of a checkpoint that was set aside.
const DAMAGED: &str = "damaged";
const FILES: [&str; 4] = [MODEL, OPTIMIZER, SCHEDULE, HEADER];
/// Checksums of the files, as `sha256sum` writes and checks them.
const SUMS: &str = "SHA256SUMS";

/// Whether a run's folder has a checkpoint, whole or damaged.
pub fn has_checkpoint(run: &Path) -> Result<bool, Error> {
    Ok(!list(&run.join(FOLDER))?.is_empty())
}

/// Whether a run's folder has a damaged checkpoint that was set aside.
pub(crate) fn has_damaged(run: &Path) -> bool {
    let entries = fs::read_dir(run.join(FOLDER)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        path.extension().is_some_and(|ending| ending == DAMAGED)
            && step_of(&path.with_extension("")).is_some()
    })
}

/// Removes what a process that was killed left of checkpoints that it wrote.
pub(crate) fn remove_leftovers(run: &Path) -> Result<(), mgnt_weights::Error> {
    atomic::remove_leftovers_of(&run.join(FOLDER), |name| step_of(Path::new(name)).is_some())
}

/// Puts checkpoints of a run's folder back that were about to be replaced as the process was killed.
pub(crate) fn put_back(run: &Path) -> Result<(), mgnt_weights::Error> {
    let folder = run.join(FOLDER);
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let place = name.to_str().and_then(atomic::leftover_of).map(|name| folder.join(name));
        if let Some(place) = place.filter(|place| step_of(place).is_some()) {
            atomic::put_back(&place)?;
        }
    }
    Ok(())
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

    /// Writes a checkpoint of the three records that were handed over. Where it fails, those before stay.
    pub fn save(&self, records: &Receiver<Record>, progress: &Progress) -> Result<(), Error> {
        // Taken in any case: a folder that cannot be made must not leave them to the next checkpoint.
        let records: Vec<Record> = records.iter().take(3).collect();
        let folder = self.folder.join(step_name(progress.step));
        atomic::write_folder(&folder, |folder| {
            let failed = |e: RecordError| Error::run(folder, e);
            // Burn syncs each file to disk.
            for record in records {
                match record {
                    Record::Model(record) => record.save(folder.join(MODEL)),
                    Record::Optimizer(record) => record.save(folder.join(OPTIMIZER)),
                    Record::Schedule(record) => record.save(folder.join(SCHEDULE)),
                }
                .map_err(failed)?;
            }
            let header = Header { progress: progress.clone(), identity: self.identity.to_json()? };
            directory::write_ron(&folder.join(HEADER), &header)?;
            let mut sums = String::new();
            for file in FILES {
                sums += &format!("{}  {file}\n", sha256_of_file(&folder.join(file))?);
            }
            Ok::<_, Error>(atomic::write_bytes(&folder.join(SUMS), sums.as_bytes())?)
        })
    }

    /// Removes all but the newest ones that are to be kept.
    pub fn remove_older(&self) -> Result<(), Error> {
        let found = list(&self.folder)?;
        let older = found[..found.len().saturating_sub(self.keep)].iter();
        // One that stays is no reason for the others to.
        let removed: Vec<Result<(), mgnt_weights::Error>> =
            older.map(|old| atomic::remove_folder(old)).collect();
        Ok(removed.into_iter().collect::<Result<(), _>>()?)
    }

    /// Step of the newest checkpoint, whole or not.
    pub fn newest(&self) -> Result<Option<usize>, Error> {
        Ok(list(&self.folder)?.last().and_then(|path| step_of(path)))
    }

    /// Fills `start` from the newest whole checkpoint; `None` where there is none. A damaged one is set aside, with a
    /// warning, and the one before it is taken.
    pub fn load_newest<M: Module + ModuleDisplay>(
        &self,
        start: &Start<M>,
        warn: &mut dyn FnMut(Warning),
    ) -> Result<Option<Start<M>>, Error> {
        for folder in list(&self.folder)?.iter().rev() {
            let Some(reason) = damage(folder)? else {
                return self.load(folder, start.clone()).map(Some);
            };
            // Out of the way of the count of kept ones, but there for who wants to look.
            let aside = folder.with_extension(DAMAGED);
            if aside.exists() {
                fs::remove_dir_all(&aside).map_err(mgnt_weights::Error::io(&aside))?;
            }
            fs::rename(folder, &aside).map_err(mgnt_weights::Error::io(folder))?;
            warn(Warning::Damaged { path: aside, reason });
        }
        Ok(None)
    }

    fn load<M: Module + ModuleDisplay>(&self, folder: &Path, start: Start<M>) -> Result<Start<M>, Error> {
        let path = folder.join(HEADER);
        let header: Header = directory::read_ron(&path)?;
        let before = Identity::from_json(&header.identity).map_err(|e| Error::run(&path, e))?;
        if let Some(Difference { field, before, now }) = self.identity.difference(&before) {
            return Err(Error::Resume { path: self.folder.clone(), field, before, now });
        }
        let path = folder.join(MODEL);
        let record = ModuleRecord::load(&path).map_err(|e| Error::run(&path, e))?;
        let trainee = start.trainee.try_load_record(record).map_err(|e| Error::run(&path, e))?;
        let path = folder.join(OPTIMIZER);
        let record = OptimizerRecord::load(&path).map_err(|e| Error::run(&path, e))?;
        let optimizer = start.optimizer.load_record(record);
        let path = folder.join(SCHEDULE);
        let schedule = LrSchedulerRecord::load(&path).map_err(|e| Error::run(&path, e))?;
        let progress = header.progress;
        let trainee = trainee.after(progress.step - progress.skipped);
        Ok(Start { trainee, optimizer, schedule: Some(schedule), progress })
    }
}

/// What a run begins with.
#[derive(Clone)]
pub(crate) struct Start<M: Module + ModuleDisplay> {
    pub trainee: Trainee<M>,
    pub optimizer: ModuleOptimizer,
    /// Where the learning rate goes on.
    pub schedule: Option<LrSchedulerRecord>,
    pub progress: Progress,
}

/// A record of Burn's learner.
pub(crate) enum Record {
    Model(ModuleRecord),
    Optimizer(OptimizerRecord),
    Schedule(LrSchedulerRecord),
}

impl From<ModuleRecord> for Record {
    fn from(record: ModuleRecord) -> Self {
        Self::Model(record)
    }
}

impl From<OptimizerRecord> for Record {
    fn from(record: OptimizerRecord) -> Self {
        Self::Optimizer(record)
    }
}

impl From<LrSchedulerRecord> for Record {
    fn from(record: LrSchedulerRecord) -> Self {
        Self::Schedule(record)
    }
}

/// Takes records from Burn's checkpointer and hands them to the loop, which writes them as one folder: a file by file
/// checkpoint could be half of it, and an error would end the run.
#[derive(Clone)]
pub(crate) struct HandedOver(pub Sender<Record>);

impl<R: Checkpoint + Into<Record>> Checkpointer<R> for HandedOver {
    fn save(&self, _: usize, record: R) -> Result<(), CheckpointerError> {
        self.0.send(record.into()).map_err(|e| CheckpointerError::Unknown(e.to_string()))
    }

    /// Old checkpoints go when a new one is whole.
    fn delete(&self, _: usize) -> Result<(), CheckpointerError> {
        Ok(())
    }

    fn restore(&self, step: usize) -> Result<R, CheckpointerError> {
        Err(CheckpointerError::Unknown(format!("step {step}: a run is resumed before its learner is made")))
    }
}

/// The loop asks when a checkpoint is due.
pub(crate) struct WhenAsked;

impl CheckpointingStrategy for WhenAsked {
    fn checkpointing(&mut self, _: usize, _: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
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
        if let Some(step) = step_of(&path)
            && path.is_dir()
        {
            found.push((step, path));
        }
    }
    // By number: a name of more digits than others comes before them.
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The step that a checkpoint's folder is named for.
fn step_of(path: &Path) -> Option<usize> {
    step_number(path.file_name()?.to_str()?)
}

/// What is wrong with the files of a checkpoint, if anything is. A file that cannot be read says nothing about itself: another
/// try may succeed.
fn damage(folder: &Path) -> Result<Option<String>, Error> {
    let sums = folder.join(SUMS);
    let sums = match fs::read(&sums) {
        Ok(sums) => String::from_utf8_lossy(&sums).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(format!("{SUMS} is missing"))),
        Err(error) => return Err(mgnt_weights::Error::io(sums)(error).into()),
    };
    for file in FILES {
        let path = folder.join(file);
        if !path.try_exists().map_err(mgnt_weights::Error::io(&path))? {
            return Ok(Some(format!("{file} is missing")));
        }
        let sum = sums.lines().find_map(|line| line.strip_suffix(file)?.strip_suffix("  "));
        if Some(sha256_of_file(&path)?.as_str()) != sum {
            return Ok(Some(format!("{file} has another checksum")));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_that_of_the_largest_number() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step-100000000", "step-99990000", "step-00000007", "step-", "step-00000009.damaged"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let steps: Vec<_> = list(folder.path()).unwrap().iter().filter_map(|path| step_of(path)).collect();
        assert_eq!(steps, [7, 99_990_000, 100_000_000]);
    }
}
