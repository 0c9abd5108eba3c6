//! Stores in the making: shards that are done outlive the process that made them.
//!
//! Beside the store that is to be, `<store>.part` has `plan.json` (what is made, so that nothing else is continued),
//! `store/` (shards, each renamed into place when it is whole), `done/` (a record a shard, written after it) and
//! `lock`. At the end the manifest is written, `store/` becomes `ready/`, and that takes the place of an older store.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use mgnt_weights::atomic;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::manifest::{self, MANIFEST, REJECTED, Rejected, ShardEntry, StoreKind};

/// A store that is being made.
#[derive(Debug)]
pub(crate) struct Unfinished {
    out: PathBuf,
    part: PathBuf,
    /// Held, so that no second process writes here; the system lets go of it when the process ends.
    _lock: File,
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
}

impl Unfinished {
    /// Continues a store of this plan, or starts one. What is at `out` and no store of this kind is left alone.
    pub fn open(out: &Path, kind: StoreKind, plan: &impl Serialize) -> Result<Self, Error> {
        atomic::check_folder_name(out)?;
        check_place(out, kind)?;
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".part");
        let part = out.with_file_name(name);
        fs::create_dir_all(&part).map_err(Error::io(&part))?;
        let lock_path = part.join("lock");
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: part }),
            Err(TryLockError::Error(error)) => return Err(Error::io(&lock_path)(error)),
        }
        let old = part.join("old");
        if !out.exists() && old.exists() {
            // Killed when the older store was out of its place and the new one not yet there.
            fs::rename(&old, out).map_err(Error::io(&old))?;
        }
        let unfinished = Self { out: out.into(), part, _lock: lock };
        unfinished.agree(plan)?;
        Ok(unfinished)
    }

    fn agree(&self, plan: &impl Serialize) -> Result<(), Error> {
        let path = self.part.join("plan.json");
        let text = serde_json::to_string_pretty(plan).map_err(|e| Error::store(&path, "plan", "JSON", e))?;
        match fs::read_to_string(&path) {
            Ok(old) if old == text => {}
            Ok(_) => return Err(Error::OtherPlan { path: self.part.clone() }),
            Err(_) => {
                // Whatever lies here belongs to no plan.
                for folder in [self.folder(), self.part.join("done")] {
                    if folder.exists() {
                        fs::remove_dir_all(&folder).map_err(Error::io(&folder))?;
                    }
                }
                atomic::write_bytes(&path, text.as_bytes())?;
            }
        }
        // The store that was to come, or the one whose place it took: which, nobody knows any more.
        let ready = self.part.join("ready");
        if ready.exists() {
            fs::remove_dir_all(&ready).map_err(Error::io(&ready))?;
        }
        for folder in [self.folder(), self.part.join("done")] {
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            atomic::remove_leftovers(&folder)?;
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
        let path = self.record_path(number);
        let text = serde_json::to_vec(record).map_err(|e| Error::store(&path, "record", "JSON", e))?;
        Ok(atomic::write_bytes(&path, &text)?)
    }

    /// Writes the manifest and moves the store into its place; an older one is replaced.
    pub fn publish(self, manifest: &impl Serialize) -> Result<(), Error> {
        let folder = self.folder();
        manifest::write(&folder, manifest)?;
        // Under a name of its own: two stores change places, and no shard of the older one may be taken for a finished one.
        let ready = self.part.join("ready");
        fs::rename(&folder, &ready).map_err(Error::io(&ready))?;
        atomic::replace_folder(&ready, &self.out, &self.part.join("old"))?;
        fs::remove_dir_all(&self.part).map_err(Error::io(&self.part))
    }
}

