//! Parquet files with pictures in a column of bytes, as the Hub's `imagenet-1k` has them: `image` is a struct with
//! `bytes` (or bytes itself), `label` a number. Read a few rows at a time, so that a row group of any size takes little
//! more memory than one of its pages.

mod pages;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use serde_json::Value;

use self::pages::{CheckedPages, GuardedFile};
use super::shards::shards_of_split;
use super::{Classes, Found, Place, State, size, state};
use crate::manifest::MOST_CLASSES;
use crate::{Error, guard};

/// Files of fewer bytes a row than this are made to look large: no picture is so small.
const LEAST_ROW_BYTES: u64 = 16;
/// Labels read at a time.
const LABELS: usize = 4096;
/// Pictures read at a time, where some are passed over.
const PICTURES: u32 = 16;

/// What can be wrong with a file.
enum Fault {
    /// It is not as it should be.
    File(String),
    /// The system refused.
    System(io::Error),
}

impl Fault {
    /// The error where `kind` says what is at fault.
    fn at(self, path: &Path, kind: impl FnOnce(String) -> Error) -> Error {
        match self {
            Self::File(reason) => kind(reason),
            Self::System(reason) => Error::io(path)(reason),
        }
    }

    fn of_file(self, path: &Path) -> Error {
        self.at(path, |reason| Error::Layout { path: path.into(), reason })
    }

    fn of_row(self, path: &Path) -> Error {
        self.at(path, Error::Picture)
    }
}

impl<S: Into<String>> From<S> for Fault {
    fn from(reason: S) -> Self {
        Self::File(reason.into())
    }
}

/// Lists the rows of all files, in their order. `names` are the names of the class numbers; without them, those that
/// the Hub's own metadata gives, which must be the same in all files.
pub(super) fn list(path: &Path, split: Option<&str>, names: Option<Vec<String>>) -> Result<Found, Error> {
    let mut found = Found::new(Classes::Numbered(None));
    let mut first: Option<(String, Option<Vec<String>>)> = None;
    for file_path in shards_of_split(path, ".parquet", split)? {
        let fault = |fault: Fault| fault.of_file(&file_path);
        let container = found.container(&file_path);
        let file = Table::open(&file_path).map_err(fault)?;
        let name = file_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if names.is_none() {
            let of_file = file.class_names();
            let (first, known) = &*first.get_or_insert_with(|| (name.clone(), of_file.clone()));
            check_names(first, known.as_deref(), of_file.as_deref()).map_err(fault)?;
        }
        let mut number = 0u64;
        for group in 0..file.metadata.num_row_groups() {
            let labels = file.labels(group).map_err(fault)?;
            for (row, label) in labels.into_iter().enumerate() {
                let key = format!("{name}#{number}");
                match label.and_then(|label| usize::try_from(label).ok()) {
                    Some(label) if label < MOST_CLASSES => {
                        let place = Place::Row { container, group: group as u32, row: row as u32 };
                        found.push(key, label as u32, place);
                    }
                    _ => {
                        let label = label.map_or("null".into(), |label| label.to_string());
                        found.skip(key, format!("the label {label} is not a class number"));
                    }
                }
                number += 1;
            }
        }
    }
    found.classes = Classes::Numbered(names.or_else(|| first?.1));
    Ok(found)
}

/// Refuses a file whose classes are not called as those of the `first` one: its labels may mean others.
fn check_names(first: &str, known: Option<&[String]>, names: Option<&[String]>) -> Result<(), Fault> {
    let (known, names) = (known.unwrap_or_default(), names.unwrap_or_default());
    if names == known {
        return Ok(());
    }
    let class = known.iter().zip(names).take_while(|(known, name)| known == name).count();
    let of =
        |names: &[String]| names.get(class).map_or("no name".to_owned(), |name| format!("the name `{name}`"));
    let (here, there) = (of(names), of(known));
    let reason =
        format!("class {class} has {here}, but {there} in `{first}`; a file of the classes' names is needed");
    Err(reason.into())
}

/// An open file, whose columns have been checked.
struct Table {
    file: Arc<GuardedFile>,
    metadata: ParquetMetaData,
    image: usize,
    label: usize,
}

