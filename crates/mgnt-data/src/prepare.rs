//! Packs a source into a store, on all cores, in memory that does not grow with it, and so that it can be resumed.
//!
//! Shard number k is made of a fixed range of the source's files, less those that are no usable pictures. So it
//! depends on nothing but the source and the options: neither on threads nor on what was done before a kill.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use mgnt_weights::atomic;
use rayon::prelude::*;
use safetensors::Dtype;
use serde::Serialize;

use crate::error::printable;
use crate::manifest::{Rejected, RejectedList, StoreKind};
use crate::picture::{Limits, Picture};
use crate::shard::{self, Shard};
use crate::source::{HoldOut, Item, Reader, Source, SourceOptions};
use crate::store::{PICTURES, StoreManifest, VERSION};
use crate::unfinished::{Record, Unfinished, put_back};
use crate::{Crop, Error, MADE_BY};

/// What to make of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// How the source is read.
    pub source: SourceOptions,
    /// Side of the square pictures in pixels.
    pub size: usize,
    /// How pictures are cropped and resized.
    pub crop: Crop,
    /// Whether pictures are turned first as their metadata (EXIF) asks for, as viewers show them.
    pub upright: bool,
    /// Share of files that may be rejected, 0 to 1.
    pub max_rejected: f64,
    /// Files a shard; as many as make 64 MiB if `None`. Up to three shards are in memory at a time.
    pub shard_items: Option<usize>,
    /// Sizes that are refused.
    pub limits: Limits,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            source: SourceOptions::default(),
            size: 256,
            crop: Crop::default(),
            upright: false,
            max_rejected: 0.01,
            shard_items: None,
            limits: Limits::default(),
        }
    }
}

/// What came of a preparation.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareReport {
    /// Pictures packed.
    pub pictures: usize,
    /// Classes found.
    pub classes: usize,
    /// Files left out.
    pub rejected: Vec<Rejected>,
    /// Shards that were there from a preparation that was stopped.
    pub shards_resumed: usize,
}

/// Bytes of pictures in a shard.
const SHARD_BYTES: usize = 64 << 20;

/// Times that memory holds a shard: one is filled while the last one is written, as the bytes of a file that were copied
/// from its pictures.
const IN_MEMORY: usize = 3;

/// Pictures of more pixels than this are decoded one at a time, so that many large ones at once do not fill the
/// memory.
const LARGE: usize = 1 << 23;

/// What decides the bytes of a store, and so which unfinished one may be continued.
#[derive(Serialize)]
struct Plan<'a> {
    made_by: &'a str,
    /// Where the source lies, links followed: another of the same names may hold other pictures. As it is shown where it is no
    /// text.
    place: String,
    source: String,
    listing: String,
    size: usize,
    crop: Crop,
    /// Left out where it is not asked for, so that what was begun before it could be is continued.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    upright: bool,
    shard_items: usize,
    limits: [usize; 3],
}

