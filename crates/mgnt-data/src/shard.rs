//! A memory-mapped safetensors file with one tensor of items and one of labels.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use mgnt_weights::atomic;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::Error;
use crate::manifest::{self, ShardEntry, sha256};

/// Name of the labels' tensor, u16 `[n]`.
pub(crate) const LABELS: &str = "labels";

/// Most shards of a store. Each is mapped by itself, and Linux gives a process 65,530 mappings unless it is told otherwise.
pub const MOST_SHARDS: usize = 50_000;

/// Refuses to make more shards of `items` than can be opened together; the store has each item `copies` times.
pub(crate) fn check_count(items: usize, copies: usize, shard_items: usize) -> Result<(), Error> {
    let shards = copies * items.div_ceil(shard_items);
    if shards <= MOST_SHARDS {
        return Ok(());
    }
    let least = items.div_ceil(MOST_SHARDS / copies);
    let expected = format!(
        "{least} at least, since {shards} shards are more than the {MOST_SHARDS} that a store may have"
    );
    Err(Error::ShardItems { expected, got: shard_items })
}

/// Refuses shards that memory does not hold so many times.
pub(crate) fn check_memory(items: usize, item_bytes: usize, times: usize) -> Result<(), Error> {
    reserved(items, item_bytes, times).map(drop)
}

/// Memory for the items of a shard, all zeros.
pub(crate) fn zeros(items: usize, item_bytes: usize) -> Result<Vec<u8>, Error> {
    let mut zeros = reserved(items, item_bytes, 1)?;
    zeros.resize(items * item_bytes, 0);
    Ok(zeros)
}

fn reserved(items: usize, item_bytes: usize, times: usize) -> Result<Vec<u8>, Error> {
    let bytes = items.saturating_mul(item_bytes);
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes.saturating_mul(times)).map_err(|_| {
        let expected = format!("as few as memory holds {times} times, where {items} have {bytes} bytes");
        Error::ShardItems { expected, got: items }
    })?;
    Ok(memory)
}

/// The error of a shard that is not mapped. Where that is for the number of mappings, the system speaks of memory.
fn not_mapped(path: &Path, reason: io::Error) -> Error {
    let reason = match reason.kind() {
        ErrorKind::OutOfMemory => io::Error::new(
            ErrorKind::OutOfMemory,
            format!(
                "more shards than the system maps; make the store anew with more items a shard, or raise \
                 vm.max_map_count ({reason})"
            ),
        ),
        _ => reason,
    };
    Error::io(path)(reason)
}

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
        let path = manifest::within(folder, &entry.file)?;
        let file = File::open(&path).map_err(Error::io(&path))?;
        // SAFETY: stores are written under a temporary name and renamed, never changed in place; as with every
        // memory map, whoever truncates the file while it is open brings the process down.
        let map = unsafe { Mmap::map(&file) }.map_err(|reason| not_mapped(&path, reason))?;
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

    /// Checks that every label is a class; `path` is for the error.
    pub fn check_labels(&self, path: &Path, classes: usize) -> Result<(), Error> {
        match self.labels.iter().find(|&&label| usize::from(label) >= classes) {
            Some(label) => Err(Error::store(path, "label", format!("below {classes}"), label)),
            None => Ok(()),
        }
    }
}

/// Writes a shard, atomically, and returns its entry for the manifest and the bytes of the file.
pub(crate) fn write(
    folder: &Path,
    file: String,
    name: &str,
    (dtype, shape, items): (Dtype, &[usize], &[u8]),
    labels: &[u16],
) -> Result<(ShardEntry, u64), Error> {
    let path: PathBuf = folder.join(&file);
    let invalid = |e| Error::store(&path, "file", "tensors of one length", e);
    let label_bytes: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let full_shape: Vec<usize> = std::iter::once(labels.len()).chain(shape.iter().copied()).collect();
    let views = [
        (name, TensorView::new(dtype, full_shape, items).map_err(invalid)?),
        (LABELS, TensorView::new(Dtype::U16, vec![labels.len()], &label_bytes).map_err(invalid)?),
    ];
    let bytes = safetensors::serialize(views, None).map_err(invalid)?;
    atomic::write_bytes(&path, &bytes)?;
    let entry = ShardEntry { file, items: labels.len(), sha256: sha256(&bytes) };
    Ok((entry, bytes.len() as u64))
}

