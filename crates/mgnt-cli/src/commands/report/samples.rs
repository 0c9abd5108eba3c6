//! The grids that a run drew.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use mgnt_train::watch::step_of_sample;

use crate::output::page::Page;

/// Grids on a page, at most: the last, the first, and some between.
const SHOWN: usize = 5;

/// Adds the run's grids, the last one first.
pub fn add(page: &mut Page, folder: &Path) -> anyhow::Result<()> {
    let grids = grids(folder)?;
    if grids.is_empty() {
        return Ok(());
    }
    page.heading("Pictures");
    for index in chosen(grids.len()) {
        let (step, path) = &grids[index];
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        page.figure(&bytes, "png", &format!("after {step} steps"));
    }
    Ok(())
}

/// Step and file of every grid, in order.
fn grids(folder: &Path) -> anyhow::Result<Vec<(usize, PathBuf)>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let step = |path: &Path| step_of_sample(path.file_name()?.to_str()?);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        found.extend(step(&path).map(|step| (step, path)));
    }
    found.sort();
    Ok(found)
}

/// Evenly over `count` grids, the last first.
fn chosen(count: usize) -> Vec<usize> {
    let shown = count.min(SHOWN);
    (0..shown).rev().map(|i| i * (count - 1) / (shown - 1).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_last_and_some_between() {
        assert_eq!(chosen(1), [0]);
        assert_eq!(chosen(3), [2, 1, 0]);
        assert_eq!(chosen(21), [20, 15, 10, 5, 0]);
    }

    #[test]
    fn grids_are_in_order_of_their_steps() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step-00000900.png", "step-10000000.png", "step-00000020.png", "other.png", "step-x.png"]
        {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let steps: Vec<usize> = grids(folder.path()).unwrap().into_iter().map(|grid| grid.0).collect();
        assert_eq!(steps, [20, 900, 10_000_000]);
        assert!(grids(&folder.path().join("missing")).unwrap().is_empty());
    }
}
