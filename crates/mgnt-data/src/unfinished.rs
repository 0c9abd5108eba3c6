//! Stores in the making: shards that are done outlive the process that made them.
//!
//! Beside the store that is to be, `<store>.part` has `plan.json` (what is made, so that nothing else is continued),
//! `store/` (shards, each renamed into place when it is whole), `done/` (a record a shard, written after it) and
//! `lock`. At the end the manifest is written, with a copy as `manifest.json`; `store/` becomes `ready/`, and that takes the place
//! of an older store. By the copy whoever comes after a stop there knows which of the two is the new one.
//! A folder without a plan is not ours, and whatever else lies beside our own files stays. Where the store's place is a
//! link, all this is beside the folder that it leads to: a folder can be renamed within one file system only.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use mgnt_weights::atomic;
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
    /// What tells whether the files it was made of have changed since; none where the plan tells it of all shards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
}

impl Unfinished {
    /// Continues a store of this plan, or starts one. What is at `out` and no store of this kind is left alone.
    pub fn open(out: &Path, kind: StoreKind, plan: &impl Serialize) -> Result<Self, Error> {
        let out = &atomic::named_folder(out)?;
        check_place(out, kind)?;
        let mut name = out.file_name().unwrap_or_default().to_os_string();
        name.push(".part");
        let part = out.with_file_name(name);
        check_part(&part)?;
        fs::create_dir_all(&part).map_err(Error::io(&part))?;
        let lock_path = part.join(LOCK);
        let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&lock_path);
        let lock = opened.map_err(Error::io(&lock_path))?;
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
        let unfinished = Self { out: out.into(), kind, part, _lock: lock };
        unfinished.agree(plan)?;
        Ok(unfinished)
    }

    fn agree(&self, plan: &impl Serialize) -> Result<(), Error> {
        let path = self.part.join(PLAN);
        let text = serde_json::to_string_pretty(plan).map_err(|e| Error::store(&path, "plan", "JSON", e))?;
        match fs::read_to_string(&path) {
            Ok(old) if old == text => {}
            Ok(_) => return Err(Error::OtherPlan { path: self.part.clone() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Of one who was killed over the plan.
                atomic::remove_leftovers(&self.part)?;
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
        if is_new(&ready) {
            return fs::rename(&ready, &folder).map_err(Error::io(&ready));
        }
        if is_new(&self.out) {
            fs::create_dir(&folder).map_err(Error::io(&folder))?;
            // A shard that has no other name here is made again.
            for name in names(&self.out)?.iter().filter(|name| self.kind.is_shard(name)) {
                let _ = fs::hard_link(self.out.join(name), folder.join(name));
            }
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

    /// Writes the manifest and moves the store into its place; an older one is replaced. Where that fails, what is
    /// finished stays finished.
    pub fn publish(self, manifest: &impl Serialize) -> Result<(), Error> {
        // Hours may have passed, and others may have written there.
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
        replace(&ready, &self.out, &self.part.join("old")).or_else(|error| {
            let is_new = |place: &Path| manifest_in(place).is_ok_and(|found| found == manifest);
            // An older store may be the same to the byte, but for its damage: the new one is here where it has not left.
            if is_new(&ready) {
                // The first error is the one to tell.
                let _ = fs::rename(&ready, &folder);
            } else if is_new(&self.out) {
                tracing::warn!(
                    "{error}: the new store is in its place, and the older one could not be removed"
                );
                return Ok(());
            }
            Err(error.into())
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
    // Whoever was killed before the plan was there left these at most.
    let is_ours = |name: &str| name == LOCK || atomic::leftover_of(name) == Some(PLAN);
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
mod tests {
    use super::*;
    use crate::manifest::sha256;

    fn open(out: &Path, plan: &impl Serialize) -> Result<Unfinished, Error> {
        Unfinished::open(out, StoreKind::Pictures, plan)
    }

    fn shard(unfinished: &Unfinished, number: usize) -> Record {
        let file = format!("pictures-{number:05}.safetensors");
        fs::write(unfinished.folder().join(&file), [number as u8]).unwrap();
        let shard = ShardEntry { file, items: 1, sha256: sha256(&[number as u8]) };
        Record { shard: Some(shard), bytes: 1, rejected: Vec::new(), stamp: None }
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
        fs::write(unfinished.folder().join("pictures-00002.safetensors.77.tmp"), "half").unwrap();
        assert!(matches!(open(&out, &"plan"), Err(Error::Busy { .. })));
        drop(unfinished);
        assert!(matches!(open(&out, &"other"), Err(Error::OtherPlan { .. })));

        let again = open(&out, &"plan").unwrap();
        assert_eq!(again.record(0), Some(record));
        assert_eq!(again.record(1), None);
        assert!(!again.folder().join("pictures-00002.safetensors.77.tmp").exists());
        // A shard that lost bytes is made anew.
        fs::write(again.folder().join("pictures-00000.safetensors"), "").unwrap();
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

    /// Names and contents of a folder's files, at any depth.
    fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut contents = Vec::new();
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => contents.extend(self::contents(&path)),
                path => contents.push((path.clone(), fs::read(path).unwrap())),
            }
        }
        contents.sort();
        contents
    }

    #[test]
    fn a_folder_of_others_beside_the_store_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (out, part) = (folder.path().join("store"), folder.path().join("store.part"));
        for (name, text) in [("thesis.txt", "a"), ("store/precious.txt", "b"), ("done/notes.md", "c")] {
            atomic::write_bytes(&part.join(name), text.as_bytes()).unwrap();
        }
        let before = contents(folder.path());
        let refused = open(&out, &"plan").unwrap_err().to_string();
        assert!(refused.contains("store.part: folder: expected an unfinished store"), "{refused}");
        assert_eq!(contents(folder.path()), before);
        // What one leaves who is killed before the plan is there.
        fs::remove_dir_all(&part).unwrap();
        for name in ["lock", "plan.json.77.tmp"] {
            atomic::write_bytes(&part.join(name), b"").unwrap();
        }
        let unfinished = open(&out, &"plan").unwrap();
        // Files that come later stay, and so does the folder.
        fs::write(part.join("thesis.txt"), "a").unwrap();
        unfinished.publish(&"manifest").unwrap();
        assert_eq!(contents(&part), [(part.join("thesis.txt"), b"a".to_vec())]);
        assert!(out.join(MANIFEST).exists());
    }

    #[test]
    fn what_came_to_the_stores_place_meanwhile_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("store");
        let begun = || {
            let unfinished = open(&out, &"plan").unwrap();
            let record = shard(&unfinished, 0);
            unfinished.finish_shard(0, &record).unwrap();
            unfinished
        };
        let unfinished = begun();
        atomic::write_bytes(&out.join("thesis.txt"), b"text").unwrap();
        assert!(unfinished.publish(&"manifest").unwrap_err().to_string().contains("other files"));
        assert_eq!(contents(&out), [(out.join("thesis.txt"), b"text".to_vec())]);
        fs::remove_dir_all(&out).unwrap();
        let unfinished = begun();
        fs::write(&out, "text").unwrap();
        assert!(unfinished.publish(&"manifest").unwrap_err().to_string().contains("got a file"));
        assert_eq!(fs::read_to_string(&out).unwrap(), "text");
        fs::remove_file(&out).unwrap();
        let unfinished = open(&out, &"plan").unwrap();
        assert!(unfinished.record(0).is_some(), "the work is not lost");
        unfinished.publish(&"manifest").unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn places_that_no_folder_can_be_renamed_to_are_refused_before_the_work() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("store");
        symlink("nowhere", &out).unwrap();
        assert!(open(&out, &"plan").unwrap_err().to_string().contains("a link to nothing"));
        assert!(!folder.path().join("store.part").exists());
        fs::remove_file(&out).unwrap();
        // Another file system, on every machine that has one there.
        symlink("/proc", &out).unwrap();
        if is_mount_point(Path::new("/proc")).unwrap() {
            for place in [Path::new("/proc"), &out] {
                let refused = open(place, &"plan").unwrap_err().to_string();
                assert!(refused.contains("a mount point"), "{refused}");
            }
        }
        fs::remove_file(&out).unwrap();
        assert!(!is_mount_point(folder.path()).unwrap() && !is_mount_point(&out).unwrap());
    }

    /// The link may be on another disk than what it leads to, where no folder can be renamed to.
    #[cfg(unix)]
    #[test]
    fn a_store_behind_a_link_is_made_beside_what_the_link_leads_to() {
        let folder = tempfile::tempdir().unwrap();
        let [near, far] = ["near", "far"].map(|name| folder.path().join(name));
        fs::create_dir_all(far.join("store")).unwrap();
        fs::create_dir(&near).unwrap();
        std::os::unix::fs::symlink("../far/store", near.join("link")).unwrap();
        let begun = || open(&near.join("link"), &"plan").unwrap();
        let record = shard(&begun(), 0);
        begun().finish_shard(0, &record).unwrap();
        assert!(far.join("store.part/store/pictures-00000.safetensors").exists());
        let unfinished = open(&far.join("store"), &"plan").unwrap();
        assert_eq!(unfinished.record(0), Some(record), "it is the same place");
        unfinished.publish(&"manifest").unwrap();
        assert!(near.join("link").is_symlink() && near.join("link/pictures-00000.safetensors").exists());
        let names = |path: &Path| fs::read_dir(path).unwrap().count();
        assert_eq!((names(&near), names(&far)), (1, 1));
    }

    #[test]
    fn a_store_that_could_not_be_moved_is_finished_still() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("store");
        let named = |text: &str| serde_json::json!({ "version": 1, "size": 8, "classes": [], "shards": [], "made_by": text });
        let with_a_shard = |manifest: &str| {
            let unfinished = open(&out, &"plan").unwrap();
            let record = shard(&unfinished, 0);
            unfinished.finish_shard(0, &record).unwrap();
            manifest::write(&unfinished.folder(), &named(manifest)).unwrap();
            (unfinished, record)
        };
        let fails = || atomic::replace_folder(Path::new("no/such"), &out, Path::new("none"));
        let (unfinished, record) = with_a_shard("new");
        assert!(unfinished.put_into_place(|_, _, _| fails()).is_err());
        drop(unfinished);
        assert_eq!(open(&out, &"plan").unwrap().record(0), Some(record));

        // They have changed places: what is in `ready` is the older store.
        atomic::write_bytes(&folder.path().join("older").join(MANIFEST), b"older").unwrap();
        fs::write(folder.path().join("older/pictures-00000.safetensors"), "0").unwrap();
        let (unfinished, _) = with_a_shard("new");
        let changed = unfinished.put_into_place(|ready, out, _| {
            fs::rename(ready, out).unwrap();
            fs::rename(folder.path().join("older"), ready).unwrap();
            atomic::replace_folder(Path::new("no/such"), Path::new("nor/such"), Path::new("none"))
        });
        assert!(
            changed.is_ok() && out.join("pictures-00000.safetensors").exists(),
            "that the older one stays is no failure"
        );
        drop(unfinished);
        // Killed before the rest was gone: the new one is finished still, and not the older one.
        let again = open(&out, &"plan").unwrap();
        assert!(again.record(0).is_some() && !again.part.join("ready").exists());
        assert!(fs::read_to_string(out.join(MANIFEST)).unwrap().contains("new"), "it stays where it is");
        // Killed on the way.
        fs::copy(out.join(MANIFEST), again.folder().join(MANIFEST)).unwrap();
        fs::remove_dir_all(&out).unwrap();
        fs::rename(again.folder(), again.part.join("ready")).unwrap();
        drop(again);
        let again = open(&out, &"plan").unwrap();
        assert!(again.record(0).is_some());
        again.publish(&named("new")).unwrap();
        assert!(
            out.join("pictures-00000.safetensors").exists() && !folder.path().join("store.part").exists()
        );
    }
}
