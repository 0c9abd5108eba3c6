//! What one file may cost: the readers of other people's checkpoints share these bounds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::{DType, NamedTensor, TensorMap};

/// Why a file is refused; the caller adds path and format.
pub(crate) type Reason = String;

/// Levels of maps, lists and dictionaries inside each other.
pub(crate) const MAX_DEPTH: usize = 64;
/// Dimensions of a tensor.
pub(crate) const MAX_RANK: usize = 32;
/// Bytes of a tensor's whole name.
const MAX_NAME: usize = 1024;
/// Characters of a file's text that an error repeats.
const MAX_SHOWN: usize = 120;
/// What a tensor costs besides its values and its name.
const TENSOR_OVERHEAD: usize = 256;

/// Memory that reading one file may still take; it is asked before anything is allocated.
#[derive(Debug)]
pub(crate) struct Budget {
    left: usize,
}

impl Budget {
    /// Sixteen times the file, and a constant so that a tiny file can hold anything sensible.
    pub(crate) fn of_file(length: usize) -> Self {
        Self { left: length.saturating_mul(16).saturating_add(1 << 20) }
    }

    /// Counts an allocation.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), Reason> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err("it unpacks to far more than its own size".into()),
        }
    }
}

/// The place in a tree, as a name that grows and shrinks by levels.
#[derive(Debug)]
pub(crate) struct Name {
    text: String,
    separator: char,
    depth: usize,
}

impl Name {
    /// The root.
    pub(crate) fn new(separator: char) -> Self {
        Self { text: String::new(), separator, depth: 0 }
    }

    /// Goes one level down; the answer is for [`Name::leave`].
    pub(crate) fn enter(&mut self, level: &str) -> Result<usize, Reason> {
        let before = self.text.len();
        if before + level.len() >= MAX_NAME {
            return Err(format!("a name is longer than {MAX_NAME} bytes: {}…", shown(&self.text)));
        }
        if self.depth == MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} levels inside each other at {}", self.quoted()));
        }
        if self.depth > 0 {
            self.text.push(self.separator);
        }
        self.text.push_str(level);
        self.depth += 1;
        Ok(before)
    }

    /// Goes back up.
    pub(crate) fn leave(&mut self, before: usize) {
        self.text.truncate(before);
        self.depth -= 1;
    }

    /// The name so far.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The name for an error.
    pub(crate) fn quoted(&self) -> String {
        if self.depth == 0 { "the top level".into() } else { quoted(&self.text) }
    }
}

/// Tensors as they are found; the same name twice is an error.
#[derive(Debug, Default)]
pub(crate) struct Found {
    tensors: BTreeMap<String, NamedTensor>,
}

impl Found {
    /// Takes a tensor in. Its values were counted before they were copied; here goes the rest.
    pub(crate) fn add(
        &mut self,
        budget: &mut Budget,
        name: &str,
        dtype: DType,
        shape: Vec<usize>,
        bytes: Vec<u8>,
    ) -> Result<(), Reason> {
        budget.take(name.len() + TENSOR_OVERHEAD)?;
        let tensor = NamedTensor::new(&shown(name), dtype, shape, bytes).map_err(|e| e.to_string())?;
        match self.tensors.insert(name.to_owned(), tensor) {
            None => Ok(()),
            Some(_) => Err(format!("two tensors are named {}", quoted(name))),
        }
    }

    /// All of them.
    pub(crate) fn into_map(self) -> TensorMap {
        TensorMap::from_parts(self.tensors, BTreeMap::new())
    }
}

/// A text of the file in an error: cut, and without control characters.
pub(crate) fn shown(text: &str) -> String {
    let mut out = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MAX_SHOWN {
            out.push('…');
            break;
        }
        match c.is_control() {
            // Writing to a string cannot fail.
            true => drop(write!(out, "{}", c.escape_default())),
            false => out.push(c),
        }
    }
    out
}

/// A tensor in an error.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", shown(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_runs_out() {
        let mut budget = Budget::of_file(1);
        budget.take(1 << 20).unwrap();
        budget.take(16).unwrap();
        assert!(budget.take(1).is_err());
        assert!(Budget::of_file(usize::MAX).take(usize::MAX).is_ok());
    }

    #[test]
    fn names_grow_and_shrink() {
        let mut name = Name::new('/');
        let top = name.enter("a").unwrap();
        let below = name.enter("b").unwrap();
        assert_eq!(name.text(), "a/b");
        name.leave(below);
        assert_eq!(name.text(), "a");
        name.leave(top);
        assert_eq!(name.quoted(), "the top level");
        assert!(name.enter(&"x".repeat(MAX_NAME)).is_err());
        for _ in 0..MAX_DEPTH {
            name.enter("d").unwrap();
        }
        assert!(name.enter("d").unwrap_err().contains("levels"));
    }

    #[test]
    fn what_an_error_shows_is_short_and_printable() {
        assert_eq!(shown("a\nb\u{1b}"), "a\\nb\\u{1b}");
        assert_eq!(shown(&"é".repeat(500)).chars().count(), MAX_SHOWN + 1);
    }
}
