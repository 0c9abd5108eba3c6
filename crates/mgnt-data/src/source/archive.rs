//! Tar archives: where the bytes of each member lie.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use tar::EntryType;

use crate::Error;

/// One member of an archive.
pub(super) struct Member {
    /// Its path: the names of its levels with one `/` between.
    pub name: String,
    pub kind: Kind,
    /// Where its bytes begin, from the start of the file.
    pub offset: u64,
    pub length: u64,
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Folder,
    /// Anything else, which is not read.
    Other(&'static str),
}

/// A symbolic link: only such a one may lead to a folder.
pub(super) const SOFT_LINK: Kind = Kind::Other("a link, which is not followed");
const HARD_LINK: Kind = Kind::Other("a hard link, which is not followed");
/// As GNU tar writes a file that it has written before under that name.
const LINK_TO_ITSELF: Kind = Kind::Other("a hard link to itself");
const SPARSE: Kind = Kind::Other("a sparse file, which is not read");

/// A part of a file, as if it were a file.
struct Section<'a> {
    file: File,
    /// Set where more was asked for at its end.
    ran_out: &'a Cell<bool>,
    start: u64,
    length: u64,
    position: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.length.saturating_sub(self.position);
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let read = self.file.read(&mut buffer[..most])?;
        self.position += read as u64;
        if read == 0 && !buffer.is_empty() {
            self.ran_out.set(true);
        }
        Ok(read)
    }
}

impl Seek for Section<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        let whole = target.and_then(|target| Some((target, self.start.checked_add(target)?)));
        let (target, absolute) = whole.ok_or(io::ErrorKind::InvalidInput)?;
        self.file.seek(SeekFrom::Start(absolute))?;
        self.position = target;
        Ok(target)
    }
}

/// The members of the archive, or of the archive within it that `section` (offset and length) is. Of a name that comes
/// again, as it does where files were appended, the last one counts that is no link to itself; it has the place of the first.
/// A name that leaves the archive, a member that is cut off, or no end mark makes it suspect as a whole.
pub(super) fn members(path: &Path, section: Option<(u64, u64)>) -> Result<Vec<Member>, Error> {
    let mut members = walk(path, section)?;
    let mut by_name: Vec<usize> = (0..members.len()).collect();
    by_name.sort_by(|&a, &b| members[a].name.cmp(&members[b].name));
    let mut counts = vec![true; members.len()];
    let mut last_for_first = Vec::new();
    for same in by_name.chunk_by(|&a, &b| members[a].name == members[b].name) {
        if let [first, .., last] = *same {
            let last = same.iter().copied().rfind(|&at| members[at].kind != LINK_TO_ITSELF).unwrap_or(last);
            same[1..].iter().for_each(|&again| counts[again] = false);
            last_for_first.push((first, last));
        }
    }
    last_for_first.into_iter().for_each(|(first, last)| members.swap(first, last));
    let mut counts = counts.into_iter();
    members.retain(|_| counts.next().unwrap_or(true));
    Ok(members)
}

fn walk(path: &Path, section: Option<(u64, u64)>) -> Result<Vec<Member>, Error> {
    let layout = |reason: String| Error::Layout { path: path.into(), reason };
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (start, length) = match section {
        Some(section) => section,
        None => (0, file.metadata().map_err(Error::io(path))?.len()),
    };
    let unreadable = |e: io::Error| {
        layout(match compression(path, start) {
            Some(what) => format!("{what}, which is not read; unpack it to a tar or a folder first"),
            None => format!("not a readable tar archive: {e}"),
        })
    };
    file.seek(SeekFrom::Start(start)).map_err(Error::io(path))?;
    let ran_out = Cell::new(false);
    let section = Section { file, ran_out: &ran_out, start, length, position: 0 };
    // Two headers at a time: what lies between them is skipped, not read.
    let mut archive = tar::Archive::new(BufReader::with_capacity(1024, section));
    let mut members = Vec::new();
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let kind = match entry.header().entry_type() {
            // What it says of all members does not matter here.
            EntryType::XGlobalHeader => continue,
            // The second is to be read as the first (POSIX), and Python's tarfile can write it.
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Directory => Kind::Folder,
            EntryType::Link => HARD_LINK,
            EntryType::Symlink => SOFT_LINK,
            EntryType::GNUSparse => SPARSE,
            _ => Kind::Other("not a regular file"),
        };
        let (kind, path) = match sparse_name(&mut entry) {
            Some(name) => (SPARSE, name),
            None => (kind, entry.path_bytes().into_owned()),
        };
        let name = String::from_utf8(path)
            .map_err(|e| layout(format!("entry {:?} is not UTF-8", String::from_utf8_lossy(e.as_bytes()))))?;
        let outside = |c: Component| !matches!(c, Component::Normal(_) | Component::CurDir);
        if Path::new(&name).components().any(outside) {
            return Err(layout(format!("entry `{name}` points outside the archive")));
        }
        let offset = entry.raw_file_position();
        // The size of a sparse file is not that of what is here of it.
        if kind != SPARSE && offset.checked_add(entry.size()).is_none_or(|end| end > length) {
            return Err(layout(format!("entry `{name}` is cut off: the archive is truncated")));
        }
        let name = levels_of(&name);
        let is_itself = |to: &[u8]| std::str::from_utf8(to).is_ok_and(|to| levels_of(to) == name);
        let kind = match kind {
            HARD_LINK if entry.link_name_bytes().is_some_and(|to| is_itself(&to)) => LINK_TO_ITSELF,
            kind => kind,
        };
        members.push(Member { name, kind, offset: start + offset, length: entry.size() });
    }
    if ran_out.get() {
        return Err(layout("the end mark of a tar archive is missing: the archive is truncated".into()));
    }
    Ok(members)
}

/// The levels of a path with one `/` between.
fn levels_of(path: &str) -> String {
    let levels: Vec<&str> = path.split('/').filter(|level| !matches!(*level, "" | ".")).collect();
    levels.join("/")
}

/// What begins at a place of a file, if it is compressed.
fn compression(path: &Path, start: u64) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "compressed with gzip"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"BZh", "compressed with bzip2"),
        (b"\xfd7zXZ", "compressed with xz"),
    ];
    let mut first = Vec::new();
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(start)).ok()?;
    file.take(8).read_to_end(&mut first).ok()?;
    KINDS.iter().find(|(magic, _)| first.starts_with(magic)).map(|(_, what)| *what)
}

/// The name of a sparse file that POSIX's extensions describe: a regular member of another name, of which a part is the
/// map of its holes.
fn sparse_name(entry: &mut tar::Entry<impl Read>) -> Option<Vec<u8>> {
    let extensions = entry.pax_extensions().ok()??;
    let name = extensions.flatten().find(|extension| extension.key_bytes() == b"GNU.sparse.name")?;
    Some(name.value_bytes().to_vec())
}

/// Names of the first files of an archive, none if it is none.
pub(super) fn first_names(path: &Path, count: usize) -> Vec<String> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let mut archive = tar::Archive::new(BufReader::new(file));
    let Ok(entries) = archive.entries_with_seek() else { return Vec::new() };
    entries
        .map_while(Result::ok)
        .filter(|entry| entry.header().entry_type().is_file())
        .take(count)
        .map(|entry| String::from_utf8_lossy(&entry.path_bytes()).into_owned())
        .collect()
}

/// Reads `length` bytes at an offset.
pub(super) fn read(path: &Path, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