impl Table {
    fn open(path: &Path) -> Result<Self, Fault> {
        let file = File::open(path).map_err(Fault::System)?;
        let length = file.metadata().map_err(Fault::System)?.len();
        let metadata = guarded(|| ParquetMetaDataReader::new().parse_and_finish(&file))?;
        let schema = metadata.file_metadata().schema_descr();
        let column = |paths: &[&str], types: &[Type]| {
            let found = schema.columns().iter().position(|column| {
                paths.contains(&column.path().string().as_str())
                    && types.contains(&column.physical_type())
                    && column.max_rep_level() == 0
            });
            found.ok_or_else(|| format!("no column `{}` of type {}", paths[0], types[0]))
        };
        let image = column(&["image.bytes", "image"], &[Type::BYTE_ARRAY])?;
        let label = column(&["label"], &[Type::INT64, Type::INT32])?;
        let rows: Option<u64> = metadata
            .row_groups()
            .iter()
            .map(|group| u64::try_from(group.num_rows()).ok().filter(|&rows| rows < u64::from(u32::MAX)))
            .try_fold(0u64, |sum, rows| sum.checked_add(rows?));
        if rows.is_none_or(|rows| rows > length / LEAST_ROW_BYTES) {
            return Err(format!("declares more rows than {length} bytes can hold").into());
        }
        let table = Self { file: Arc::new(GuardedFile { file, length }), metadata, image, label };
        for group in table.metadata.row_groups() {
            for column in [image, label] {
                table.check_column(group, column)?;
            }
        }
        Ok(table)
    }

    fn check_column(&self, group: &RowGroupMetaData, column: usize) -> Result<(), String> {
        let chunk = group.columns().get(column).ok_or("a row group lacks a column")?;
        let name = chunk.column_path().string();
        match chunk.compression() {
            Compression::UNCOMPRESSED | Compression::SNAPPY => {}
            other => {
                return Err(format!("column `{name}` is compressed with {other}; only snappy is read"));
            }
        }
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let range = u64::try_from(start).ok().zip(u64::try_from(chunk.compressed_size()).ok());
        let end = range.and_then(|(start, length)| start.checked_add(length));
        if end.is_none_or(|end| end > self.file.length) {
            return Err(format!("column `{name}` lies outside the file"));
        }
        Ok(())
    }

    /// Names of the classes, where the Hub's metadata has them.
    fn class_names(&self) -> Option<Vec<String>> {
        let pairs = self.metadata.file_metadata().key_value_metadata()?;
        let text = pairs.iter().find(|pair| pair.key == "huggingface")?.value.as_deref()?;
        let value: Value = serde_json::from_str(text).ok()?;
        let names = value.pointer("/info/features/label/names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }

    fn column(&self, group: usize, column: usize) -> ParquetResult<ColumnReader> {
        let group = self.metadata.row_group(group);
        let rows = group.num_rows() as usize;
        let pages = CheckedPages::new(self.file.clone(), group.column(column), rows)?;
        Ok(get_column_reader(group.schema_descr().column(column), Box::new(pages)))
    }

    /// The labels of a row group.
    fn labels(&self, group: usize) -> Result<Vec<Option<i64>>, Fault> {
        let rows = self.metadata.row_group(group).num_rows() as usize;
        let mut labels = Vec::with_capacity(rows);
        let read = |labels: &mut Vec<Option<i64>>| match self.column(group, self.label)? {
            ColumnReader::Int64ColumnReader(mut column) => read_labels(&mut column, rows, labels),
            ColumnReader::Int32ColumnReader(mut column) => read_labels(&mut column, rows, labels),
            _ => Err(ParquetError::General("not a column of numbers".into())),
        };
        guarded(|| read(&mut labels))?;
        if labels.len() < rows {
            return Err(format!("row group {group} has {} labels for {rows} rows", labels.len()).into());
        }
        Ok(labels)
    }
}

fn read_labels<T>(
    column: &mut ColumnReaderImpl<T>,
    rows: usize,
    labels: &mut Vec<Option<i64>>,
) -> ParquetResult<()>
where
    T: parquet::data_type::DataType,
    T::T: Into<i64>,
{
    while labels.len() < rows {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        let most = LABELS.min(rows - labels.len());
        let (records, _, _) = column.read_records(most, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            break;
        }
        let there = levels.iter().max().copied().unwrap_or(0);
        let mut values = values.into_iter().map(Into::into);
        // A column that cannot be null has no levels.
        if levels.is_empty() {
            labels.extend(values.map(Some));
        } else if there == 0 && values.len() == 0 {
            labels.extend(levels.iter().map(|_| None));
        } else {
            labels.extend(levels.iter().map(|&level| if level == there { values.next() } else { None }));
        }
    }
    Ok(())
}

/// Reads rows one after the other, keeping the column that it is in open.
pub(super) struct Rows<'a> {
    containers: &'a [PathBuf],
    open: Option<Open>,
    column: Option<Column>,
}

struct Open {
    container: u32,
    /// The file's before it was opened, where the system told.
    state: Option<State>,
    table: Table,
}

struct Column {
    container: u32,
    group: u32,
    next: u32,
    reader: ColumnReaderImpl<ByteArrayType>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(containers: &'a [PathBuf]) -> Self {
        Self { containers, open: None, column: None }
    }

