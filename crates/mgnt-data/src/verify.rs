//! Recomputes what a store promises.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use safetensors::Dtype;

use crate::manifest::{self, MANIFEST, ShardEntry, StoreKind};
use crate::shard::Shard;
use crate::store::{self, PICTURES, StoreManifest};
use crate::tokens::{self, Manifest as TokenManifest};
use crate::{Crop, Error};

/// A store that is as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What the store holds.
    pub kind: VerifiedKind,
    /// Number of items.
    pub items: usize,
    /// Number of classes.
    pub classes: usize,
    /// Number of shards.
    pub shards: usize,
}

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VerifiedKind {
    /// Pictures.
    Pictures {
        /// Side in pixels.
        size: usize,
        /// How they were cropped.
        crop: Crop,
        /// Files that were left out.
        rejected: usize,
    },
    /// Tokens.
    Tokens {
        /// Rows and columns.
        grid: [usize; 2],
        /// Number of codes.
        codes: usize,
        /// Whether the second half are mirrored pictures.
        flips: bool,
    },
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, items, classes, shards } = self;
        match kind {
            VerifiedKind::Pictures { size, crop, rejected } => write!(
                f,
                "{items} pictures of {size}x{size} ({crop}), {classes} classes, {shards} shards, {rejected} files were left out"
            ),
            VerifiedKind::Tokens { grid: [rows, columns], codes, flips } => {
                let mirrored = if *flips { ", half of them mirrored" } else { "" };
                write!(
                    f,
                    "tokens {rows}x{columns} of {codes} codes for {items} pictures{mirrored}, {classes} classes, \
                     {shards} shards"
                )
            }
        }
    }
}

/// Reads every byte of a store of pictures or tokens: checksums, types and shapes, ranges of labels and tokens, and
/// counts must be what the manifest says. The error names the first shard that is not.
pub fn verify(path: &Path) -> Result<Verified, Error> {
    verify_telling(path, &|_, _| ())
}

/// [`verify`], which tells after each shard how many are done, of how many; from any thread.
pub fn verify_telling(path: &Path, told: &(dyn Fn(usize, usize) + Sync)) -> Result<Verified, Error> {
    match StoreKind::of(path) {
        Some(StoreKind::Tokens) => verify_tokens(path, told),
        Some(StoreKind::Pictures) => verify_pictures(path, told),
        None => {
            manifest::check_is_there(path, manifest::EITHER)?;
            // What is wrong with the manifest is for the reader of the kind that it looks like to say.
            match manifest::looks_like_tokens(path) {
                true => verify_tokens(path, told),
                false => verify_pictures(path, told),
            }
        }
    }
}

fn verify_pictures(path: &Path, told: &(dyn Fn(usize, usize) + Sync)) -> Result<Verified, Error> {
    let manifest: StoreManifest = manifest::read(path, StoreKind::Pictures, store::VERSION)?;
    let StoreManifest { size, crop, classes, counts, shards, rejected, .. } = &manifest;
    let labels = each_shard(path, shards, told, |entry| {
        let shard = Shard::open(path, entry, PICTURES, Dtype::U8, &[*size, *size, 3])?;
        shard.check_labels(&path.join(&entry.file), classes.len())?;
        Ok(shard.labels().to_vec())
    })?;
    if labels.iter().all(Vec::is_empty) {
        return Err(manifest::of_nothing(path));
    }
    let mut found = vec![0; classes.len()];
    labels.iter().flatten().for_each(|&label| found[usize::from(label)] += 1);
    if found != *counts {
        let class = (0..found.len()).find(|&class| counts.get(class) != Some(&found[class])).unwrap_or(0);
        let got = found.get(class).copied().unwrap_or(0);
        let expected = counts.get(class).map_or("no class".into(), |count| count.to_string());
        return Err(Error::store(path.join(MANIFEST), format!("count of class {class}"), expected, got));
    }
    let rejected = rejected.as_ref().map_or(Ok(Vec::new()), |list| list.read(path))?.len();
    Ok(Verified {
        kind: VerifiedKind::Pictures { size: *size, crop: *crop, rejected },
        items: found.iter().sum(),
        classes: classes.len(),
        shards: shards.len(),
    })
}

fn verify_tokens(path: &Path, told: &(dyn Fn(usize, usize) + Sync)) -> Result<Verified, Error> {
    let manifest: TokenManifest = manifest::read(path, StoreKind::Tokens, tokens::VERSION)?;
    let TokenManifest { info, flips, shards, .. } = &manifest;
    let lengths = each_shard(path, shards, told, |entry| Ok(info.open_shard(path, entry)?.len()))?;
    let items: usize = lengths.iter().sum();
    let manifest = path.join(MANIFEST);
    if items == 0 {
        return Err(manifest::of_nothing(path));
    }
    if *flips && items % 2 == 1 {
        let expected = "an even number of pictures, of which half are mirrored";
        return Err(Error::store(manifest, "flips", expected, items));
    }
    Ok(Verified {
        kind: VerifiedKind::Tokens { grid: info.grid, codes: info.codes, flips: *flips },
        items,
        classes: info.classes.len(),
        shards: shards.len(),
    })
}

/// Checks the sum of every shard and then what `check` asks, on all cores; the error is that of the first bad shard.
fn each_shard<T: Send>(
    path: &Path,
    shards: &[ShardEntry],
    told: &(dyn Fn(usize, usize) + Sync),
    check: impl Fn(&ShardEntry) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let done = AtomicUsize::new(0);
    let checked: Vec<Result<T, Error>> = shards
        .par_iter()
        .map(|entry| {
            manifest::verify(path, entry)?;
            let checked = check(entry);
            told(done.fetch_add(1, Ordering::Relaxed) + 1, shards.len());
            checked
        })
        .collect();
    checked.into_iter().collect()
}
