//! Folders that a command fills, and may fill again.

use std::path::Path;

use crate::failure::bad_use;

/// Refuses an output that holds anything but what an earlier run of the same command left, which `manifest` marks.
pub fn check(out: &Path, manifest: &str) -> anyhow::Result<()> {
    let foreign = out.is_dir() && !out.join(manifest).exists() && std::fs::read_dir(out)?.next().is_some();
    if foreign || out.is_file() {
        return Err(bad_use(format!("--out {}: holds something else already", out.display())));
    }
    if out.file_name().is_none() {
        return Err(bad_use(format!("--out {}: expected a folder's own name", out.display())));
    }
    Ok(())
}
