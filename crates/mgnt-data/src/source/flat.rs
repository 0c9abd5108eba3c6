//! Pictures side by side, and a text file that has their classes, as ILSVRC2012's validation pictures come.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::archive::{self, Kind};
use super::{Found, Place, folder, is_hidden, not_a_file};
use crate::Error;

/// Label files and lists of names are small; what is larger is something else.
const MOST_BYTES: u64 = 64 << 20;

/// The lines of a text file that are not empty.
pub(super) fn lines(path: &Path) -> Result<Vec<String>, Error> {
    let length = std::fs::metadata(path).map_err(Error::io(path))?.len();
    if length > MOST_BYTES {
        let reason = format!("{length} bytes; a list has at most {MOST_BYTES}");
        return Err(Error::Layout { path: path.into(), reason });
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

/// The classes of the pictures.
enum Labels {
    /// A class for each picture, in byte order of their names.
    InOrder(Vec<String>),
    /// A class for each name, with or without the ending.
    ByName(HashMap<String, String>),
}

impl Labels {
    /// Reads lines `class`, or `picture class` (also with a comma; what follows is passed over).
    fn read(path: &Path) -> Result<Self, Error> {
        let lines = lines(path)?;
        let columns = |line: &str| -> Vec<String> {
            let parts = line.split([',', ' ', '\t']).filter(|part| !part.is_empty());
            parts.take(2).map(str::to_owned).collect()
        };
        let rows: Vec<Vec<String>> = lines.iter().map(|line| columns(line)).collect();
        let width = rows.first().map_or(1, Vec::len);
        if let Some(odd) = rows.iter().position(|row| row.len() != width) {
            let reason = format!("line `{}` has not as many columns as the first", lines[odd]);
            return Err(Error::Layout { path: path.into(), reason });
        }
        Ok(if width == 1 {
            Self::InOrder(rows.into_iter().flatten().collect())
        } else {
            let mut classes = HashMap::new();
            for [name, class] in rows.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok()) {
                if classes.get(&name).is_some_and(|known| *known != class) {
                    return Err(Error::Layout {
                        path: path.into(),
                        reason: format!("`{name}` has two classes"),
                    });
                }
                classes.insert(name, class);
            }
            Self::ByName(classes)
        })
    }
}

/// Lists the pictures of a folder or tar. Classes that are numbers are places in `names`, the first being 1.
pub(super) fn list(path: &Path, labels: Option<&Path>, names: Option<&[String]>) -> Result<Found, Error> {
    let labels_path = labels.unwrap_or(path);
    let layout = |reason: String| Error::Layout { path: labels_path.into(), reason };
    let labels = Labels::read(labels_path)?;
    // Classes are known by their names: numbers that share one would become one class.
    let mut seen = HashSet::new();
    if let Some(twice) = names.into_iter().flatten().find(|name| !seen.insert(name.as_str())) {
        return Err(layout(format!("two classes are called `{twice}`; each needs a name of its own")));
    }
    let mut found = Found::named();
    if std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        for (name, kind) in folder(path)? {
            if kind.is_file() && !is_hidden(&name) {
                found.push(name, 0, Place::File);
            } else if !kind.is_dir() && !kind.is_file() {
                found.skip(name, not_a_file(kind));
            }
        }
    } else {
        let container = found.container(path);
        archive::walk(path, None, &mut |member| {
            let hidden = member.name.split('/').any(is_hidden);
            match member.kind {
                Kind::File if !hidden => {
                    let place = Place::Archive { container, offset: member.offset, length: member.length };
                    found.push(member.name, 0, place);
                }
                Kind::Other(reason) => found.skip(member.name, reason),
                Kind::File | Kind::Folder => {}
            }
            Ok(())
        })?;
    }
    found.entries.sort_by(|a, b| a.key.as_bytes().cmp(b.key.as_bytes()));
    if let Labels::InOrder(classes) = &labels
        && classes.len() != found.entries.len()
    {
        return Err(layout(format!("{} labels for {} pictures", classes.len(), found.entries.len())));
    }
    let mut entries = std::mem::take(&mut found.entries);
    for (at, entry) in entries.iter_mut().enumerate() {
        let class = match &labels {
            Labels::InOrder(classes) => &classes[at],
            Labels::ByName(classes) => {
                let file = entry.key.rsplit('/').next().unwrap_or_default();
                let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
                let known = classes.get(file).or_else(|| classes.get(stem));
                known.ok_or_else(|| layout(format!("no label for `{}`", entry.key)))?
            }
        };
        entry.label = match (class.parse::<usize>(), names) {
            (Ok(number), Some(names)) => {
                let name = number.checked_sub(1).and_then(|place| names.get(place)).ok_or_else(|| {
                    layout(format!("class {number}; the names are of classes 1 to {}", names.len()))
                })?;
                found.class(name)
            }
            (Ok(number), None) => {
                return Err(layout(format!(
                    "class {number} is a number; a file of the classes' names is needed"
                )));
            }
            (Err(_), _) => found.class(class),
        };
    }
    found.entries = entries;
    Ok(found)
}