/// Refuses a place that holds anything but a store of this kind.
fn check_place(out: &Path, kind: StoreKind) -> Result<(), Error> {
    let names = fs::read_dir(out).into_iter().flatten().flatten();
    let names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let refuse = |got: String| {
        let expected = format!("an empty one, or {} to replace", kind.name());
        Err(Error::store(out, "folder", expected, got))
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::sha256;

    fn open(out: &Path, plan: &impl Serialize) -> Result<Unfinished, Error> {
        Unfinished::open(out, StoreKind::Pictures, plan)
    }

    fn shard(unfinished: &Unfinished, number: usize) -> Record {
        let file = format!("{number}.bin");
        fs::write(unfinished.folder().join(&file), [number as u8]).unwrap();
        let shard = ShardEntry { file, items: 1, sha256: sha256(&[number as u8]) };
        Record { shard: Some(shard), bytes: 1, rejected: Vec::new() }
    }

    #[test]
    fn finished_shards_are_found_again_by_the_same_plan_only() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("store");
        let unfinished = open(&out, &"plan").unwrap();
        let record = shard(&unfinished, 0);
        unfinished.finish_shard(0, &record).unwrap();
        // Written, but the process was killed before its record.
        shard(&unfinished, 1);
        fs::write(unfinished.folder().join("2.bin.77.tmp"), "half").unwrap();
        assert!(matches!(open(&out, &"plan"), Err(Error::Busy { .. })));
        drop(unfinished);
        assert!(matches!(open(&out, &"other"), Err(Error::OtherPlan { .. })));

        let again = open(&out, &"plan").unwrap();
        assert_eq!(again.record(0), Some(record));
        assert_eq!(again.record(1), None);
        assert!(!again.folder().join("2.bin.77.tmp").exists());
        // A shard that lost bytes is made anew.
        fs::write(again.folder().join("0.bin"), "").unwrap();
        assert_eq!(again.record(0), None);
        again.publish(&"manifest").unwrap();
        let names = |path: &Path| fs::read_dir(path).unwrap().count();
        assert_eq!((names(folder.path()), names(&out)), (1, 3));
    }

    #[test]
    fn an_older_store_is_replaced_and_other_folders_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("store");
        for text in ["one", "two"] {
            let manifest =
                serde_json::json!({ "version": 1, "size": 8, "classes": [], "shards": [], "made_by": text });
            open(&out, &text).unwrap().publish(&manifest).unwrap();
            let written = fs::read(out.join(MANIFEST)).unwrap();
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&written).unwrap(), manifest);
        }
        // Killed as the two stores had changed places: no shard of the older one is a finished one of the new.
        let unfinished = open(&out, &"three").unwrap();
        let record = shard(&unfinished, 0);
        unfinished.finish_shard(0, &record).unwrap();
        fs::rename(unfinished.folder(), unfinished.part.join("ready")).unwrap();
        drop(unfinished);
        let again = open(&out, &"three").unwrap();
        assert_eq!(again.record(0), None);
        // Killed between two renames, where stores cannot change places: the older one comes back.
        let old = again.part.join("old");
        fs::rename(&out, &old).unwrap();
        drop(again);
        let again = open(&out, &"three").unwrap();
        assert!(out.join(MANIFEST).exists() && !old.exists());
        fs::remove_dir_all(&again.part).unwrap();
        drop(again);
        for name in ["thesis.txt", "model.safetensors"] {
            fs::write(out.join(name), "text").unwrap();
            let refused = open(&out, &"four").unwrap_err().to_string();
            assert!(refused.contains(&format!("`{name}` beside it")), "{refused}");
            fs::remove_file(out.join(name)).unwrap();
        }
        fs::write(out.join("pictures-00000.safetensors"), "shard").unwrap();
        drop(open(&out, &"four").unwrap());
        fs::remove_dir_all(folder.path().join("store.part")).unwrap();
        // One of another kind is no older version of it, and what `eval-fid` leaves is no store.
        let refused = Unfinished::open(&out, StoreKind::Tokens, &"plan").unwrap_err().to_string();
        assert!(refused.contains("a store of tokens to replace, got a store of pictures"), "{refused}");
        let samples = folder.path().join("samples");
        fs::create_dir(&samples).unwrap();
        fs::write(samples.join(MANIFEST), r#"{"version": 1, "samples_are": "", "shards": []}"#).unwrap();
        assert!(open(&samples, &"plan").unwrap_err().to_string().contains("other files"));
        fs::remove_dir_all(&samples).unwrap();
        let precious = folder.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("thesis.txt"), "text").unwrap();
        let refused = |place: &Path| open(place, &"plan").unwrap_err().to_string();
        assert!(refused(&precious).contains("other files"));
        // An extension of a browser has a manifest as well.
        fs::write(precious.join(MANIFEST), r#"{"name": "my extension", "version": "1"}"#).unwrap();
        assert!(refused(&precious).contains("other files"));
        assert!(refused(&precious.join("thesis.txt")).contains("got a file"));
        assert!(refused(&precious.join("..")).contains("own name"));
        assert_eq!(fs::read_to_string(precious.join("thesis.txt")).unwrap(), "text");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