/// The shards of a store, as one list of items.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Shard>,
    /// Number of items up to and with each shard.
    ends: Vec<usize>,
}

impl Shards {
    /// Opens the shards of a manifest; see [`Shard::open`].
    pub fn open(
        folder: &Path,
        entries: &[ShardEntry],
        name: &str,
        dtype: Dtype,
        shape: &[usize],
    ) -> Result<Self, Error> {
        let shards = entries
            .iter()
            .map(|entry| Shard::open(folder, entry, name, dtype, shape))
            .collect::<Result<Vec<_>, _>>()?;
        let mut end = 0;
        let ends = shards.iter().map(|shard| {
            end += shard.len();
            end
        });
        Ok(Self { ends: ends.collect(), shards })
    }

    pub fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    /// Which shard, and which item of it, holds an item.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn locate(&self, index: usize) -> (&Shard, usize) {
        assert!(index < self.len(), "item {index} of {}", self.len());
        let number = self.ends.partition_point(|&end| end <= index);
        let shard = &self.shards[number];
        (shard, index + shard.len() - self.ends[number])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_found_across_shards() {
        let folder = tempfile::tempdir().unwrap();
        let lengths = [2, 1, 4];
        let mut first = 0u8;
        let entries: Vec<ShardEntry> = lengths
            .iter()
            .map(|&length| {
                let items: Vec<u8> = (first..first + length).collect();
                let labels: Vec<u16> = items.iter().map(|&item| u16::from(item) + 100).collect();
                first += length;
                let file = format!("{first}.safetensors");
                shard(folder.path(), file, &items, &labels)
            })
            .collect();
        let shards = Shards::open(folder.path(), &entries, "items", Dtype::U8, &[1]).unwrap();
        assert_eq!(shards.len(), 7);
        for index in 0..7 {
            let (shard, place) = shards.locate(index);
            assert_eq!((shard.item(place), shard.label(place)), (&[index as u8][..], index as u16 + 100));
        }
    }

    #[test]
    fn shards_that_could_not_be_opened_or_held_are_refused() {
        let refusal = |checked: Result<(), Error>| checked.unwrap_err().to_string();
        check_count(50_000, 1, 1).unwrap();
        check_count(50_000, 2, 2).unwrap();
        let error = refusal(check_count(50_001, 1, 1));
        assert!(error.starts_with("items a shard: expected 2 at least, since 50001 shards"), "{error}");
        assert!(error.ends_with("got 1"), "{error}");
        let error = refusal(check_count(1_281_167, 2, 51));
        assert!(error.contains("expected 52 at least"), "{error}");
        check_count(1_281_167, 2, 52).unwrap();
        check_memory(10, 20, 3).unwrap();
        assert_eq!(zeros(2, 3).unwrap(), [0; 6]);
        for error in [refusal(check_memory(usize::MAX / 4, 3, 3)), refusal(zeros(usize::MAX, 9).map(drop))] {
            assert!(error.contains("as few as memory holds") && error.contains("bytes"), "{error}");
        }
        let of = |reason| not_mapped(Path::new("a"), reason).to_string();
        let error = of(ErrorKind::OutOfMemory.into());
        assert!(error.starts_with("a: more shards than the system maps; "), "{error}");
        assert_eq!(of(io::Error::other("why")), "a: why");
    }

    fn shard(folder: &Path, file: String, items: &[u8], labels: &[u16]) -> ShardEntry {
        write(folder, file, "items", (Dtype::U8, &[1], items), labels).unwrap().0
    }

    #[test]
    fn a_shard_of_another_shape_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let entry = shard(folder.path(), "a".into(), &[1, 2], &[0, 0]);
        let open = |entry: &ShardEntry, name: &str, dtype, shape: &[usize]| {
            Shard::open(folder.path(), entry, name, dtype, shape).map(|_| ()).map_err(|e| e.to_string())
        };
        assert_eq!(open(&entry, "items", Dtype::U8, &[1]), Ok(()));
        assert!(open(&entry, "items", Dtype::U16, &[1]).unwrap_err().contains("expected U16 [2, 1]"));
        assert!(open(&entry, "items", Dtype::U8, &[2]).unwrap_err().contains("got U8 [2, 1]"));
        assert!(open(&entry, "other", Dtype::U8, &[1]).unwrap_err().contains("other"));
        let more = ShardEntry { items: 3, ..entry };
        assert!(open(&more, "items", Dtype::U8, &[1]).is_err());
    }
}
