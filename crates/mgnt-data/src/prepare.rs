//! Packs a source into a store, on all cores, the same bytes whatever their number.

use std::path::{Path, PathBuf};

use mgnt_weights::{DType, NamedTensor, TensorMap};
use rayon::prelude::*;

use crate::Error;
use crate::manifest::{self, Rejected};
use crate::picture::{Filter, Limits, Picture};
use crate::shard;
use crate::source::{Item, Source};
use crate::store::{PICTURES, StoreManifest, VERSION};

/// What to make of a source.
#[derive(Debug, Clone, PartialEq)]
pub struct PrepareOptions {
    /// Side of the square pictures in pixels.
    pub size: usize,
    /// How pictures are made smaller.
    pub filter: Filter,
    /// First level of the source, such as `train`.
    pub split: Option<String>,
    /// Share of files that may be rejected, 0 to 1.
    pub max_rejected: f64,
    /// Pictures a shard.
    pub shard_items: usize,
    /// Sizes that are refused.
    pub limits: Limits,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self {
            size: 256,
            filter: Filter::default(),
            split: None,
            max_rejected: 0.01,
            shard_items: 8192,
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
}

/// Files decoded at a time: bounds the memory, and is enough to keep all cores busy.
const CHUNK: usize = 256;

/// Packs every file of `source` into a new store at `out`; `progress` hears of files done and files in all.
///
/// A file that is no usable picture is left out and listed with its reason. Where their share is above
/// `max_rejected`, nothing is left at `out`. An older store at `out` is replaced only by a whole new one.
pub fn prepare(
    source: &Path,
    options: &PrepareOptions,
    out: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PrepareReport, Error> {
    if !(1..=4096).contains(&options.size) {
        return Err(Error::Field {
            field: "size",
            expected: "1 to 4096".into(),
            got: options.size.to_string(),
        });
    }
    if !(0.0..=1.0).contains(&options.max_rejected) {
        let got = options.max_rejected.to_string();
        return Err(Error::Field { field: "share of rejected files", expected: "0 to 1".into(), got });
    }
    let source = Source::open(source, options.split.as_deref())?;
    let mut report = None;
    mgnt_weights::atomic::write_folder(out, |folder| {
        report = Some(pack(&source, options, folder, progress)?);
        Ok::<_, Error>(())
    })?;
    Ok(report.unwrap_or(PrepareReport { pictures: 0, classes: 0, rejected: Vec::new() }))
}

fn pack(
    source: &Source,
    options: &PrepareOptions,
    folder: &Path,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<PrepareReport, Error> {
    let (mut pictures, mut labels): (Vec<u8>, Vec<u16>) = (Vec::new(), Vec::new());
    let (mut shards, mut rejected) = (Vec::new(), Vec::new());
    let mut counts = vec![0; source.classes().len()];
    let item_bytes = options.size * options.size * 3;
    let flush = |pictures: &mut Vec<u8>, labels: &mut Vec<u16>, count: usize, number: usize| {
        let rest = (pictures.split_off(count * item_bytes), labels.split_off(count));
        let (full, full_labels) = (std::mem::replace(pictures, rest.0), std::mem::replace(labels, rest.1));
        let mut map = TensorMap::new();
        let shape = vec![count, options.size, options.size, 3];
        map.insert(PICTURES, NamedTensor::new(PICTURES, DType::U8, shape, full)?);
        map.insert_u16(shard::LABELS, &[count], &full_labels)?;
        shard::write(folder, format!("pictures-{number:05}.safetensors"), &map, count)
    };

    for start in (0..source.len()).step_by(CHUNK) {
        let end = (start + CHUNK).min(source.len());
        let chunk: Vec<_> = (start..end).into_par_iter().map(|i| convert(source.read(i), options)).collect();
        for result in chunk {
            match result {
                Ok((label, bytes)) => {
                    pictures.extend_from_slice(&bytes);
                    labels.push(label as u16);
                    counts[label] += 1;
                }
                Err(reject) => {
                    tracing::warn!("left out {}: {}", reject.key, reject.reason);
                    rejected.push(reject);
                }
            }
        }
        while labels.len() >= options.shard_items {
            shards.push(flush(&mut pictures, &mut labels, options.shard_items, shards.len())?);
        }
        progress(end, source.len());
    }
    if !labels.is_empty() {
        let count = labels.len();
        shards.push(flush(&mut pictures, &mut labels, count, shards.len())?);
    }
    accept(source, options, &rejected, &counts)?;
    let manifest = StoreManifest {
        version: VERSION,
        size: options.size,
        filter: options.filter,
        crop: "centre square".into(),
        source: describe(source.path(), options.split.as_deref()),
        classes: source.classes().to_vec(),
        counts: counts.clone(),
        shards,
        rejected: rejected.clone(),
    };
    manifest::write(folder, &manifest)?;
    Ok(PrepareReport { pictures: counts.iter().sum(), classes: counts.len(), rejected })
}

fn accept(
    source: &Source,
    options: &PrepareOptions,
    rejected: &[Rejected],
    counts: &[usize],
) -> Result<(), Error> {
    let path = source.path().to_path_buf();
    if rejected.len() as f64 > options.max_rejected * source.len() as f64 {
        let first = rejected.first().map(|r| format!("{}: {}", r.key, r.reason)).unwrap_or_default();
        let (rejected, total, allowed) = (rejected.len(), source.len(), options.max_rejected);
        return Err(Error::TooManyRejected { path, rejected, total, allowed, first });
    }
    match counts.iter().position(|&count| count == 0) {
        Some(class) => {
            let reason = format!("class `{}` has no usable picture", source.classes()[class]);
            Err(Error::Layout { path, reason })
        }
        None => Ok(()),
    }
}

fn convert(item: Item, options: &PrepareOptions) -> Result<(usize, Vec<u8>), Rejected> {
    let picture = item.bytes.and_then(|bytes| {
        Picture::decode(&bytes, options.limits)
            .and_then(|picture| picture.centre_square(options.size, options.filter))
            .map_err(|e| e.to_string())
    });
    match picture {
        Ok(picture) => Ok((item.label, picture.into_rgb())),
        Err(reason) => Err(Rejected { key: item.key, reason }),
    }
}

/// The name alone: a store must be the same wherever its source lay.
fn describe(path: &Path, split: Option<&str>) -> String {
    let name = PathBuf::from(path.file_name().unwrap_or(path.as_os_str())).display().to_string();
    split.map_or(name.clone(), |split| format!("{name}/{split}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{PictureStore, synthetic};

    fn quiet(source: &Path, options: &PrepareOptions, out: &Path) -> Result<PrepareReport, Error> {
        prepare(source, options, out, &mut |_, _| {})
    }

    fn options() -> PrepareOptions {
        PrepareOptions { size: 24, shard_items: 10, max_rejected: 0.2, ..PrepareOptions::default() }
    }

    #[test]
    fn a_folder_becomes_a_store_and_bad_files_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        synthetic::write_folder(&source, 4, 32, 1).unwrap();
        let classes = synthetic::CLASSES.len();
        let whole = fs::read(source.join(format!("{}/0000.png", synthetic::CLASSES[0]))).unwrap();
        let victim = source.join(synthetic::CLASSES[0]);
        fs::write(victim.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
        fs::write(victim.join("text.jpg"), b"no picture").unwrap();
        let out = folder.path().join("store");
        let report = quiet(&source, &options(), &out).unwrap();
        assert_eq!((report.pictures, report.classes), (4 * classes, classes));
        let names: Vec<_> = report.rejected.iter().map(|r| r.key.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["cut.png", "text.jpg"]);

        let store = PictureStore::open(&out).unwrap();
        store.verify().unwrap();
        assert_eq!((store.len(), store.size(), store.manifest().rejected.len()), (4 * classes, 24, 2));
        assert_eq!(store.picture(store.len() - 1).len(), 24 * 24 * 3);
        assert_eq!((store.label(0), store.label(store.len() - 1)), (0, classes - 1));

        let strict = PrepareOptions { max_rejected: 0.0, ..options() };
        let other = folder.path().join("other");
        let error = quiet(&source, &strict, &other).unwrap_err().to_string();
        assert!(error.contains("2 of") && error.contains("cut.png"), "{error}");
        assert!(!other.exists());
    }

    #[test]
    fn the_same_bytes_on_any_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        synthetic::write_folder(&source, 3, 32, 2).unwrap();
        let bytes = |threads: usize| {
            let out = folder.path().join(format!("store-{threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| quiet(&source, &options(), &out)).unwrap();
            let mut files: Vec<_> = fs::read_dir(&out).unwrap().map(|f| f.unwrap().path()).collect();
            files.sort();
            files.into_iter().map(|f| fs::read(f).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(bytes(1), bytes(3));
    }

    #[test]
    fn a_damaged_or_incomplete_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        synthetic::write_folder(&source, 1, 32, 3).unwrap();
        let out = folder.path().join("store");
        quiet(&source, &options(), &out).unwrap();
        let shard = out.join("pictures-00000.safetensors");
        let mut bytes = fs::read(&shard).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&shard, &bytes).unwrap();
        assert!(PictureStore::open(&out).unwrap().verify().unwrap_err().to_string().contains("sha256"));
        fs::write(&shard, &bytes[..bytes.len() - 9]).unwrap();
        assert!(PictureStore::open(&out).is_err());
        fs::remove_file(out.join("manifest.json")).unwrap();
        assert!(PictureStore::open(&out).unwrap_err().to_string().contains("incomplete"));
    }
}
