//! A file of the names of classes.

use std::path::{Path, PathBuf};

use super::flat;
use crate::Error;

/// Names of classes by number.
pub(super) struct Names {
    /// The file they are from.
    pub path: PathBuf,
    pub names: Vec<String>,
}

impl Names {
    /// Reads a name a line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut names = flat::lines(path)?;
        names.truncate(names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1));
        // Whether it is a class without a name or none is for the writer to say: the numbers of those behind it differ.
        if let Some(empty) = names.iter().position(String::is_empty) {
            let reason = format!("line {} is empty; each has the name of a class", empty + 1);
            return Err(Error::Layout { path: path.into(), reason });
        }
        Ok(Self { path: path.into(), names })
    }
}

/// Names of classes by number, one a line, as [`SourceOptions::names`](super::SourceOptions::names) are read: without what some
/// editors put before them, and without empty lines at the end. One between them is refused.
pub fn class_names(path: &Path) -> Result<Vec<String>, Error> {
    Ok(Names::read(path)?.names)
}
