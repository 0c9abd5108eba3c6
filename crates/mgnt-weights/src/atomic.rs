//! Writing that leaves the old file or the new one, never half of one.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::Error;

/// Writes a file under a temporary name beside it, syncs it to disk, and renames it into place.
///
/// Parent folders are made. Where `write` fails, the temporary file is removed and an older file stays.
pub fn write_file<E: From<Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let temporary = temporary_name(path);
    let written = (|| {
        let file = File::create(&temporary).map_err(Error::io(&temporary))?;
        let mut writer = BufWriter::new(file);
        write(&mut writer)?;
        let file = writer.into_inner().map_err(|e| Error::io(&temporary)(e.into_error()))?;
        file.sync_all().map_err(Error::io(&temporary))?;
        fs::rename(&temporary, path).map_err(Error::io(path))?;
        Ok(())
    })();
    if written.is_err() {
        // The error to report is the first one; a leftover of the clean-up is harmless.
        let _ = fs::remove_file(&temporary);
    } else {
        sync_folder(parent);
    }
    written
}

/// Writes bytes as [`write_file`] does.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_file(path, |writer| writer.write_all(bytes).map_err(Error::io(path)))
}

/// Fills a folder under a temporary name and renames it into place, replacing an older one of that name.
pub fn write_folder<E: From<Error>>(path: &Path, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let temporary = temporary_name(path);
    if temporary.exists() {
        fs::remove_dir_all(&temporary).map_err(Error::io(&temporary))?;
    }
    fs::create_dir(&temporary).map_err(Error::io(&temporary))?;
    let filled = fill(&temporary).and_then(|()| {
        sync_folder(&temporary);
        if path.exists() {
            let old = path.with_extension("old.tmp");
            if old.exists() {
                fs::remove_dir_all(&old).map_err(Error::io(&old))?;
            }
            fs::rename(path, &old).map_err(Error::io(path))?;
            fs::rename(&temporary, path).map_err(Error::io(path))?;
            fs::remove_dir_all(&old).map_err(Error::io(&old))?;
        } else {
            fs::rename(&temporary, path).map_err(Error::io(path))?;
        }
        Ok(())
    });
    if filled.is_err() {
        let _ = fs::remove_dir_all(&temporary);
    } else {
        sync_folder(parent);
    }
    filled
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// Makes a rename durable where the system allows it; it is no error where it does not.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/a.txt");
        write_bytes(&path, b"old").unwrap();
        let failed: Result<(), Error> = write_file(&path, |w| {
            w.write_all(b"half").unwrap();
            Err(Error::Missing { name: "x".into() })
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        for text in ["one", "two"] {
            write_folder(&path, |p| write_bytes(&p.join("f"), text.as_bytes())).unwrap();
            assert_eq!(fs::read_to_string(path.join("f")).unwrap(), text);
        }
        let failed: Result<(), Error> = write_folder(&path, |_| Err(Error::Missing { name: "x".into() }));
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
