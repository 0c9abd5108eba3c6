//! A memory-mapped safetensors file with one tensor of items and one of labels.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use mgnt_weights::{TensorMap, atomic, safetensors};
use safetensors_crate::{Dtype, SafeTensors};

use crate::Error;
use crate::manifest::{ShardEntry, sha256};

/// Name of the labels' tensor, u16 `[n]`.
pub(crate) const LABELS: &str = "labels";

/// An open shard. Labels are few and read at once; items stay in the file.
#[derive(Debug)]
pub(crate) struct Shard {
    map: Mmap,
    items: Range<usize>,
    item_bytes: usize,
    labels: Vec<u16>,
}

impl Shard {
    /// Opens a shard whose tensor `name` must be `dtype [entry.items, ..shape]`.
    pub fn open(
        folder: &Path,
        entry: &ShardEntry,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Self, Error> {
        let path = folder.join(&entry.file);
        let file = File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: stores are written under a temporary name and renamed, never changed in place; as with every
        // memory map, whoever truncates the file while it is open brings the process down.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path))?;
        let tensors = SafeTensors::deserialize(&map)
            .map_err(|e| Error::store(&path, "file", "a safetensors file", e))?;
        let get = |name: &str| {
            tensors.tensor(name).map_err(|_| Error::store(&path, name, "a tensor of this name", "none"))
        };
        let check = |name: &str, got: (Dtype, &[usize]), expected: (Dtype, &[usize])| {
            if got == expected {
                return Ok(());
            }
            let text = |(dtype, shape): (Dtype, &[usize])| format!("{dtype:?} {shape:?}");
            Err(Error::store(&path, name, text(expected), text(got)))
        };
        let view = get(name)?;
        let full_shape: Vec<usize> = std::iter::once(entry.items).chain(shape.iter().copied()).collect();
        check(name, (view.dtype(), view.shape()), (dtype, &full_shape))?;
        let labels = get(LABELS)?;
        check(LABELS, (labels.dtype(), labels.shape()), (Dtype::U16, &[entry.items]))?;
        let labels = labels.data().as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
        let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
        let items = start..start + view.data().len();
        let item_bytes = items.len() / entry.items.max(1);
        Ok(Self { map, items, item_bytes, labels })
    }

    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn item(&self, index: usize) -> &[u8] {
        &self.map[self.items.clone()][index * self.item_bytes..(index + 1) * self.item_bytes]
    }

    pub fn label(&self, index: usize) -> u16 {
        self.labels[index]
    }

    pub fn labels(&self) -> &[u16] {
        &self.labels
    }
}

/// Writes a shard, atomically, and returns its entry for the manifest.
pub(crate) fn write(
    folder: &Path,
    file: String,
    tensors: &TensorMap,
    items: usize,
) -> Result<ShardEntry, Error> {
    let path: PathBuf = folder.join(&file);
    let bytes = safetensors::to_bytes(tensors, &path)?;
    atomic::write_bytes(&path, &bytes)?;
    Ok(ShardEntry { file, items, sha256: sha256(&bytes) })
}

/// Which shard, and which item of it, holds item `index` of a store.
pub(crate) fn locate(shards: &[Shard], mut index: usize) -> Option<(&Shard, usize)> {
    for shard in shards {
        if index < shard.len() {
            return Some((shard, index));
        }
        index -= shard.len();
    }
    None
}
