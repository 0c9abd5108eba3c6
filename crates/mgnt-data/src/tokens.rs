//! The token store: codes of pictures and their labels.
//!
//! A folder with `tokens-00000.safetensors`, … (tensors `tokens` u16 `[n, N]`, rows of the grid one after the other,
//! and `labels` u16 `[n]`) and, written last, `manifest.json`.

use std::path::{Path, PathBuf};

use mgnt_weights::TensorMap;
use safetensors_crate::Dtype;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::manifest::{self, ShardEntry};
use crate::shard::{self, Shard, locate};

const VERSION: u32 = 1;
const TOKENS: &str = "tokens";
const SHARD_ITEMS: usize = 65_536;

/// What tokens are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenStoreInfo {
    /// Rows and columns of the token grid.
    pub grid: [usize; 2],
    /// Number of codes.
    pub codes: usize,
    /// Class names by number.
    pub classes: Vec<String>,
    /// SHA-256 of the tokenizer's weights.
    pub tokenizer: String,
    /// Where the pictures came from.
    pub source: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    info: TokenStoreInfo,
    shards: Vec<ShardEntry>,
}

/// Writes a token store.
#[derive(Debug)]
pub struct TokenWriter {
    folder: PathBuf,
    info: TokenStoreInfo,
    tokens: Vec<u16>,
    labels: Vec<u16>,
    shards: Vec<ShardEntry>,
}

impl TokenWriter {
    /// Starts a store in a folder that exists, such as the temporary one of
    /// [`mgnt_weights::atomic::write_folder`].
    pub fn new(folder: impl Into<PathBuf>, info: TokenStoreInfo) -> Self {
        Self { folder: folder.into(), info, tokens: Vec::new(), labels: Vec::new(), shards: Vec::new() }
    }

    /// Adds one picture's tokens.
    pub fn push(&mut self, tokens: &[u16], label: usize) -> Result<(), Error> {
        let [rows, columns] = self.info.grid;
        if tokens.len() != rows * columns {
            return Err(Error::store(&self.folder, "tokens", rows * columns, tokens.len()));
        }
        if let Some(token) = tokens.iter().find(|&&token| usize::from(token) >= self.info.codes) {
            return Err(Error::store(&self.folder, "token", format!("below {}", self.info.codes), token));
        }
        if label >= self.info.classes.len() {
            return Err(Error::store(
                &self.folder,
                "label",
                format!("below {}", self.info.classes.len()),
                label,
            ));
        }
        self.tokens.extend_from_slice(tokens);
        self.labels.push(label as u16);
        if self.labels.len() == SHARD_ITEMS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let count = self.labels.len();
        let mut map = TensorMap::new();
        map.insert_u16(TOKENS, &[count, self.tokens.len() / count.max(1)], &self.tokens)?;
        map.insert_u16(shard::LABELS, &[count], &self.labels)?;
        let file = format!("tokens-{:05}.safetensors", self.shards.len());
        self.shards.push(shard::write(&self.folder, file, &map, count)?);
        self.tokens.clear();
        self.labels.clear();
        Ok(())
    }

    /// Writes what is left, and the manifest.
    pub fn finish(mut self) -> Result<(), Error> {
        if !self.labels.is_empty() {
            self.flush()?;
        }
        manifest::write(&self.folder, &Manifest { version: VERSION, info: self.info, shards: self.shards })
    }
}

/// A token store, open for reading.
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    manifest: Manifest,
    shards: Vec<Shard>,
    length: usize,
}

impl TokenStore {
    /// Opens a store: files are mapped, and tokens and labels checked against their ranges.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let manifest: Manifest = manifest::read(path)?;
        if manifest.version != VERSION {
            return Err(Error::store(path.join(manifest::MANIFEST), "version", VERSION, manifest.version));
        }
        let info = &manifest.info;
        let per_item = info.grid[0] * info.grid[1];
        let shards = manifest
            .shards
            .iter()
            .map(|entry| Shard::open(path, entry, TOKENS, Dtype::U16, &[per_item]))
            .collect::<Result<Vec<_>, _>>()?;
        let length = shards.iter().map(Shard::len).sum();
        let store = Self { path: path.into(), manifest, shards, length };
        store.check_ranges()?;
        Ok(store)
    }

    fn check_ranges(&self) -> Result<(), Error> {
        let info = &self.manifest.info;
        for (shard, entry) in self.shards.iter().zip(&self.manifest.shards) {
            let path = self.path.join(&entry.file);
            let highest = (0..shard.len()).flat_map(|i| read_tokens(shard.item(i))).max().unwrap_or(0);
            if usize::from(highest) >= info.codes {
                return Err(Error::store(path, "token", format!("below {}", info.codes), highest));
            }
            let label = shard.labels().iter().max().copied().unwrap_or(0);
            if usize::from(label) >= info.classes.len() {
                return Err(Error::store(path, "label", format!("below {}", info.classes.len()), label));
            }
        }
        Ok(())
    }

    /// Grid, codes, classes and origin.
    pub fn info(&self) -> &TokenStoreInfo {
        &self.manifest.info
    }

    /// A checksum of all that it holds, by its manifest.
    pub fn sha256(&self) -> Result<String, Error> {
        manifest::digest(&self.path, &self.manifest)
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tokens of a picture, N of them in raster order.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn tokens(&self, index: usize) -> Vec<u16> {
        let (shard, index) = self.locate(index);
        read_tokens(shard.item(index)).collect()
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
        locate(&self.shards, index).unwrap_or_else(|| panic!("item {index} of {}", self.length))
    }

    /// Recomputes every checksum.
    pub fn verify(&self) -> Result<(), Error> {
        manifest::verify(&self.path, &self.manifest.shards)
    }
}

fn read_tokens(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> TokenStoreInfo {
        TokenStoreInfo {
            grid: [2, 3],
            codes: 10,
            classes: vec!["a".into(), "b".into()],
            tokenizer: "none".into(),
            source: "test".into(),
        }
    }

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TokenWriter::new(folder.path(), info());
        writer.push(&[0, 1, 2, 3, 4, 5], 0).unwrap();
        writer.push(&[9; 6], 1).unwrap();
        writer.finish().unwrap();
        let store = TokenStore::open(folder.path()).unwrap();
        assert_eq!((store.len(), store.info()), (2, &info()));
        assert_eq!((store.tokens(0), store.label(0)), (vec![0, 1, 2, 3, 4, 5], 0));
        assert_eq!((store.tokens(1), store.label(1)), (vec![9; 6], 1));
        store.verify().unwrap();
    }

    #[test]
    fn ranges_are_checked_on_both_sides() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TokenWriter::new(folder.path(), info());
        assert!(writer.push(&[10; 6], 0).is_err());
        assert!(writer.push(&[1; 5], 0).is_err());
        assert!(writer.push(&[1; 6], 2).is_err());
        writer.push(&[9; 6], 1).unwrap();
        writer.finish().unwrap();
        let path = folder.path().join(manifest::MANIFEST);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"codes\": 10", "\"codes\": 9")).unwrap();
        let error = TokenStore::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("token: expected below 9, got 9"), "{error}");
    }
}
