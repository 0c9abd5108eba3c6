//! The packed store: pictures of one size and their labels.
//!
//! A folder with `pictures-00000.safetensors`, … (tensors `pictures` u8 `[n, size, size, 3]` and `labels` u16 `[n]`),
//! `rejected.jsonl` where files were left out, and, written last, `manifest.json`.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::manifest::{self, Rejected, RejectedList, ShardEntry};
use crate::shard::Shards;
use crate::{Crop, Error};

/// Version of the format.
pub(crate) const VERSION: u32 = 2;
/// Name of the pictures' tensor.
pub(crate) const PICTURES: &str = "pictures";

/// What `manifest.json` of a picture store holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreManifest {
    /// Version of the format.
    pub version: u32,
    /// Side of the square pictures in pixels.
    pub size: usize,
    /// How they were cropped and resized.
    pub crop: Crop,
    /// Whether they were turned first as their metadata (EXIF) asks for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub upright: bool,
    /// Version of the program that made them: decoders and resizing may differ in the last bit between versions.
    pub made_by: String,
    /// Name of the source, and the split and part of it.
    pub source: String,
    /// Class names by number.
    pub classes: Vec<String>,
    /// Pictures of each class.
    pub counts: Vec<usize>,
    /// The shards in order.
    pub shards: Vec<ShardEntry>,
    /// Files left out, if any.
    pub rejected: Option<RejectedList>,
}

impl manifest::HasClasses for StoreManifest {
    fn classes(&self) -> &[String] {
        &self.classes
    }
}

/// A packed store, open for reading.
#[derive(Debug)]
pub struct PictureStore {
    path: PathBuf,
    manifest: StoreManifest,
    shards: Shards,
}

impl PictureStore {
    /// Opens a store, which must have pictures; its files are mapped, not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let manifest: StoreManifest = manifest::read(path, manifest::StoreKind::Pictures, VERSION)?;
        if manifest.size == 0 {
            return Err(Error::store(path.join(manifest::MANIFEST), "size", "at least 1", 0));
        }
        let shape = [manifest.size, manifest.size, 3];
        let shards = Shards::open(path, &manifest.shards, PICTURES, Dtype::U8, &shape)?;
        if shards.len() == 0 {
            return Err(manifest::of_nothing(path));
        }
        let labels = shards.iter().zip(&manifest.shards);
        for (shard, entry) in labels {
            shard.check_labels(&path.join(&entry.file), manifest.classes.len())?;
        }
        Ok(Self { path: path.into(), manifest, shards })
    }

    /// The manifest.
    pub fn manifest(&self) -> &StoreManifest {
        &self.manifest
    }

    /// A checksum of all that it holds, by its manifest.
    pub fn sha256(&self) -> Result<String, Error> {
        manifest::digest(&self.path, &self.manifest)
    }

    /// Files that were left out when the store was made, and why.
    pub fn rejected(&self) -> Result<Vec<Rejected>, Error> {
        self.manifest.rejected.as_ref().map_or(Ok(Vec::new()), |list| list.read(&self.path))
    }

    /// Side of the pictures in pixels.
    pub fn size(&self) -> usize {
        self.manifest.size
    }

    /// Class names by number.
    pub fn classes(&self) -> &[String] {
        &self.manifest.classes
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a picture, `[size, size, 3]`.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn picture(&self, index: usize) -> &[u8] {
        let (shard, index) = self.shards.locate(index);
        shard.item(index)
    }

    /// Class of a picture.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn label(&self, index: usize) -> usize {
        let (shard, index) = self.shards.locate(index);
        usize::from(shard.label(index))
    }
}
