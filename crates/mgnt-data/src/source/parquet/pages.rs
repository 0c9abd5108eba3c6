//! Pages of a Parquet column, looked at before the library's decoders take memory for what they claim.

use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::super::MOST_BYTES;

/// Snappy's copies of 64 bytes take three.
const SNAPPY_RATIO: u64 = 22;
/// The least that a value takes in a dictionary: the length of a string of bytes, or a number.
const LEAST_VALUE_BYTES: usize = 4;

/// The pages of one column chunk, in order.
pub(super) struct CheckedPages {
    pages: SerializedPageReader<GuardedFile>,
    rows: usize,
    has_dictionary: bool,
}

impl CheckedPages {
    pub(super) fn new(
        file: Arc<GuardedFile>,
        chunk: &ColumnChunkMetaData,
        rows: usize,
    ) -> ParquetResult<Self> {
        let pages = SerializedPageReader::new(file, chunk, rows, None)?;
        Ok(Self { pages, rows, has_dictionary: false })
    }
}

/// Refuses a page that claims more values than it can hold, or that needs what is not there.
fn check(page: &Page, rows: usize, has_dictionary: &mut bool) -> ParquetResult<()> {
    let refuse = |reason: String| Err(ParquetError::General(reason));
    let values = page.num_values() as usize;
    match (page, page.encoding()) {
        (Page::DictionaryPage { buf, .. }, Encoding::PLAIN | Encoding::PLAIN_DICTIONARY) => {
            *has_dictionary = true;
            if values > buf.len() / LEAST_VALUE_BYTES {
                return refuse(format!("{values} values in a dictionary of {} bytes", buf.len()));
            }
            return Ok(());
        }
        (Page::DictionaryPage { .. }, other) => return refuse(format!("a dictionary encoded as {other}")),
        (_, Encoding::PLAIN) => {}
        (_, Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY) if *has_dictionary => {}
        (_, Encoding::PLAIN_DICTIONARY | Encoding::RLE_DICTIONARY) => {
            return refuse("the dictionary is missing".into());
        }
        (_, other) => {
            return refuse(format!("a page encoded as {other}; plain and dictionary pages are read"));
        }
    }
    if values > rows {
        return refuse(format!("a page of {values} values in a row group of {rows} rows"));
    }
    Ok(())
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        let page = self.pages.get_next_page()?;
        if let Some(page) = &page {
            check(page, self.rows, &mut self.has_dictionary)?;
        }
        Ok(page)
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.pages.skip_next_page()
    }
}

impl Iterator for CheckedPages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// A file whose pages are held against its length and [`MOST_BYTES`] before memory is taken for them.
pub(super) struct GuardedFile {
    pub file: File,
    pub length: u64,
}

impl Length for GuardedFile {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for GuardedFile {
    type T = BufReader<File>;

    /// Where pages are read, this is asked for each page's header.
    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let mut header = [0; 24];
        let read = self.file.get_read(start)?.take(24).read(&mut header)?;
        match page_sizes(&header[..read]) {
            Some((unpacked, packed)) if unpacked <= MOST_BYTES.min(SNAPPY_RATIO * packed + 64) => {
                self.file.get_read(start)
            }
            Some((unpacked, packed)) if unpacked > MOST_BYTES && unpacked <= SNAPPY_RATIO * packed + 64 => {
                Err(ParquetError::General(format!(
                    "a page of {unpacked} bytes; pages above {MOST_BYTES} are not read: write fewer rows a page"
                )))
            }
            Some((unpacked, packed)) => Err(ParquetError::General(format!(
                "a page of {packed} bytes that claims to unpack to {unpacked}"
            ))),
            None => Err(ParquetError::General("a damaged page header".into())),
        }
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::EOF("a page ends behind the file".into()));
        }
        self.file.get_bytes(start, length)
    }
}

/// The sizes that a page header declares for the unpacked and the packed page: the second and third field of a struct in
/// Thrift's compact protocol (a byte for number and type of each field, then a zigzag variable-length integer).
fn page_sizes(header: &[u8]) -> Option<(u64, u64)> {
    const NEXT_FIELD_I32: u8 = 0x15;
    let mut bytes = header.iter().copied();
    let mut field = || -> Option<u64> {
        if bytes.next()? != NEXT_FIELD_I32 {
            return None;
        }
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = bytes.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return (value & 1 == 0).then_some(value >> 1);
            }
        }
        None
    };
    field()?;
    Some((field()?, field()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_claim_too_much_are_refused() {
        let data = |encoding, num_values| Page::DataPage {
            buf: Bytes::from_static(&[0; 40]),
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        let dictionary = |num_values| Page::DictionaryPage {
            buf: Bytes::from_static(&[0; 40]),
            num_values,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        let mut has_dictionary = false;
        let mut reason = |page| check(&page, 5, &mut has_dictionary).map_err(|e| e.to_string());
        assert_eq!(reason(data(Encoding::PLAIN, 5)), Ok(()));
        assert!(reason(data(Encoding::PLAIN, 6)).unwrap_err().contains("6 values in a row group of 5"));
        assert!(reason(data(Encoding::RLE_DICTIONARY, 5)).unwrap_err().contains("dictionary is missing"));
        assert!(reason(dictionary(1 << 30)).unwrap_err().contains("in a dictionary of 40 bytes"));
        assert_eq!(reason(dictionary(10)), Ok(()));
        assert_eq!(reason(data(Encoding::RLE_DICTIONARY, 5)), Ok(()));
        assert!(reason(data(Encoding::DELTA_BYTE_ARRAY, 5)).unwrap_err().contains("DELTA_BYTE_ARRAY"));
    }

    #[test]
    fn a_page_that_is_too_large_is_told_from_one_that_lies() {
        let reason = |header: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), header).unwrap();
            let file = GuardedFile { file: file.reopen().unwrap(), length: header.len() as u64 };
            file.get_read(0).map(drop).map_err(|error| error.to_string())
        };
        // 2^28 and 2^28 + 2 bytes, each as large when it is packed, and 2^28 bytes that are packed to 5.
        let size = |low: u8| [0x15, 0x80 | low, 0x80, 0x80, 0x80, 0x02];
        let page = |unpacked: &[u8], packed: &[u8]| [&[0x15, 0][..], unpacked, packed].concat();
        assert_eq!(reason(&page(&size(0), &size(0))), Ok(()));
        let large = reason(&page(&size(4), &size(4))).unwrap_err();
        assert!(large.contains("268435458 bytes; pages above 268435456 are not read"), "{large}");
        let lie = reason(&page(&size(4), &[0x15, 0x0a])).unwrap_err();
        assert!(lie.contains("a page of 5 bytes that claims"), "{lie}");
    }

    #[test]
    fn the_sizes_of_a_page() {
        // Type 0, 300 bytes unpacked, 5 packed.
        assert_eq!(page_sizes(&[0x15, 0, 0x15, 0xd8, 0x04, 0x15, 0x0a]), Some((300, 5)));
        // A negative size, another field, a cut header.
        for damaged in
            [&[0x15, 0, 0x15, 0x01, 0x15, 0x02][..], &[0x15, 0, 0x25, 0x02], &[0x15, 0, 0x15, 0x80], &[]]
        {
            assert_eq!(page_sizes(damaged), None, "{damaged:?}");
        }
    }
}
