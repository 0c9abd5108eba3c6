//! Where pictures come from: each source lists its files once, and then reads any range of them.
//!
//! A listing holds names, classes and places, never bytes, so that its memory is some hundred bytes a picture whatever
//! the pictures weigh. What cannot be a picture (a link, a sample without its label) is listed with a reason.

mod archive;
mod class_folders;
mod flat;
mod format;
mod hold_out;
mod ilsvrc;
mod names;
mod parquet;
mod reader;
mod shards;
mod webdataset;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use sha2::{Digest, Sha256};

pub use format::Format;
pub use hold_out::HoldOut;
use names::Names;
pub use names::class_names;
pub use reader::Reader;

use crate::Error;
use crate::manifest::{MOST_CLASSES, Rejected, sha256};

/// Files above this many bytes are not read: no picture within [`crate::Limits`] needs them.
const MOST_BYTES: u64 = 256 << 20;

/// Why a folder is skipped where pictures are looked for.
const DEEPER: &str = "a folder within a class, which is not read";

/// How to read a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceOptions {
    /// How the source is laid out; told from what is there if `None`.
    pub format: Option<Format>,
    /// The part to read: a first level of folders ([`Format::Classes`]), or a word in the names of the shards
    /// or the one shard ([`Format::WebDataset`], [`Format::Parquet`]).
    pub split: Option<String>,
    /// [`Format::Flat`] only: the file that has the classes of the pictures.
    pub labels: Option<PathBuf>,
    /// Names of classes that the source numbers, one a line, from number 0 (from 1 in ILSVRC's ground truth). With
    /// [`Format::Flat`] these are the classes, whether there is a picture of each or not.
    pub names: Option<PathBuf>,
    /// The part of each class that is read; all if `None`.
    pub hold_out: Option<HoldOut>,
}

/// A set of picture files with their classes.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    format: Format,
    /// Archives and Parquet files that places refer to.
    containers: Vec<PathBuf>,
    /// What they were when they were listed, where the system told.
    listed: Vec<Option<State>>,
    entries: Vec<Entry>,
    skipped: Vec<Rejected>,
    classes: Vec<String>,
    /// Number of files of each class.
    counts: Vec<usize>,
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Its name within the source.
    key: Box<str>,
    label: u32,
    place: Place,
}

/// Where an entry's bytes lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a file of its own, named by the key.
    File,
    /// In an archive, as they are.
    Archive { container: u32, offset: u64, length: u64 },
    /// In a row of a row group of a Parquet file.
    Row { container: u32, group: u32, row: u32 },
}

impl Place {
    /// The archive or Parquet file that it is in.
    fn container(self) -> Option<usize> {
        match self {
            Place::File => None,
            Place::Archive { container, .. } | Place::Row { container, .. } => Some(container as usize),
        }
    }
}

/// One file of a [`Reader::stream`]: in memory where the container had to be unpacked, else still to be read.
#[derive(Debug)]
pub struct Item {
    /// Place within the source, 0-based.
    pub index: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Place(Place),
    Bytes(Result<Vec<u8>, Error>),
}

impl Source {
    /// Lists a source. Classes come in byte order of their names, or by number where the source numbers them.
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self, Error> {
        let format = match options.format {
            Some(format) => format,
            None => Format::detect(path, options.labels.is_some())?,
        };
        format.check(options)?;
        options.hold_out.map_or(Ok(()), HoldOut::check)?;
        let split = options.split.as_deref();
        let names = options.names.as_deref().map(Names::read).transpose()?;
        let found = match format {
            Format::Classes => class_folders::list(path, split)?,
            Format::Ilsvrc => ilsvrc::list(path)?,
            Format::Flat => flat::list(path, options.labels.as_deref(), names.as_ref())?,
            Format::WebDataset => webdataset::list(path, split, names.map(|names| names.names))?,
            Format::Parquet => parquet::list(path, split, names.map(|names| names.names))?,
        };
        Self::from_found(path, format, options, found)
    }

