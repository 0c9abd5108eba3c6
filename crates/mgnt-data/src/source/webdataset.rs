//! WebDataset shards: tars in which files of one name and different endings are one sample.

use std::path::Path;

use serde_json::Value;

use super::archive::{self, Kind, Member};
use super::shards::shards_of_split;
use super::{Classes, Found, Place, is_hidden};
use crate::Error;
use crate::manifest::MOST_CLASSES;

/// Endings of pictures.
const PICTURES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "ppm", "img"];
/// Bytes of a label file; what is longer is none.
const MOST_LABEL_BYTES: u64 = 1 << 20;

/// A sample that is being put together; its files follow each other.
struct Sample {
    name: String,
    picture: Option<(String, Place)>,
    /// From `.cls`, or else from `.json`.
    label: Option<Result<usize, String>>,
}

/// Lists the samples of all shards, in their order. `names` are the names of the class numbers.
pub(super) fn list(path: &Path, split: Option<&str>, names: Option<Vec<String>>) -> Result<Found, Error> {
    let mut found = Found::new(Classes::Numbered(names));
    for tar in shards_of_split(path, ".tar", split)? {
        let container = found.container(&tar);
        let shard = tar.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut sample: Option<Sample> = None;
        for member in archive::members(&tar, None)? {
            if member.name.split('/').any(is_hidden) {
                continue;
            }
            match member.kind {
                Kind::Folder => continue,
                Kind::Other(reason) => {
                    found.skip(format!("{shard}/{}", member.name), reason);
                    continue;
                }
                Kind::File => {}
            }
            let Some((name, ending)) = split_name(&member.name) else { continue };
            if sample.as_ref().is_none_or(|sample| sample.name != name) {
                finish(sample.take(), &shard, &mut found);
                sample = Some(Sample { name: name.to_owned(), picture: None, label: None });
            }
            if let Some(sample) = &mut sample {
                let ending = ending.to_ascii_lowercase();
                take(sample, &tar, container, &ending, &member)?;
            }
        }
        finish(sample, &shard, &mut found);
    }
    Ok(found)
}

/// A member's sample and ending: the file's name is cut at its first dot.
fn split_name(path: &str) -> Option<(&str, &str)> {
    let file = path.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + path[file..].find('.')?;
    (dot > file).then(|| (&path[..dot], &path[dot + 1..]))
}

fn take(sample: &mut Sample, tar: &Path, container: u32, ending: &str, member: &Member) -> Result<(), Error> {
    let text = || -> Result<Result<String, String>, Error> {
        if member.length > MOST_LABEL_BYTES {
            return Ok(Err(format!("a label of {} bytes", member.length)));
        }
        let bytes = archive::read(tar, member.offset, member.length as usize).map_err(Error::io(tar))?;
        Ok(String::from_utf8(bytes).map_err(|_| "a label that is not text".into()))
    };
    match ending {
        "cls" => {
            let number = |text: String| number(text.trim().parse().ok(), text.trim());
            sample.label = Some(text()?.and_then(number));
        }
        "json" if sample.label.is_none() => {
            sample.label = match text()?.map(|text| serde_json::from_str::<Value>(&text)) {
                Ok(Ok(value)) => {
                    let field = value.get("label").or_else(|| value.get("cls"));
                    field.map(|field| number(field.as_i64(), &field.to_string()))
                }
                Ok(Err(error)) => Some(Err(format!("unreadable JSON: {error}"))),
                Err(reason) => Some(Err(reason)),
            };
        }
        _ if PICTURES.contains(&ending) && sample.picture.is_none() => {
            let place = Place::Archive { container, offset: member.offset, length: member.length };
            sample.picture = Some((member.name.clone(), place));
        }
        _ => {}
    }
    Ok(())
}

fn number(number: Option<i64>, text: &str) -> Result<usize, String> {
    let number = number.and_then(|number| usize::try_from(number).ok());
    number.filter(|&number| number < MOST_CLASSES).ok_or_else(|| {
        let start: String = text.chars().take(40).collect();
        format!("the label `{start}` is not a class number")
    })
}

fn finish(sample: Option<Sample>, shard: &str, found: &mut Found) {
    let Some(Sample { name, picture, label }) = sample else { return };
    match (picture, label) {
        (Some((key, place)), Some(Ok(label))) => found.push(format!("{shard}/{key}"), label as u32, place),
        (Some((key, _)), Some(Err(reason))) => found.skip(format!("{shard}/{key}"), reason),
        (Some((key, _)), None) => {
            found.skip(format!("{shard}/{key}"), "no label (.cls, or .json with `label`)")
        }
        (None, Some(_)) => found.skip(format!("{shard}/{name}"), "no picture of that name"),
        (None, None) => {}
    }
}
