//! A part of a source that has no split of its own.

use std::fmt;

use super::Entry;
use crate::Error;
use crate::manifest::Rejected;

/// Which files of each class are taken, counted in the source's order. Both parts of one number together are all files, and have
/// none in common while the source stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldOut {
    /// Every nth: what is held out. A class of fewer files has none.
    Every(usize),
    /// All but those: what is left to train on.
    ExceptEvery(usize),
}

impl HoldOut {
    pub(super) fn check(self) -> Result<(), Error> {
        let (field, number) = match self {
            Self::Every(number) => ("every", number),
            Self::ExceptEvery(number) => ("except every", number),
        };
        if number >= 2 {
            return Ok(());
        }
        Err(Error::Field { field, expected: "at least 2".into(), got: number.to_string() })
    }

    /// Whether it takes the file of this number, from 0, of those of its class.
    fn takes(self, number: usize) -> bool {
        match self {
            Self::Every(every) => (number + 1).is_multiple_of(every),
            Self::ExceptEvery(every) => !(number + 1).is_multiple_of(every),
        }
    }

    /// Leaves what it takes. Of what was skipped, whose classes are not known, a like share.
    pub(super) fn of(self, entries: &mut Vec<Entry>, skipped: &mut Vec<Rejected>, classes: usize) {
        let mut seen = vec![0; classes];
        entries.retain(|entry| {
            let number = &mut seen[entry.label as usize];
            *number += 1;
            self.takes(*number - 1)
        });
        let mut numbers = 0..;
        skipped.retain(|_| numbers.next().is_some_and(|number| self.takes(number)));
    }
}

impl fmt::Display for HoldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every(number) => write!(f, "every {number}"),
            Self::ExceptEvery(number) => write!(f, "except every {number}"),
        }
    }
}