/// Packs every file of `source` into a new store at `out`; `progress` hears of files done and files in all.
///
/// A file that is no usable picture is left out and listed with its reason. Where their share is above
/// `max_rejected`, no store is made. An older store at `out` is replaced only by a whole new one. A preparation that
/// was stopped leaves `<out>.part`, and the same call continues it.
pub fn prepare(
    source: &Path,
    options: &PrepareOptions,
    out: &Path,
    progress: &mut (dyn FnMut(usize, usize) + Send),
) -> Result<PrepareReport, Error> {
    options.check()?;
    put_back(out)?;
    check_outside(source, options.source.split.as_deref(), out)?;
    let source = Source::open(source, &options.source)?;
    let place = std::fs::canonicalize(source.path()).map_err(Error::io(source.path()))?;
    let name = describe(source.path(), &place, &options.source);
    let shard_items = options.shard_items.unwrap_or_else(|| {
        (SHARD_BYTES / options.item_bytes()).max(source.len().div_ceil(shard::MOST_SHARDS)).max(1)
    });
    shard::check_count(source.len(), 1, shard_items)?;
    let times = if source.len() > shard_items { IN_MEMORY } else { IN_MEMORY - 1 };
    shard::check_memory(shard_items.min(source.len()), options.item_bytes(), times)?;
    let limits = options.limits;
    let plan = Plan {
        made_by: MADE_BY,
        place: place.display().to_string(),
        source: name.clone(),
        listing: source.fingerprint(),
        size: options.size,
        crop: options.crop,
        upright: options.upright,
        shard_items,
        limits: [limits.shortest, limits.longest, limits.pixels],
    };
    let unfinished = Unfinished::open(out, StoreKind::Pictures, &plan)?;
    let job = Job { source: &source, options, shard_items, unfinished: &unfinished };
    let (records, shards_resumed) = job.run(progress)?;

    let mut rejected = source.skipped().to_vec();
    let mut shards = Vec::new();
    for record in records {
        rejected.extend(record.rejected);
        shards.extend(record.shard);
    }
    job.accept(&rejected)?;
    unfinished.check()?;
    let mut counts = vec![0; source.classes().len()];
    for entry in &shards {
        let shape = [options.size, options.size, 3];
        let shard = Shard::open(&unfinished.folder(), entry, PICTURES, Dtype::U8, &shape)?;
        shard.labels().iter().for_each(|&label| counts[usize::from(label)] += 1);
    }
    job.accept_counts(&counts)?;
    let manifest = StoreManifest {
        version: VERSION,
        size: options.size,
        crop: options.crop,
        upright: options.upright,
        made_by: MADE_BY.into(),
        source: name,
        classes: source.classes().to_vec(),
        counts: counts.clone(),
        shards,
        rejected: RejectedList::write(&unfinished.folder(), &rejected)?,
    };
    unfinished.publish(&manifest)?;
    Ok(PrepareReport { pictures: counts.iter().sum(), classes: counts.len(), rejected, shards_resumed })
}

impl PrepareOptions {
    fn check(&self) -> Result<(), Error> {
        let refuse =
            |field, expected: &str, got: String| Err(Error::Field { field, expected: expected.into(), got });
        if !(1..=4096).contains(&self.size) {
            return refuse("size", "1 to 4096", self.size.to_string());
        }
        if !(0.0..=1.0).contains(&self.max_rejected) {
            return refuse("share of rejected files", "0 to 1", self.max_rejected.to_string());
        }
        if self.shard_items == Some(0) {
            return Err(Error::ShardItems { expected: "at least 1".into(), got: 0 });
        }
        Ok(())
    }

    fn item_bytes(&self) -> usize {
        self.size * self.size * 3
    }
}

/// Pictures of a shard one after the other, with their labels.
struct Filled {
    number: usize,
    stamp: String,
    pictures: Vec<u8>,
    labels: Vec<u16>,
    rejected: Vec<Rejected>,
}

/// A preparation under way.
struct Job<'a> {
    source: &'a Source,
    options: &'a PrepareOptions,
    shard_items: usize,
    unfinished: &'a Unfinished,
}

