//! ILSVRC2012's training pictures as they are handed out: one tar of a tar per class (`n01440764.tar`, ...), or those
//! class tars in a folder. Names and order are those of the same pictures in a folder per class.

use std::collections::HashMap;
use std::path::Path;

use super::archive::{self, Kind, Member};
use super::shards::{is_packed, packed, shards};
use super::{Found, Place, is_hidden};
use crate::Error;

const ENDING: &str = ".tar";

/// Lists the pictures of every class tar.
pub(super) fn list(path: &Path) -> Result<Found, Error> {
    let mut found = Found::named();
    if std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
        for tar in shards(path, ENDING, None)? {
            let name = tar.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            class_tar(&tar, &name, None, &mut found)?;
        }
        return Ok(found);
    }
    let (mut tars, mut members) = (Vec::new(), HashMap::new());
    for member in archive::members(path, None)? {
        let file = member.name.rsplit('/').next().unwrap_or_default();
        if member.name.split('/').any(is_hidden) {
            continue;
        }
        match (member.kind, file.strip_suffix(ENDING)) {
            (Kind::Folder, _) => {}
            (Kind::File, Some(class)) if !class.is_empty() => {
                tars.push((class.to_owned(), member.offset, member.length));
                if let Some(other) = members.insert(class.to_owned(), member.name.clone()) {
                    let reason =
                        format!("`{other}` and `{}` are both tars of the class `{class}`", member.name);
                    return Err(Error::Layout { path: path.into(), reason });
                }
            }
            // Without its class the numbers of those behind it would change.
            (_, None) if is_packed(file, ENDING) => return Err(packed(path, file, ENDING)),
            (Kind::Other(reason), Some(_)) => {
                let reason =
                    format!("`{}`: {reason}; the tar of a class must be here as a plain file", member.name);
                return Err(Error::Layout { path: path.into(), reason });
            }
            (Kind::File, _) => found.skip(member.name, "not a tar of a class"),
            (Kind::Other(reason), _) => found.skip(member.name, reason),
        }
    }
    for (class, offset, length) in tars {
        class_tar(path, &class, Some((offset, length)), &mut found)?;
    }
    Ok(found)
}

fn class_tar(path: &Path, class: &str, section: Option<(u64, u64)>, found: &mut Found) -> Result<(), Error> {
    let container = match found.containers.iter().position(|known| known == path) {
        Some(container) if section.is_some() => container as u32,
        _ => found.container(path),
    };
    let label = found.class(class);
    let members = archive::members(path, section).map_err(|error| match error {
        Error::Layout { path, reason } if section.is_some() => {
            Error::Layout { path, reason: format!("{class}{ENDING} within it: {reason}") }
        }
        other => other,
    })?;
    for Member { name, kind, offset, length } in members {
        if name.split('/').any(is_hidden) {
            continue;
        }
        let key = format!("{class}/{name}");
        match kind {
            // The pictures would be tars of a hundred megabytes each.
            Kind::File if section.is_none() && name.ends_with(ENDING) => {
                let reason = format!("holds `{name}`: a tar of tars of classes is a source by itself");
                return Err(Error::Layout { path: path.into(), reason });
            }
            Kind::File => found.push(key, label, Place::Archive { container, offset, length }),
            Kind::Other(reason) => found.skip(key, reason),
            Kind::Folder => {}
        }
    }
    Ok(())
}
