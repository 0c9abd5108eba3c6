//! Stores in the making: shards that are done outlive the process that made them.
//!
//! Beside the store that is to be, `<store>.part` has `plan.json` (what is made, so that nothing else is continued),
//! `store/` (shards, each renamed into place when it is whole), `done/` (a record a shard, written after it) and
//! `lock`. At the end the manifest is written, with a copy as `manifest.json`; `store/` becomes `ready/`, and that takes the place
//! of an older store. By the copy whoever comes after a stop there knows which of the two is the new one.
//! A folder without a plan is not ours, and whatever else lies beside our own files stays. Where the store's place is a
//! link, all this is beside the folder that it leads to: a folder can be renamed within one file system only.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use mgnt_weights::atomic::{self, Lock};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::manifest::{self, MANIFEST, REJECTED, Rejected, ShardEntry, StoreKind};

const PLAN: &str = "plan.json";
const LOCK: &str = "lock";

/// A store that is being made.
#[derive(Debug)]
pub(crate) struct Unfinished {
    out: PathBuf,
    kind: StoreKind,
    part: PathBuf,
    /// Held, so that no second process writes here; the system lets go of it when the process ends.
    lock: Lock,
}

/// What is remembered of a finished shard besides its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The shard's entry in the manifest; none where every file of it was rejected.
    pub shard: Option<ShardEntry>,
    /// Bytes of the shard's file.
    pub bytes: u64,
    /// Files that were to be in it and were left out.
    pub rejected: Vec<Rejected>,
    /// What tells whether the files it was made of have changed since; none where the plan tells it of all shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
}

impl Unfinished {
    /// Continues a store of this plan, or starts one. What is at `out` and no store of this kind is left alone.
    pub fn open(out: &Path, kind: StoreKind, plan: &impl Serialize) -> Result<Self, Error> {
        put_back(out)?;
        let out = &atomic::named_folder(out)?;
        check_place(out, kind)?;
        let part = part_of(out);
        check_part(&part)?;
        let lock = hold(&part)?;
        let unfinished = Self { out: out.into(), kind, part, lock };
        unfinished.agree(plan)?;
        Ok(unfinished)
    }

    /// Fails where the folder was removed, or is another's, since it was opened: before anything is written there.
    pub fn check(&self) -> Result<(), Error> {
        Ok(self.lock.check()?)
    }

    fn agree(&self, plan: &impl Serialize) -> Result<(), Error> {
        let path = self.part.join(PLAN);
        let text = serde_json::to_string_pretty(plan).map_err(|e| Error::store(&path, "plan", "JSON", e))?;
        // Of one who was killed over the plan, or as the store took its place.
        atomic::remove_leftovers_of(&self.part, |name| [PLAN, MANIFEST].contains(&name))?;
        match fs::read_to_string(&path) {
            Ok(old) if old == text => {}
            Ok(_) => return Err(Error::OtherPlan { path: self.part.clone() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                atomic::write_bytes(&path, text.as_bytes())?;
            }
            Err(error) => return Err(Error::io(&path)(error)),
        }
        self.take_back()?;
        remove_folder(&self.part.join("ready"))?;
        for folder in [self.folder(), self.part.join("done")] {
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            atomic::remove_leftovers(&folder)?;
        }
        Ok(())
    }

    /// Takes back a whole store that was stopped on its way into its place: it need not be made again. One that has come there, before
    /// this folder was gone, stays, and its shards are here by other names of the same files.
    fn take_back(&self) -> Result<(), Error> {
        let Ok(manifest) = fs::read(self.part.join(MANIFEST)) else { return Ok(()) };
        let (folder, ready) = (self.folder(), self.part.join("ready"));
        let is_new = |place: &Path| fs::read(place.join(MANIFEST)).is_ok_and(|found| found == manifest);
        if folder.exists() {
            return Ok(());
        }
        match (is_new(&ready), is_new(&self.out)) {
            // An older store may be the same to the byte, but for its damage: which of the two is the new one does not show, so that
            // all is made again.
            (true, true) => remove_folder(&self.part.join("done"))?,
            (true, false) => fs::rename(&ready, &folder).map_err(Error::io(&ready))?,
            (false, true) => {
                fs::create_dir(&folder).map_err(Error::io(&folder))?;
                // A shard that has no other name here is made again.
                for name in names(&self.out)?.iter().filter(|name| self.kind.is_shard(name)) {
                    let _ = fs::hard_link(self.out.join(name), folder.join(name));
                }
            }
            (false, false) => {}
        }
        Ok(())
    }

    /// Where shards are written.
    pub fn folder(&self) -> PathBuf {
        self.part.join("store")
    }

    fn record_path(&self, number: usize) -> PathBuf {
        self.part.join("done").join(format!("{number:05}.json"))
    }

    /// The record of a shard, if it is finished.
    pub fn record(&self, number: usize) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.record_path(number)).ok()?).ok()?;
        if let Some(shard) = &record.shard {
            // The checksum was computed from what was written and synced; to read every shard again would take long.
            let length = fs::metadata(self.folder().join(&shard.file)).ok()?.len();
            return (length == record.bytes).then_some(record);
        }
        Some(record)
    }

    /// Remembers that a shard is finished; its file must be in place.
    pub fn finish_shard(&self, number: usize, record: &Record) -> Result<(), Error> {
        self.check()?;
        let path = self.record_path(number);
        let text = serde_json::to_vec(record).map_err(|e| Error::store(&path, "record", "JSON", e))?;
        Ok(atomic::write_bytes(&path, &text)?)
    }

    /// Writes the manifest and moves the store into its place; an older one is replaced. Where that fails, what is
    /// finished stays finished.
    pub fn publish(self, manifest: &impl Serialize) -> Result<(), Error> {
        // Hours may have passed, and others may have written there.
        self.check()?;
        check_place(&self.out, self.kind)?;
        manifest::write(&self.folder(), manifest)?;
        self.put_into_place(atomic::replace_folder)?;
        // The store is whole and in its place, whatever becomes of the rest.
        if let Err(error) = self.clean_up() {
            tracing::warn!("{error}: what is left in {} is of no use any more", self.part.display());
        }
        Ok(())
    }

    fn put_into_place(
        &self,
        replace: impl FnOnce(&Path, &Path, &Path) -> Result<(), mgnt_weights::Error>,
    ) -> Result<(), Error> {
        let folder = self.folder();
        let manifest_in = |folder: &Path| fs::read(folder.join(MANIFEST)).map_err(Error::io(folder));
        let manifest = manifest_in(&folder)?;
        atomic::write_bytes(&self.part.join(MANIFEST), &manifest)?;
        // Under a name of its own: two stores change places, and no shard of the older one may be taken for a finished one.
        let ready = self.part.join("ready");
        fs::rename(&folder, &ready).map_err(Error::io(&ready))?;
        replace(&ready, &self.out, &self.part.join("old")).map_err(|error| {
            // An older store may be the same to the byte, but for its damage: the new one is here where it has not left.
            if manifest_in(&ready).is_ok_and(|found| found == manifest) {
                // The first error is the one to tell.
                let _ = fs::rename(&ready, &folder);
            }
            error.into()
        })
    }

    /// Removes what is ours, the plan last, without which nothing here would be taken for ours.
    fn clean_up(&self) -> Result<(), Error> {
        for name in ["old", "ready", "store", "done"] {
            remove_folder(&self.part.join(name))?;
        }
        for name in [MANIFEST, PLAN, LOCK] {
            let path = self.part.join(name);
            fs::remove_file(&path).map_err(Error::io(&path))?;
        }
        match fs::remove_dir(&self.part) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {
                tracing::warn!("{}: holds files of others, and stays", self.part.display());
                Ok(())
            }
            removed => removed.map_err(Error::io(&self.part)),
        }
    }
}