    fn from_found(path: &Path, format: Format, options: &SourceOptions, found: Found) -> Result<Self, Error> {
        let layout = |reason: String| Error::Layout { path: path.into(), reason };
        let Found { containers, listed, mut entries, mut skipped, classes } = found;
        let classes: Vec<String> = match classes {
            Classes::Named { classes, all_used } => {
                let mut names: Vec<(String, u32)> = classes.into_iter().collect();
                names.sort();
                let mut new_labels = vec![0; names.len()];
                for (new, (_, old)) in names.iter().enumerate() {
                    new_labels[*old as usize] = new as u32;
                }
                entries.iter_mut().for_each(|entry| entry.label = new_labels[entry.label as usize]);
                entries.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
                if let Some(empty) = counts(&entries, names.len()).iter().position(|&count| count == 0)
                    && all_used
                {
                    let split = options.split.as_deref();
                    return Err(layout(without_files(&names[empty].0, split, &skipped)));
                }
                names.into_iter().map(|(name, _)| name).collect()
            }
            Classes::Numbered(names) => {
                let count = entries.iter().map(|entry| entry.label as usize + 1).max().unwrap_or(0);
                match names {
                    Some(names) if names.len() < count => {
                        return Err(layout(format!(
                            "class number {} is used, but only {} classes have names",
                            count - 1,
                            names.len()
                        )));
                    }
                    Some(names) => names,
                    None => (0..count).map(|number| number.to_string()).collect(),
                }
            }
        };
        if entries.is_empty() {
            let first = first_of(&skipped);
            return Err(layout(format!("no pictures with classes{first}")));
        }
        if classes.len() > MOST_CLASSES {
            return Err(layout(format!("{} classes; at most {MOST_CLASSES} are supported", classes.len())));
        }
        if let Some(hold_out) = options.hold_out {
            hold_out.of(&mut entries, &mut skipped, classes.len());
            if entries.is_empty() {
                return Err(layout(format!("no class has as many files as to take {hold_out}")));
            }
        }
        let counts = counts(&entries, classes.len());
        Ok(Self { path: path.into(), format, containers, listed, entries, skipped, classes, counts })
    }

    /// The folder or archive.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the source is laid out.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Class names by number.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What was seen but cannot be a picture of a class, and why.
    pub fn skipped(&self) -> &[Rejected] {
        &self.skipped
    }

    /// Name of a file within the source.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn key(&self, index: usize) -> &str {
        &self.entries[index].key
    }

    /// Class of a file.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn label(&self, index: usize) -> usize {
        self.entries[index].label as usize
    }

    /// Whether a class has any file; where classes are numbered, some numbers may be unused.
    pub fn has_files(&self, class: usize) -> bool {
        self.counts.get(class).is_some_and(|&count| count > 0)
    }

    /// SHA-256 of the listing: of names, classes and lengths as far as they are known, not of the bytes.
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        let mut text = |text: &str| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        self.classes.iter().for_each(|class| text(class));
        self.skipped.iter().for_each(|skipped| text(&skipped.key));
        self.entries.iter().for_each(|entry| text(&entry.key));
        for entry in &self.entries {
            let length = if let Place::Archive { length, .. } = entry.place { length } else { 0 };
            digest.update(entry.label.to_le_bytes());
            digest.update(length.to_le_bytes());
        }
        sha256(&digest.finalize())
    }

    /// What tells whether the files of a range have changed since, or the archives they lie in since they were listed: a SHA-256
    /// of their lengths and times of change.
    ///
    /// # Panics
    /// Where the range ends above [`Self::len`].
    pub fn stamp(&self, range: Range<usize>) -> Result<String, Error> {
        let mut digest = Sha256::new();
        let mut last = None;
        for entry in &self.entries[range] {
            let container = entry.place.container();
            if container.is_some() && container == last {
                continue;
            }
            last = container;
            let found = match container {
                Some(container) => self.listed[container],
                None => {
                    let path = self.path.join(&*entry.key);
                    match state(&path) {
                        Ok(found) => Some(found),
                        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                        Err(error) => return Err(Error::io(path)(error)),
                    }
                }
            };
            match found {
                Some((length, changed)) => {
                    digest.update([1]);
                    digest.update(length.to_le_bytes());
                    digest.update(changed.as_nanos().to_le_bytes());
                }
                None => digest.update([0]),
            }
        }
        Ok(sha256(&digest.finalize()))
    }

    /// Fails where an archive of a range is not what was listed any more, so that what lies at its places may be something else.
    ///
    /// # Panics
    /// Where the range ends above [`Self::len`].
    pub fn check_unchanged(&self, range: Range<usize>) -> Result<(), Error> {
        let mut last = None;
        for container in self.entries[range].iter().filter_map(|entry| entry.place.container()) {
            if last.replace(container) == Some(container) {
                continue;
            }
            let path = &self.containers[container];
            if state(path).ok() != self.listed[container] {
                let reason = "has changed since it was listed; start again (anew, without what is unfinished, if its files are others)".into();
                return Err(Error::Layout { path: path.clone(), reason });
            }
        }
        Ok(())
    }

    /// Reads ranges of the files.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self)
    }

    /// The bytes of an item. [`Error::Picture`] says why a file is none that can be used; any other error is the
    /// system's, and says nothing about the file: another try may succeed.
    pub fn bytes(&self, item: Item) -> Result<Vec<u8>, Error> {
        let bytes = match item.content {
            Content::Bytes(bytes) => bytes?,
            Content::Place(Place::Archive { container, offset, length }) => {
                let path = &self.containers[container as usize];
                archive::read(path, offset, size(length)?).map_err(Error::io(path))?
            }
            Content::Place(_) => {
                let path = self.path.join(self.key(item.index));
                let file = File::open(&path).map_err(|error| match error.kind() {
                    // Removed since it was listed.
                    io::ErrorKind::NotFound => Error::Picture(error.to_string()),
                    _ => Error::io(&path)(error),
                })?;
                let length = size(file.metadata().map_err(Error::io(&path))?.len())?;
                let mut bytes = Vec::with_capacity(length);
                file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(Error::io(&path))?;
                bytes
            }
        };
        if bytes.is_empty() { Err(Error::Picture("an empty file".into())) } else { Ok(bytes) }
    }
}

