//! Waits for the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{panic, thread};

use crate::Error;

/// Files that are synced side by side, since each waits for the disk.
const SYNCED_AT_ONCE: usize = 16;

/// Has all of a folder on disk: the files, at any depth, and the folders' lists of them.
pub(super) fn sync_all(folder: &Path) -> Result<(), Error> {
    let sync = |files: &[PathBuf]| {
        files.iter().try_for_each(|path| {
            // Windows syncs what may be written alone.
            let file = File::options().read(true).write(cfg!(windows)).open(path);
            file.and_then(|file| file.sync_all()).map_err(Error::io(path))
        })
    };
    let (files, folders) = below(folder)?;
    thread::scope(|scope| {
        let parts = files.chunks(files.len().div_ceil(SYNCED_AT_ONCE).max(1));
        let threads: Vec<_> = parts.map(|files| scope.spawn(move || sync(files))).collect();
        let mut synced = threads.into_iter().map(thread::ScopedJoinHandle::join);
        synced.try_for_each(|synced| synced.unwrap_or_else(|reason| panic::resume_unwind(reason)))
    })?;
    folders.iter().for_each(|folder| sync_folder(folder));
    Ok(())
}

/// The files of a folder, at any depth, and the folders, itself among them.
fn below(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let entry = entry.map_err(Error::io(&folder))?;
            let kind = entry.file_type().map_err(Error::io(entry.path()))?;
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
        folders.push(folder);
    }
    Ok((files, folders))
}

/// Makes a rename durable where the system allows it; it is no error where it does not.
pub(super) fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::{write_folder, write_within};

    #[test]
    fn all_of_a_folder_is_synced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pictures");
        let names = ["0", "1", "deep/0", "deep/er/0"].map(String::from);
        let many: Vec<String> = (2..40).map(|number| number.to_string()).chain(names).collect();
        write_folder(&path, |p| {
            many.iter().try_for_each(|name| write_within(&p.join(name), name.as_bytes()))
        })
        .unwrap();
        let (mut files, folders) = below(&path).unwrap();
        let mut expected: Vec<_> = many.iter().map(|name| path.join(name)).collect();
        files.sort();
        expected.sort();
        assert_eq!((files, folders.len()), (expected, 3));
        assert!(many.iter().all(|name| fs::read_to_string(path.join(name)).unwrap() == *name));
        assert!(sync_all(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
