use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use super::shards::is_packed;
use super::{SourceOptions, archive, folder, is_hidden};
use crate::Error;

/// How a source is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `[split/]class/picture`, in a folder or a tar.
    Classes,
    /// A tar a class, in one tar (`ILSVRC2012_img_train.tar`) or in a folder; a class has its tar's name.
    Ilsvrc,
    /// Pictures side by side in a folder or a tar (`ILSVRC2012_img_val.tar`), and their classes in a text file.
    Flat,
    /// Tars with `key.jpg` and `key.cls` or `key.json`.
    WebDataset,
    /// Parquet files with the columns `image` (bytes, or a struct with `bytes`) and `label` (a number).
    Parquet,
}

/// Whether a name ends so, in capitals or not.
fn ends(name: &str, ending: &str) -> bool {
    name.to_ascii_lowercase().ends_with(ending)
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Classes => "classes",
            Self::Ilsvrc => "ilsvrc",
            Self::Flat => "flat",
            Self::WebDataset => "webdataset",
            Self::Parquet => "parquet",
        })
    }
}

/// Members that are looked at to tell the formats of tars apart.
const LOOKED_AT: usize = 16;

impl Format {
    /// Tells the format from what lies at a path.
    pub(super) fn detect(path: &Path, has_labels: bool) -> Result<Self, Error> {
        if has_labels {
            return Ok(Self::Flat);
        }
        if !fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            let mut magic = [0; 4];
            let read =
                File::open(path).and_then(|mut file| file.read(&mut magic)).map_err(Error::io(path))?;
            return Ok(if magic[..read] == *b"PAR1" { Self::Parquet } else { Self::of_tar(path) });
        }
        let mut names: Vec<String> = folder(path)?.into_iter().map(|(name, _)| name).collect();
        names.retain(|name| !is_hidden(name));
        // Links are followed here: the shards of the Hub's cache are links.
        // One that is packed is named by whoever lists its kind.
        let is_one = |name: &str, ending| ends(name, ending) || is_packed(name, ending);
        let file = |ending| names.iter().find(|name| is_one(name, ending) && path.join(name).is_file());
        let (parquet, tar) = (file(".parquet"), file(".tar"));
        let Some(shard) = parquet.or(tar) else { return Ok(Self::Classes) };
        let class =
            names.iter().find(|name| path.join(name).is_dir()).map(|name| format!("the folder `{name}`"));
        let besides = class.or(tar.filter(|tar| *tar != shard).map(|tar| format!("`{tar}`")));
        if let Some(other) = besides {
            let reason = format!(
                "has {other} and the archive `{shard}`: a format must be named that says which are meant"
            );
            return Err(Error::Layout { path: path.into(), reason });
        }
        let Some(tar) = tar else { return Ok(Self::Parquet) };
        Ok(match Self::of_tar(&path.join(tar)) {
            Self::WebDataset => Self::WebDataset,
            _ => Self::Ilsvrc,
        })
    }

    /// Whatever is wrong with the tar, its lister says.
    fn of_tar(path: &Path) -> Self {
        let names = archive::first_names(path, LOOKED_AT);
        let any = |endings: &[&str]| names.iter().any(|name| endings.iter().any(|ending| ends(name, ending)));
        if any(&[".tar"]) {
            Self::Ilsvrc
        } else if any(&[".cls", ".json"]) {
            Self::WebDataset
        } else {
            Self::Classes
        }
    }

    /// Refuses options that say nothing about this format.
    pub(super) fn check(self, options: &SourceOptions) -> Result<(), Error> {
        let refuse = |field, expected: &str| {
            Err(Error::Field { field, expected: expected.into(), got: format!("the format {self}") })
        };
        // No way out of the source: an empty one would make its pictures' keys places of the whole system.
        let is_within = |split: &&str| split.split('/').all(|name| !["", ".", ".."].contains(&name));
        if let Some(split) = options.split.as_deref().filter(|split| !is_within(split)) {
            let got = format!("`{split}`");
            return Err(Error::Field {
                field: "split",
                expected: "a folder within the source, or a word".into(),
                got,
            });
        }
        match self {
            Self::Flat if options.labels.is_none() => refuse("labels", "a file of labels for flat pictures"),
            Self::Flat | Self::Ilsvrc if options.split.is_some() => {
                refuse("split", "a format that has splits")
            }
            Self::Flat => Ok(()),
            _ if options.labels.is_some() => refuse("labels", "the format flat"),
            Self::Classes | Self::Ilsvrc if options.names.is_some() => {
                refuse("names", "a format that numbers its classes")
            }
            _ => Ok(()),
        }
    }
}