impl Job<'_> {
    /// Makes the shards that are not there yet; returns all records in order, and how many were there.
    fn run(&self, progress: &mut (dyn FnMut(usize, usize) + Send)) -> Result<(Vec<Record>, usize), Error> {
        let total = self.source.len();
        let shards = 0..total.div_ceil(self.shard_items);
        let mut records: Vec<Option<Record>> =
            shards.into_par_iter().map(|number| self.finished(number)).collect::<Result<_, Error>>()?;
        let resumed = records.iter().flatten().count();
        let done = (0..records.len()).filter(|&n| records[n].is_some()).map(|n| self.range(n).len()).sum();
        progress(done, total);
        let progress = Mutex::new((done, progress));
        let one_done = || {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.0 += 1;
            let done = progress.0;
            (progress.1)(done, total);
        };
        // Nothing waits in the channel: the next shard is filled while the last one is written.
        let (filled, to_write) = sync_channel(0);
        thread::scope(|scope| {
            let writer = scope.spawn(move || self.write_all(to_write));
            let made = self.fill_all(&records, &filled, &one_done);
            drop(filled);
            // The writer's error is why the other side was not heard.
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            made?;
            for (number, record) in written {
                records[number] = Some(record);
            }
            Ok((records.into_iter().flatten().collect(), resumed))
        })
    }

    /// The record of a shard, if it is finished and its files are still those that it was made of.
    fn finished(&self, number: usize) -> Result<Option<Record>, Error> {
        let Some(record) = self.unfinished.record(number) else { return Ok(None) };
        let stamp = self.source.stamp(self.range(number))?;
        Ok((record.stamp == Some(stamp)).then_some(record))
    }

    fn range(&self, number: usize) -> Range<usize> {
        let start = number * self.shard_items;
        start..(start + self.shard_items).min(self.source.len())
    }

    fn fill_all(
        &self,
        records: &[Option<Record>],
        filled: &SyncSender<Filled>,
        one_done: &(dyn Fn() + Sync),
    ) -> Result<(), Error> {
        let mut rejected = self.source.skipped().to_vec();
        rejected.extend(records.iter().flatten().flat_map(|record| record.rejected.iter().cloned()));
        let mut reader = self.source.reader();
        for number in (0..records.len()).filter(|&number| records[number].is_none()) {
            // Once too many are rejected, the rest is no use.
            self.accept(&rejected)?;
            let shard = self.fill(number, &mut reader, one_done)?;
            rejected.extend_from_slice(&shard.rejected);
            if filled.send(shard).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Decodes, crops and resizes the pictures of a shard on all cores.
    fn fill(
        &self,
        number: usize,
        reader: &mut Reader,
        one_done: &(dyn Fn() + Sync),
    ) -> Result<Filled, Error> {
        let range = self.range(number);
        // Before they are read: what changes meanwhile is seen by who comes later.
        let stamp = self.source.stamp(range.clone())?;
        self.source.check_unchanged(range.clone())?;
        let item_bytes = self.options.item_bytes();
        let mut pictures = shard::zeros(range.len(), item_bytes)?;
        let large = Mutex::new(());
        let mut reasons: Vec<(usize, String)> = reader
            .stream(range.clone())
            .zip(pictures.chunks_mut(item_bytes))
            .par_bridge()
            .filter_map(|(item, slot)| {
                let index = item.index;
                let converted = self.convert(item, slot, &large);
                one_done();
                match converted {
                    Ok(()) => None,
                    Err(error @ Error::Picture(_)) => Some(Ok((index, error.to_string()))),
                    // A disk that fails says nothing about the picture.
                    Err(other) => Some(Err(other)),
                }
            })
            .collect::<Result<_, Error>>()?;
        self.source.check_unchanged(range.clone())?;
        reasons.sort_unstable_by_key(|(index, _)| *index);

        let (mut labels, mut rejected) = (Vec::with_capacity(range.len()), Vec::new());
        let mut reasons = reasons.into_iter().peekable();
        for (place, index) in range.enumerate() {
            if let Some((_, reason)) = reasons.next_if(|(rejected, _)| *rejected == index) {
                let key = self.source.key(index).to_owned();
                tracing::warn!("left out {}: {reason}", printable(&key));
                rejected.push(Rejected { key, reason });
                continue;
            }
            if labels.len() < place {
                pictures.copy_within(place * item_bytes..(place + 1) * item_bytes, labels.len() * item_bytes);
            }
            labels.push(self.source.label(index) as u16);
        }
        pictures.truncate(labels.len() * item_bytes);
        Ok(Filled { number, stamp, pictures, labels, rejected })
    }

    fn convert(&self, item: Item, slot: &mut [u8], large: &Mutex<()>) -> Result<(), Error> {
        let PrepareOptions { size, crop, upright, limits, .. } = *self.options;
        let bytes = self.source.bytes(item)?;
        let wait = |pixels| (pixels > LARGE).then(|| large.lock().unwrap_or_else(PoisonError::into_inner));
        Picture::decode_in_turn(&bytes, limits, upright, wait)?.crop_into(size, crop, slot)
    }

    fn write_all(&self, to_write: Receiver<Filled>) -> Result<Vec<(usize, Record)>, Error> {
        to_write.iter().map(|filled| Ok((filled.number, self.write(filled)?))).collect()
    }

    fn write(&self, filled: Filled) -> Result<Record, Error> {
        self.unfinished.check()?;
        let Filled { number, stamp, pictures, labels, rejected } = filled;
        let (shard, bytes) = if labels.is_empty() {
            (None, 0)
        } else {
            let file = format!("pictures-{number:05}.safetensors");
            let shape = [self.options.size, self.options.size, 3];
            let tensor = (Dtype::U8, &shape[..], &pictures[..]);
            let (entry, bytes) = shard::write(&self.unfinished.folder(), file, PICTURES, tensor, &labels)?;
            (Some(entry), bytes)
        };
        let record = Record { shard, bytes, rejected, stamp: Some(stamp) };
        self.unfinished.finish_shard(number, &record)?;
        Ok(record)
    }

    fn accept(&self, rejected: &[Rejected]) -> Result<(), Error> {
        let total = self.source.len() + self.source.skipped().len();
        let allowed = self.options.max_rejected;
        // A quotient is rounded as the share was when it was read; a product may fall short of it.
        if rejected.is_empty() || rejected.len() as f64 / total as f64 <= allowed {
            return Ok(());
        }
        let path = self.source.path().to_path_buf();
        let first = rejected.first().map(|r| format!("{}: {}", r.key, r.reason)).unwrap_or_default();
        Err(Error::TooManyRejected { path, rejected: rejected.len(), total, allowed, first })
    }

    /// A class of which nothing is left is a fault, unless its number may be unused, or the held-out part was asked for, in which small
    /// classes have few pictures or none. Not all of them: that store could not be opened.
    fn accept_counts(&self, counts: &[usize]) -> Result<(), Error> {
        let is_any = counts.iter().any(|&count| count > 0);
        if matches!(self.options.source.hold_out, Some(HoldOut::Every(_))) && is_any {
            return Ok(());
        }
        let empty =
            counts.iter().enumerate().find(|&(class, &count)| count == 0 && self.source.has_files(class));
        match empty {
            Some((class, _)) => {
                let reason = format!("class `{}` has no usable picture", self.source.classes()[class]);
                Err(Error::Layout { path: self.source.path().into(), reason })
            }
            None => Ok(()),
        }
    }
}

/// Refuses a store within what is listed: what is unfinished of it would be taken for a class when it is continued.
fn check_outside(source: &Path, split: Option<&str>, out: &Path) -> Result<(), Error> {
    let listed = split.map(|split| source.join(split)).filter(|part| part.is_dir());
    let listed = listed.as_deref().unwrap_or(source);
    // Whatever is wrong with the source, its lister says.
    let Ok(listed) = std::fs::canonicalize(listed) else { return Ok(()) };
    let place = atomic::named_folder(out)?;
    let whole = std::path::absolute(&place).map_err(Error::io(out))?;
    let within = whole.ancestors().skip(1).find_map(|part| std::fs::canonicalize(part).ok());
    if within.is_some_and(|within| within.starts_with(&listed)) {
        let expected = format!("a place outside the source {}", listed.display());
        return Err(Error::Field { field: "out", expected, got: out.display().to_string() });
    }
    Ok(())
}

/// The name alone: a store must be the same wherever its source lay. What `.` or `..` leads to is at a place with a name.
fn describe(path: &Path, place: &Path, options: &SourceOptions) -> String {
    let name = path.file_name().or(place.file_name()).unwrap_or(path.as_os_str());
    let mut name = PathBuf::from(name).display().to_string();
    if let Some(split) = &options.split {
        name = format!("{name}/{split}");
    }
    match options.hold_out {
        Some(hold_out) => format!("{name} ({hold_out})"),
        None => name,
    }
}

#[cfg(test)]
mod tests;
