//! Reads ranges of a source one after the other.

use std::fmt;
use std::ops::Range;

use super::{Content, Item, Place, Source, parquet};

/// Reads ranges of a source. What the last range ended in stays open for the next one, so that rows of a Parquet file
/// that come in order are read once; a file that changed in between is opened anew.
pub struct Reader<'a> {
    source: &'a Source,
    rows: parquet::Rows<'a>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("source", &self.source.path).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, rows: parquet::Rows::new(&source.containers) }
    }

    /// The files of a range, in order.
    ///
    /// # Panics
    /// Where the range ends above [`Source::len`].
    pub fn stream(&mut self, range: Range<usize>) -> impl Iterator<Item = Item> + Send + '_ {
        self.rows.close_changed();
        let first = range.start;
        let rows = &mut self.rows;
        self.source.entries[range].iter().enumerate().map(move |(at, entry)| {
            let content = match entry.place {
                Place::Row { container, group, row } => Content::Bytes(rows.read(container, group, row)),
                place => Content::Place(place),
            };
            Item { index: first + at, content }
        })
    }
}
