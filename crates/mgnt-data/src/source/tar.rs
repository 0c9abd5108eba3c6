use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Component, Path};

use super::{Found, Place};
use crate::Error;

/// Lists `[split/]<class>/<file>` of an archive. A name that leaves the archive makes it suspect as a whole.
pub(super) fn list(path: &Path, split: Option<&str>) -> Result<Found, Error> {
    let layout = |reason: String| Error::Layout { path: path.into(), reason };
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let mut archive = tar::Archive::new(BufReader::new(file));
    let unreadable = |e: io::Error| layout(format!("not a readable tar archive: {e}"));
    let mut found = Found::default();
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = String::from_utf8(entry.path_bytes().into_owned())
            .map_err(|e| layout(format!("entry {:?} is not UTF-8", String::from_utf8_lossy(e.as_bytes()))))?;
        let outside = |c: Component| !matches!(c, Component::Normal(_) | Component::CurDir);
        if Path::new(&name).components().any(outside) {
            return Err(layout(format!("entry `{name}` points outside the archive")));
        }
        let offset = entry.raw_file_position();
        if offset.checked_add(entry.size()).is_none_or(|end| end > length) {
            return Err(layout(format!("entry `{name}` is cut off: the archive is truncated")));
        }
        let name = name.trim_start_matches("./").trim_end_matches('/');
        let inner = match split {
            None => Some(name),
            Some(split) => name.strip_prefix(split).and_then(|rest| rest.strip_prefix('/')),
        };
        let kind = entry.header().entry_type();
        match inner.map(|inner| inner.split('/').collect::<Vec<_>>()).as_deref() {
            Some([class]) if kind.is_dir() && !class.is_empty() => {
                found.classes.insert((*class).to_owned());
            }
            Some([class, file]) if kind.is_file() && !file.starts_with('.') => {
                found.classes.insert((*class).to_owned());
                let place = Place::Archive { offset, length: entry.size() };
                found.files.push(((*class).to_owned(), name.to_owned(), place));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Reads one entry's bytes.
pub(super) fn read(path: &Path, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
