//! The packed store: pictures of one size and their labels.
//!
//! A folder with `pictures-00000.safetensors`, … (tensors `pictures` u8 `[n, size, size, 3]` and `labels` u16 `[n]`)
//! and, written last, `manifest.json`.

use std::path::{Path, PathBuf};

use safetensors_crate::Dtype;
use serde::{Deserialize, Serialize};

use crate::manifest::{self, Rejected, ShardEntry};
use crate::shard::{Shard, locate};
use crate::{Error, Filter};

/// Version of the format.
pub(crate) const VERSION: u32 = 1;
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
    /// How they were made smaller.
    pub filter: Filter,
    /// How they were cropped.
    pub crop: String,
    /// Name of the source and the split of it.
    pub source: String,
    /// Class names by number.
    pub classes: Vec<String>,
    /// Pictures of each class.
    pub counts: Vec<usize>,
    /// The shards in order.
    pub shards: Vec<ShardEntry>,
    /// Files left out.
    pub rejected: Vec<Rejected>,
}

/// A packed store, open for reading.
#[derive(Debug)]
pub struct PictureStore {
    path: PathBuf,
    manifest: StoreManifest,
    shards: Vec<Shard>,
    length: usize,
}

impl PictureStore {
    /// Opens a store; its files are mapped, not read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let manifest: StoreManifest = manifest::read(path)?;
        if manifest.version != VERSION {
            return Err(Error::store(path.join(manifest::MANIFEST), "version", VERSION, manifest.version));
        }
        let shape = [manifest.size, manifest.size, 3];
        let shards = manifest
            .shards
            .iter()
            .map(|entry| Shard::open(path, entry, PICTURES, Dtype::U8, &shape))
            .collect::<Result<Vec<_>, _>>()?;
        let length = shards.iter().map(Shard::len).sum();
        if let Some(label) =
            shards.iter().flat_map(Shard::labels).find(|&&l| usize::from(l) >= manifest.classes.len())
        {
            let expected = format!("below {}", manifest.classes.len());
            return Err(Error::store(path, "label", expected, label));
        }
        Ok(Self { path: path.into(), manifest, shards, length })
    }

    /// The manifest.
    pub fn manifest(&self) -> &StoreManifest {
        &self.manifest
    }

    /// A checksum of all that it holds, by its manifest.
    pub fn sha256(&self) -> Result<String, Error> {
        manifest::digest(&self.path, &self.manifest)
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
        self.length
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of a picture, `[size, size, 3]`.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn picture(&self, index: usize) -> &[u8] {
        let (shard, index) = self.locate(index);
        shard.item(index)
    }

    /// Class of a picture.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn label(&self, index: usize) -> usize {
        let (shard, index) = self.locate(index);
        usize::from(shard.label(index))
    }

    fn locate(&self, index: usize) -> (&Shard, usize) {
        locate(&self.shards, index).unwrap_or_else(|| panic!("picture {index} of {}", self.length))
    }

    /// Recomputes every checksum.
    pub fn verify(&self) -> Result<(), Error> {
        manifest::verify(&self.path, &self.manifest.shards)
    }
}