    /// Closes a file that has changed since it was opened.
    pub(super) fn close_changed(&mut self) {
        let Some(open) = &self.open else { return };
        let now = state(&self.containers[open.container as usize]).ok();
        if now.is_none() || now != open.state {
            (self.open, self.column) = (None, None);
        }
    }

    /// The picture's bytes of a row. Rows that come in order are read once.
    pub(super) fn read(&mut self, container: u32, group: u32, row: u32) -> Result<Vec<u8>, Error> {
        let mut column = match self.column.take() {
            Some(column) if (column.container, column.group) == (container, group) && column.next <= row => {
                column
            }
            _ => self.open(container, group)?,
        };
        let bytes = guarded(|| {
            // `skip_records` would look at a page's header before it asks for the page, which `GuardedFile` does not expect.
            let mut value = None;
            while column.next <= row {
                let before = (row - column.next).min(PICTURES);
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let most = before.max(1) as usize;
                let (records, _, _) =
                    column.reader.read_records(most, Some(&mut levels), None, &mut values)?;
                if records == 0 {
                    return Err(ParquetError::EOF("the row is missing".into()));
                }
                column.next += records as u32;
                value = values.pop();
            }
            Ok(value)
        });
        // A column that failed once is opened anew: the next row may still be whole.
        let bytes: Option<ByteArray> =
            bytes.map_err(|fault| fault.of_row(&self.containers[container as usize]))?;
        self.column = Some(column);
        let bytes = bytes.ok_or_else(|| Error::Picture("no bytes in this row".into()))?;
        size(bytes.len() as u64)?;
        Ok(bytes.data().to_vec())
    }

    fn open(&mut self, container: u32, group: u32) -> Result<Column, Error> {
        let path = &self.containers[container as usize];
        let open = match self.open.take() {
            Some(open) if open.container == container => open,
            _ => {
                let state = state(path).ok();
                // It was whole when it was listed.
                let table = Table::open(path).map_err(|fault| fault.of_file(path))?;
                Open { container, state, table }
            }
        };
        let table = &self.open.insert(open).table;
        if group as usize >= table.metadata.num_row_groups() {
            return Err(Fault::from(format!("row group {group} is missing")).of_file(path));
        }
        let reader = guarded(|| table.column(group as usize, table.image));
        match reader.map_err(|fault| fault.of_row(path))? {
            ColumnReader::ByteArrayColumnReader(reader) => Ok(Column { container, group, next: 0, reader }),
            _ => Err(Fault::from("not a column of bytes").of_file(path)),
        }
    }
}

/// Runs the library's reader, for which a damaged file may be a broken promise: a panic becomes an error.
fn guarded<T>(read: impl FnOnce() -> ParquetResult<T>) -> Result<T, Fault> {
    match guard::guarded(read) {
        Some(Err(ParquetError::External(error))) => match error.downcast::<io::Error>() {
            // A place that cannot be is the file's fault.
            Ok(error) if error.raw_os_error().is_some() && error.kind() != io::ErrorKind::InvalidInput => {
                Err(Fault::System(*error))
            }
            Ok(error) => Err(error.to_string().into()),
            Err(error) => Err(error.to_string().into()),
        },
        Some(result) => result.map_err(|error| error.to_string().into()),
        None => Err("the Parquet reader gave up".into()),
    }
}
