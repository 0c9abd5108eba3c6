use std::fs;
use std::path::Path;

use super::{Found, Place};
use crate::Error;

/// Lists `<root>[/split]/<class>/<file>`. Links are not followed, hidden files and deeper folders are passed over.
pub(super) fn list(root: &Path, split: Option<&str>) -> Result<Found, Error> {
    let top = split.map_or_else(|| root.to_path_buf(), |split| root.join(split));
    let mut found = Found::default();
    for class in entries(&top)? {
        let kind = class.file_type().map_err(Error::io(class.path()))?;
        let name = text(&class)?;
        if !kind.is_dir() || name.starts_with('.') {
            continue;
        }
        for file in entries(&class.path())? {
            let kind = file.file_type().map_err(Error::io(file.path()))?;
            let file_name = text(&file)?;
            if !kind.is_file() || file_name.starts_with('.') {
                continue;
            }
            let key = match split {
                Some(split) => format!("{split}/{name}/{file_name}"),
                None => format!("{name}/{file_name}"),
            };
            found.files.push((name.clone(), key, Place::File(file.path())));
        }
        found.classes.insert(name);
    }
    Ok(found)
}

fn entries(path: &Path) -> Result<Vec<fs::DirEntry>, Error> {
    fs::read_dir(path).and_then(Iterator::collect).map_err(Error::io(path))
}

fn text(entry: &fs::DirEntry) -> Result<String, Error> {
    entry.file_name().into_string().map_err(|name| Error::Layout {
        path: entry.path(),
        reason: format!("the name {name:?} is not UTF-8"),
    })
}
