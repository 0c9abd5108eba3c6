//! Folders that a command fills, and may fill again.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, absolute};

use mgnt_weights::{Error, atomic};

use crate::failure::bad_use;

/// Refuses an output that holds anything but what an earlier run of the same command left: `manifest`, and beside it `grid`
/// and pictures whose names are `prefix` and numbers. Such names alone may be a person's own.
pub fn check(out: &Path, manifest: &str, prefix: &str) -> anyhow::Result<()> {
    if out.file_name().is_none() {
        return Err(bad_use(format!("--out {}: expected a folder's own name", out.display())));
    }
    atomic::put_back(out)?;
    let is_picture = |name: &str| {
        let numbers = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".png"));
        numbers.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'))
    };
    let is_ours = |name: &str| name == manifest || name == "grid" || is_picture(name);
    let refuse = |reason: String| Err(bad_use(format!("--out {}: {reason}", out.display())));
    let entries = match std::fs::read_dir(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(_) if out.is_file() => return refuse("is a file, where a folder is expected".into()),
        Err(error) => return Err(Error::io(out)(error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(Error::io(out))?.file_name().to_string_lossy().into_owned());
    }
    if let Some(other) = names.iter().find(|name| !is_ours(name)) {
        return refuse(format!("holds something else already, `{other}`"));
    }
    if !names.is_empty() && !names.iter().any(|name| name == manifest) {
        return refuse(format!("holds pictures already, and no {manifest} of an earlier run"));
    }
    Ok(())
}

/// Refuses a file, named by `option`, that would lie in the output folder, which is replaced as a whole.
pub fn check_outside(out: &Path, option: &str, file: &Path) -> anyhow::Result<()> {
    let [folder, place] = [out, file].map(|path| absolute(path).unwrap_or_else(|_| path.into()));
    if place.starts_with(folder) {
        return Err(bad_use(format!(
            "{option} {}: expected a place outside of --out {}, which is replaced as a whole",
            file.display(),
            out.display()
        )));
    }
    Ok(())
}

/// Keeps other processes of this command out of a folder, for as long as the file is open.
pub fn lock(out: &Path, command: &str) -> anyhow::Result<File> {
    let path = out.join("lock");
    let file = File::options().create(true).append(true).open(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(bad_use(format!("--out {}: another {command} works in it", out.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::io(&path)(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_left_may_be_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let check = || check(&out, "edited.json", "edit-");
        check().unwrap();
        std::fs::create_dir_all(&out).unwrap();
        check().unwrap();
        std::fs::create_dir(out.join("grid")).unwrap();
        assert!(check().unwrap_err().to_string().contains("no edited.json"));
        std::fs::write(out.join("edit-000.png"), "").unwrap();
        assert!(check().unwrap_err().to_string().contains("no edited.json"));
        std::fs::write(out.join("edited.json"), "").unwrap();
        check().unwrap();
        for name in ["mine.txt", "edit-a.png", "000.png"] {
            std::fs::write(out.join(name), "").unwrap();
            assert!(check().unwrap_err().to_string().contains("something else"), "{name}");
            std::fs::remove_file(out.join(name)).unwrap();
        }
        check().unwrap();
        let file = super::check(&out.join("edited.json"), "edited.json", "edit-");
        assert!(file.unwrap_err().to_string().contains("is a file"));
    }

    #[test]
    fn a_file_beside_the_folder_is_right_and_one_in_it_is_not() {
        let check = |file: &str| check_outside(Path::new("out"), "--save-tokens", Path::new(file));
        for right in ["t.st", "out.st", "more/out/t.st", "../out/t.st"] {
            check(right).unwrap();
        }
        for wrong in ["out", "out/t.st", "./out/deep/t.st"] {
            assert!(check(wrong).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }
}