/// Where a store is made that is to be at `out`.
fn part_of(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    out.with_file_name(name)
}

/// Keeps other processes out of a folder, which is made.
fn hold(part: &Path) -> Result<Lock, Error> {
    atomic::lock(&part.join(LOCK))?.ok_or_else(|| Error::Busy { path: part.into() })
}

/// Puts a store back whose process was killed when it was out of its place and the new one not yet there. Where its place
/// is a link, that leads to nothing meanwhile.
pub(crate) fn put_back(out: &Path) -> Result<(), Error> {
    let out = atomic::end_of_links(out);
    let part = part_of(&out);
    let old = part.join("old");
    let is_left = || !out.exists() && old.exists();
    if out.file_name().is_some() && part.join(PLAN).exists() && is_left() {
        let _lock = hold(&part)?;
        if is_left() {
            fs::rename(&old, &out).map_err(Error::io(&old))?;
        }
    }
    Ok(())
}

fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(Error::io(folder)),
    }
}

/// Refuses an unfinished store's folder that holds something and no plan: somebody else's.
fn check_part(part: &Path) -> Result<(), Error> {
    if part.join(PLAN).exists() {
        return Ok(());
    }
    // Whoever was killed before the plan was there, or when it was gone, left these at most.
    let is_ours = |name: &str| {
        name == LOCK || atomic::leftover_of(name).is_some_and(|of| [PLAN, MANIFEST].contains(&of))
    };
    match names(part)?.iter().find(|name| !is_ours(name)) {
        Some(other) => {
            let got = format!("`{other}` and no {PLAN}; move it away, or write to another place");
            Err(Error::store(part, "folder", "an unfinished store, or nothing", got))
        }
        None => Ok(()),
    }
}

/// Names of what lies in a folder; none if it is not there.
fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder)(error)),
    };
    entries
        .map(|entry| Ok(entry.map_err(Error::io(folder))?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Refuses a place that holds anything but a store of this kind, or that no folder can be renamed to.
fn check_place(out: &Path, kind: StoreKind) -> Result<(), Error> {
    atomic::named_folder(out)?;
    let refuse = |got: String| {
        let expected = format!("an empty one, or {} to replace", kind.name());
        Err(Error::store(out, "folder", expected, got))
    };
    if is_mount_point(out)? {
        return refuse("a mount point, which cannot be replaced; name a folder within it".into());
    }
    let names = names(out)?;
    match StoreKind::of(out) {
        None if names.is_empty() => Ok(()),
        None => refuse("other files".into()),
        Some(other) if other != kind => refuse(other.name().into()),
        Some(_) => {
            let is_ours = |name: &str| [MANIFEST, REJECTED].contains(&name) || kind.is_shard(name);
            match names.iter().find(|name| !is_ours(name)) {
                Some(other) => refuse(format!("one with `{other}` beside it")),
                None => Ok(()),
            }
        }
    }
}

/// Whether another file system begins at a folder.
#[cfg(unix)]
fn is_mount_point(folder: &Path) -> Result<bool, Error> {
    use std::os::unix::fs::MetadataExt;
    let Ok(own) = fs::symlink_metadata(folder) else { return Ok(false) };
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(fs::metadata(parent).map_err(Error::io(parent))?.dev() != own.dev())
}

#[cfg(not(unix))]
fn is_mount_point(_: &Path) -> Result<bool, Error> {
    Ok(false)
}

#[cfg(test)]
mod tests;