/// What tells whether a file has changed: its length, and when it last did.
type State = (u64, Duration);

fn state(path: &Path) -> io::Result<State> {
    let there = fs::metadata(path)?;
    let changed = there.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((there.len(), changed.unwrap_or_default()))
}

/// What is wrong with a class of which no file is read.
fn without_files(class: &str, split: Option<&str>, skipped: &[Rejected]) -> String {
    let place = split.map_or(class.to_owned(), |split| format!("{split}/{class}"));
    let of_class = |key: &str| key.strip_prefix(&place).is_some_and(|rest| rest.starts_with('/'));
    match skipped.iter().find(|skipped| of_class(&skipped.key)) {
        Some(Rejected { key, reason }) => {
            let hint = if reason == DEEPER {
                format!(" (name `{place}` as the split if its folders are the classes)")
            } else {
                String::new()
            };
            format!("class `{class}` has no files; {key}: {reason}{hint}")
        }
        None => format!("class `{class}` has no files"),
    }
}

/// A length that may be read.
fn size(length: u64) -> Result<usize, Error> {
    match usize::try_from(length) {
        Ok(size) if length <= MOST_BYTES => Ok(size),
        _ => Err(Error::Picture(format!("{length} bytes; at most {MOST_BYTES} are read"))),
    }
}

/// Number of files of each class.
fn counts(entries: &[Entry], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    entries.iter().for_each(|entry| counts[entry.label as usize] += 1);
    counts
}

/// What a listing found.
struct Found {
    containers: Vec<PathBuf>,
    /// What each was before it was read.
    listed: Vec<Option<State>>,
    entries: Vec<Entry>,
    skipped: Vec<Rejected>,
    classes: Classes,
}

/// How a source tells its classes.
enum Classes {
    /// By names, each with the label that entries carry until the names are sorted. Unless `all_used`, some may have no
    /// files.
    Named { classes: HashMap<String, u32>, all_used: bool },
    /// By numbers, which may have names.
    Numbered(Option<Vec<String>>),
}

impl Found {
    fn named() -> Self {
        Self::new(Classes::Named { classes: HashMap::new(), all_used: true })
    }

    fn new(classes: Classes) -> Self {
        Self { containers: Vec::new(), listed: Vec::new(), entries: Vec::new(), skipped: Vec::new(), classes }
    }

    /// The label of a class name.
    fn class(&mut self, name: &str) -> u32 {
        let known = self.known(name);
        let Classes::Named { classes, .. } = &mut self.classes else { return 0 };
        known.unwrap_or_else(|| {
            let label = classes.len() as u32;
            classes.insert(name.into(), label);
            label
        })
    }

    /// The label of a class name that there is already.
    fn known(&self, name: &str) -> Option<u32> {
        let Classes::Named { classes, .. } = &self.classes else { return None };
        classes.get(name).copied()
    }

    /// A file that others lie in, before it is read.
    fn container(&mut self, path: &Path) -> u32 {
        self.listed.push(state(path).ok());
        self.containers.push(path.into());
        self.containers.len() as u32 - 1
    }

    fn push(&mut self, key: impl Into<Box<str>>, label: u32, place: Place) {
        self.entries.push(Entry { key: key.into(), label, place });
    }

    fn skip(&mut self, key: impl Into<String>, reason: impl Into<String>) {
        self.skipped.push(Rejected { key: key.into(), reason: reason.into() });
    }
}

/// The entries of a folder in byte order of their names, which must be text.
fn folder(path: &Path) -> Result<Vec<(String, fs::FileType)>, Error> {
    let mut entries = fs::read_dir(path)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(Error::io(path))?
        .into_iter()
        .map(|entry| {
            let kind = entry.file_type().map_err(Error::io(entry.path()))?;
            match entry.file_name().into_string() {
                Ok(name) => Ok((name, kind)),
                Err(name) => {
                    let reason = format!("the name {name:?} is not UTF-8");
                    Err(Error::Layout { path: path.into(), reason })
                }
            }
        })
        .collect::<Result<Vec<_>, Error>>()?;
    entries.sort_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
    Ok(entries)
}

/// The first that was skipped, at the end of an error.
fn first_of(skipped: &[Rejected]) -> String {
    skipped.first().map(|s| format!("; {}: {}", s.key, s.reason)).unwrap_or_default()
}

/// Whether a file or folder is hidden, as those are that systems and editors leave beside data.
pub(crate) fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
}

/// Why an entry of a folder is not read.
fn not_a_file(kind: fs::FileType) -> &'static str {
    if kind.is_symlink() { "a link, which is not followed" } else { "not a regular file" }
}
