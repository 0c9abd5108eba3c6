//! Where pictures come from: each source lists its files, and reads them one by one in that order.

mod folder;
mod tar;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::Error;

/// A folder per class, or a tar of one.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    entries: Vec<Entry>,
    classes: Vec<String>,
}

/// One file of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Path within the source, `class/file`, with the split before it where there is one.
    key: String,
    label: usize,
    place: Place,
}

/// Where an entry's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File(PathBuf),
    Archive { offset: u64, length: u64 },
}

/// A file's name, label and bytes; or why it could not be read.
#[derive(Debug)]
pub struct Item {
    /// Path within the source.
    pub key: String,
    /// Number of its class.
    pub label: usize,
    /// Its bytes, or the reason why there are none.
    pub bytes: Result<Vec<u8>, String>,
}

impl Source {
    /// Lists a folder, or a tar file. `split` names a first level such as `train`; without it, there must be none.
    ///
    /// Classes are the folder names in byte order. Files come in byte order of their paths.
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self, Error> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        let found = if metadata.is_dir() { folder::list(path, split)? } else { tar::list(path, split)? };
        Self::from_found(path, found, split)
    }

    fn from_found(path: &Path, found: Found, split: Option<&str>) -> Result<Self, Error> {
        let layout = |reason: String| Error::Layout { path: path.into(), reason };
        let classes: Vec<String> = found.classes.into_iter().collect();
        if classes.is_empty() {
            let place = split.map(|split| format!(" under `{split}`")).unwrap_or_default();
            return Err(layout(format!("no class folders{place}; expected <class>/<picture>")));
        }
        if classes.len() > usize::from(u16::MAX) {
            return Err(layout(format!("{} classes; at most 65535 are supported", classes.len())));
        }
        let mut entries: Vec<Entry> = found
            .files
            .into_iter()
            .filter_map(|(class, key, place)| {
                let label = classes.binary_search(&class).ok()?;
                Some(Entry { key, label, place })
            })
            .collect();
        entries.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
        let mut counts = vec![0; classes.len()];
        entries.iter().for_each(|entry| counts[entry.label] += 1);
        if let Some(empty) = counts.iter().position(|&count| count == 0) {
            return Err(layout(format!("class `{}` has no files", classes[empty])));
        }
        Ok(Self { path: path.into(), entries, classes })
    }

    /// The folder or archive.
    pub fn path(&self) -> &Path {
        &self.path
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

    /// Reads a file. A file that cannot be read is an item with a reason, not an error of the source.
    pub fn read(&self, index: usize) -> Item {
        let entry = &self.entries[index];
        let bytes = match &entry.place {
            Place::File(path) => std::fs::read(path),
            Place::Archive { offset, length } => tar::read(&self.path, *offset, *length),
        };
        Item { key: entry.key.clone(), label: entry.label, bytes: bytes.map_err(|e| e.to_string()) }
    }
}

/// What a listing found: all class names, and class, key and place of each file.
#[derive(Default)]
struct Found {
    classes: BTreeSet<String>,
    files: Vec<(String, String, Place)>,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
        folder
    }

    /// Written by hand, since the tar crate refuses to write such names.
    fn tar_of(names: &[&str]) -> tempfile::NamedTempFile {
        let mut bytes = Vec::new();
        for name in names {
            let mut header = ::tar::Header::new_ustar();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(name.len() as u64);
            header.set_entry_type(::tar::EntryType::Regular);
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            let mut block = [0; 512];
            block[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend_from_slice(&block);
        }
        bytes.extend_from_slice(&[0; 1024]);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        file
    }

    fn keys(source: &Source) -> Vec<(String, usize, Vec<u8>)> {
        (0..source.len())
            .map(|i| source.read(i))
            .map(|item| (item.key, item.label, item.bytes.unwrap()))
            .collect()
    }

    #[test]
    fn a_folder_and_its_tar_are_the_same() {
        let files = ["train/b/2.jpg", "train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"];
        let folder = tree(&files);
        let archive = tar_of(&files);
        let a = Source::open(folder.path(), Some("train")).unwrap();
        let b = Source::open(archive.path(), Some("train")).unwrap();
        assert_eq!(a.classes(), ["a", "b"]);
        assert_eq!(a.classes(), b.classes());
        assert_eq!(keys(&a), keys(&b));
        let names: Vec<_> = keys(&a).into_iter().map(|k| (k.0, k.1)).collect();
        assert_eq!(
            names,
            [("train/a/1.jpg".into(), 0), ("train/b/1.jpg".into(), 1), ("train/b/2.jpg".into(), 1)]
        );
    }

    #[test]
    fn what_is_not_a_folder_per_class() {
        let reason = |path: &Path, split| Source::open(path, split).unwrap_err().to_string();
        assert!(reason(Path::new("no/such"), None).starts_with("no/such: "));
        assert!(reason(tree(&["a.jpg"]).path(), None).contains("no class folders"));
        assert!(reason(tree(&["train/a/1.jpg"]).path(), Some("val")).contains("val"));
        let with_empty = tree(&["a/1.jpg"]);
        fs::create_dir(with_empty.path().join("b")).unwrap();
        assert!(reason(with_empty.path(), None).contains("class `b` has no files"));
    }

    #[test]
    fn archives_that_point_outside_are_refused() {
        for name in ["/etc/a/x.jpg", "train/../../a/x.jpg", "../a/x.jpg"] {
            let archive = tar_of(&["train/a/1.jpg", name]);
            let error = Source::open(archive.path(), Some("train")).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn a_cut_or_foreign_archive_is_refused() {
        let archive = tar_of(&["a/1.jpg", "a/2.jpg"]);
        let bytes = fs::read(archive.path()).unwrap();
        fs::write(archive.path(), &bytes[..1200]).unwrap();
        assert!(Source::open(archive.path(), None).is_err());
        fs::write(archive.path(), vec![b'x'; 2048]).unwrap();
        assert!(Source::open(archive.path(), None).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_folder_are_not_followed() {
        let outside = tree(&["secret.jpg"]);
        let folder = tree(&["a/1.jpg"]);
        std::os::unix::fs::symlink(outside.path().join("secret.jpg"), folder.path().join("a/2.jpg")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("b")).unwrap();
        let source = Source::open(folder.path(), None).unwrap();
        assert_eq!(source.classes(), ["a"]);
        assert_eq!(source.len(), 1);
    }
}
