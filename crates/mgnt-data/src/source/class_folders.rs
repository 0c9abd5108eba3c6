//! A folder per class, or a tar of that.

use std::collections::HashSet;
use std::path::Path;

use super::archive::{self, Kind, SOFT_LINK};
use super::{Classes, DEEPER, Found, Place, first_of, folder, is_hidden, not_a_file};
use crate::{Error, is_picture_name};

/// Why a picture beside the classes is skipped.
const NO_CLASS: &str = "beside the class folders, so without a class";

/// Why a link beside the classes is refused: left out, it would change the numbers of the classes behind it.
const MAY_BE_CLASS: &str =
    "a link where a class folder may be, which is not followed; the folder itself must be here";

/// Lists `[split/]<class>/<file>`. Hidden files and folders are ignored, and so are files beside the class folders that are no
/// pictures; pictures there are listed as skipped. A deeper folder is skipped as one, however many files it holds.
pub(super) fn list(path: &Path, split: Option<&str>) -> Result<Found, Error> {
    let is_folder = std::fs::metadata(path).map_err(Error::io(path))?.is_dir();
    let found = if is_folder { of_folder(path, split)? } else { of_tar(path, split)? };
    if found.entries.is_empty()
        && matches!(&found.classes, Classes::Named { classes, .. } if classes.is_empty())
    {
        let place = split.map(|split| format!(" under `{split}`")).unwrap_or_default();
        let first = first_of(&found.skipped);
        let reason = format!(
            "no class folders{place}; expected <class>/<picture>, of pictures without classes all/<picture>{first}"
        );
        return Err(Error::Layout { path: path.into(), reason });
    }
    Ok(found)
}

fn of_folder(root: &Path, split: Option<&str>) -> Result<Found, Error> {
    let top = split.map_or_else(|| root.to_path_buf(), |split| root.join(split));
    let prefix = split.map(|split| format!("{split}/")).unwrap_or_default();
    let mut found = Found::named();
    for (class, kind) in folder(&top)? {
        if is_hidden(&class) {
            continue;
        }
        if kind.is_symlink() {
            let link = top.join(&class);
            if !link.is_file() {
                return Err(Error::Layout { path: link, reason: MAY_BE_CLASS.into() });
            }
            found.skip(format!("{prefix}{class}"), not_a_file(kind));
        }
        if kind.is_file() && is_picture_name(Path::new(&class)) {
            found.skip(format!("{prefix}{class}"), NO_CLASS);
        }
        if !kind.is_dir() {
            continue;
        }
        let label = found.class(&class);
        for (file, kind) in folder(&top.join(&class))? {
            if is_hidden(&file) {
                continue;
            }
            let key = format!("{prefix}{class}/{file}");
            if kind.is_file() {
                found.push(key, label, Place::File);
            } else {
                found.skip(key, if kind.is_dir() { DEEPER } else { not_a_file(kind) });
            }
        }
    }
    Ok(found)
}

fn of_tar(path: &Path, split: Option<&str>) -> Result<Found, Error> {
    let mut found = Found::named();
    let container = found.container(path);
    let prefix = split.map(|split| format!("{split}/")).unwrap_or_default();
    let mut deeper = HashSet::new();
    for member in archive::members(path, None)? {
        let inner = member.name.strip_prefix(&prefix);
        let levels: Vec<&str> = inner.map(|inner| inner.split('/').collect()).unwrap_or_default();
        if levels.iter().any(|level| is_hidden(level)) {
            continue;
        }
        match (levels.as_slice(), member.kind) {
            ([class], Kind::Folder) if !class.is_empty() => {
                found.class(class);
            }
            ([class, _], Kind::File) => {
                let label = found.class(class);
                let place = Place::Archive { container, offset: member.offset, length: member.length };
                found.push(member.name, label, place);
            }
            // What it leads to may lie elsewhere; a picture's name is that of no class.
            ([class], SOFT_LINK) if !class.is_empty() && !is_picture_name(Path::new(class)) => {
                let reason = format!("`{}`: {MAY_BE_CLASS}", member.name);
                return Err(Error::Layout { path: path.into(), reason });
            }
            ([_], Kind::Other(reason)) => found.skip(member.name, reason),
            ([file], Kind::File) if is_picture_name(Path::new(file)) => found.skip(member.name, NO_CLASS),
            ([class, _], Kind::Other(reason)) => {
                found.class(class);
                found.skip(member.name, reason);
            }
            ([class, folder], Kind::Folder) | ([class, folder, _, ..], _) => {
                found.class(class);
                let key = format!("{prefix}{class}/{folder}");
                if deeper.insert(key.clone()) {
                    found.skip(key, DEEPER);
                }
            }
            ([_], _) | ([], _) => {}
        }
    }
    Ok(found)
}
