//! Folders that a command fills, and may fill again.

use std::fs::{File, TryLockError};
use std::path::Path;

use mgnt_weights::{Error, atomic};

use crate::failure::bad_use;

/// Refuses an output that holds anything but what an earlier run of the same command left: `manifest`, `grid`, and pictures
/// whose names are `prefix` and numbers.
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
    let mut names = std::fs::read_dir(out).into_iter().flatten().flatten().map(|entry| entry.file_name());
    if out.is_file() || names.any(|name| !is_ours(&name.to_string_lossy())) {
        return Err(bad_use(format!("--out {}: holds something else already", out.display())));
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
        std::fs::create_dir_all(out.join("grid")).unwrap();
        for name in ["edited.json", "edit-000.png"] {
            std::fs::write(out.join(name), "").unwrap();
        }
        check().unwrap();
        for name in ["mine.txt", "edit-a.png", "000.png"] {
            std::fs::write(out.join(name), "").unwrap();
            assert!(check().unwrap_err().to_string().contains("something else"), "{name}");
            std::fs::remove_file(out.join(name)).unwrap();
        }
        check().unwrap();
    }
}
