//! The token store: codes of pictures and their labels.
//!
//! A folder with `tokens-00000.safetensors`, … (tensors `tokens` u16 `[n, N]`, rows of the grid one after the other,
//! and `labels` u16 `[n]`) and, written last, `manifest.json`.

use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::manifest::{self, ShardEntry};
use crate::shard::{self, Shard, Shards};

pub(crate) const VERSION: u32 = 1;
const TOKENS: &str = "tokens";
/// Pictures a shard, where nobody asks for another number: as much work as is lost when a process is killed.
pub(crate) const SHARD_ITEMS: usize = 4096;

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
    /// SHA-256 of the tokenizer's weights; a name, where tokens are another program's.
    pub tokenizer: String,
    /// Checksum of what of the tokenizer decides tokens (`mgnt_tokenizer::codes_sha256`); older stores have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codes_sha256: Option<String>,
    /// Where the pictures came from.
    pub source: String,
}

/// What `manifest.json` of a token store holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub version: u32,
    pub info: TokenStoreInfo,
    /// Whether the second half are the tokens of the same pictures, mirrored.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub flips: bool,
    pub shards: Vec<ShardEntry>,
}

impl manifest::HasClasses for Manifest {
    fn classes(&self) -> &[String] {
        &self.info.classes
    }
}

impl TokenStoreInfo {
    /// Number of tokens of a picture.
    pub fn positions(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// What tells its tokens from those of other tokenizers: the checksum of what decides them, or of all weights, or a name.
    pub fn tokens_sha256(&self) -> &str {
        self.codes_sha256.as_ref().unwrap_or(&self.tokenizer)
    }

    /// Whether tokens of both are of the same codes, as far as both say.
    pub fn has_tokens_of(&self, other: &Self) -> bool {
        let is_same = match (&self.codes_sha256, &other.codes_sha256) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.tokenizer == other.tokenizer,
        };
        is_same && (self.grid, self.codes) == (other.grid, other.codes)
    }

    /// Writes a shard, whose tokens must be in range; returns its entry and the bytes of its file.
    pub(crate) fn write_shard(
        &self,
        folder: &Path,
        file: String,
        tokens: &[u16],
        labels: &[u16],
    ) -> Result<(ShardEntry, u64), Error> {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        shard::write(folder, file, TOKENS, (Dtype::U16, &[self.positions()], &bytes), labels)
    }

    /// Checks one picture's tokens and label; `path` is for the error.
    pub(crate) fn check(&self, path: &Path, tokens: &[u16], label: usize) -> Result<(), Error> {
        manifest::check_classes(path, &self.classes)?;
        let positions = self.checked_positions(path)?;
        if tokens.len() != positions {
            return Err(Error::store(path, "tokens", positions, tokens.len()));
        }
        if let Some(token) = tokens.iter().find(|&&token| usize::from(token) >= self.codes) {
            return Err(Error::store(path, "token", format!("below {}", self.codes), token));
        }
        if label >= self.classes.len() {
            return Err(Error::store(path, "label", format!("below {}", self.classes.len()), label));
        }
        Ok(())
    }
}

/// Writes a token store in one go. For many pictures there is [`crate::TokenJob`], which can be resumed.
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
        self.info.check(&self.folder, tokens, label)?;
        self.tokens.extend_from_slice(tokens);
        self.labels.push(label as u16);
        if self.labels.len() == SHARD_ITEMS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let file = file_name(self.shards.len());
        self.shards.push(self.info.write_shard(&self.folder, file, &self.tokens, &self.labels)?.0);
        self.tokens.clear();
        self.labels.clear();
        Ok(())
    }

    /// Writes what is left, and the manifest.
    pub fn finish(mut self) -> Result<(), Error> {
        // Else nothing has checked it where there is no picture.
        self.info.checked_positions(&self.folder)?;
        if !self.labels.is_empty() {
            self.flush()?;
        }
        let manifest = Manifest { version: VERSION, info: self.info, flips: false, shards: self.shards };
        manifest::write(&self.folder, &manifest)
    }
}

/// Name of a shard's file.
pub(crate) fn file_name(number: usize) -> String {
    format!("tokens-{number:05}.safetensors")
}

/// A token store, open for reading.
#[derive(Debug)]
pub struct TokenStore {
    path: PathBuf,
    manifest: Manifest,
    shards: Shards,
}

impl TokenStore {
    /// Opens a store: files are mapped, and tokens and labels checked against their ranges.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let manifest: Manifest = manifest::read(path, manifest::StoreKind::Tokens, VERSION)?;
        let info = &manifest.info;
        let shape = [info.checked_positions(&path.join(manifest::MANIFEST))?];
        let shards = Shards::open(path, &manifest.shards, TOKENS, Dtype::U16, &shape)?;
        for (shard, entry) in shards.iter().zip(&manifest.shards) {
            info.check_ranges(&path.join(&entry.file), shard)?;
        }
        Ok(Self { path: path.into(), manifest, shards })
    }

    /// Grid, codes, classes and origin.
    pub fn info(&self) -> &TokenStoreInfo {
        &self.manifest.info
    }

    /// A checksum of all that it holds, by its manifest.
    pub fn sha256(&self) -> Result<String, Error> {
        manifest::digest(&self.path, &self.manifest)
    }

    /// Whether the second half are the tokens of the same pictures, mirrored.
    pub fn has_flips(&self) -> bool {
        self.manifest.flips
    }

    /// Number of pictures, mirrored ones included.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of a picture, N of them in raster order.
    ///
    /// # Panics
    /// Where `index` is not below [`Self::len`].
    pub fn tokens(&self, index: usize) -> Vec<u16> {
        let (shard, index) = self.shards.locate(index);
        read_tokens(shard.item(index)).collect()
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

impl TokenStoreInfo {
    /// Number of tokens of a picture, of what anyone may have written; `path` is for the error.
    pub(crate) fn checked_positions(&self, path: &Path) -> Result<usize, Error> {
        let [rows, columns] = self.grid;
        let positions = rows.checked_mul(columns).filter(|&positions| positions > 0);
        positions.ok_or_else(|| Error::store(path, "grid", "rows and columns", format!("{:?}", self.grid)))
    }

    /// Opens one shard and checks its ranges.
    pub(crate) fn open_shard(&self, folder: &Path, entry: &ShardEntry) -> Result<Shard, Error> {
        let shape = [self.checked_positions(&folder.join(manifest::MANIFEST))?];
        let shard = Shard::open(folder, entry, TOKENS, Dtype::U16, &shape)?;
        self.check_ranges(&folder.join(&entry.file), &shard)?;
        Ok(shard)
    }

    fn check_ranges(&self, path: &Path, shard: &Shard) -> Result<(), Error> {
        let highest = (0..shard.len()).flat_map(|i| read_tokens(shard.item(i))).max();
        if let Some(highest) = highest.filter(|&highest| usize::from(highest) >= self.codes) {
            return Err(Error::store(path, "token", format!("below {}", self.codes), highest));
        }
        shard.check_labels(path, self.classes.len())
    }
}

fn read_tokens(bytes: &[u8]) -> impl Iterator<Item = u16> + '_ {
    bytes.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_the_same_by_what_decides_them() {
        let of = |tokenizer: &str, codes: Option<&str>| TokenStoreInfo {
            tokenizer: tokenizer.into(),
            codes_sha256: codes.map(str::to_owned),
            ..info()
        };
        for (a, b, is_same) in [
            (of("a", None), of("a", None), true),
            (of("a", None), of("b", None), false),
            // Other decoders, and stores of which one is older.
            (of("a", Some("x")), of("b", Some("x")), true),
            (of("a", Some("x")), of("a", Some("y")), false),
            (of("a", Some("x")), of("a", None), true),
            (of("a", Some("x")), of("b", None), false),
            (info(), TokenStoreInfo { codes: 7, ..info() }, false),
        ] {
            assert_eq!((a.has_tokens_of(&b), b.has_tokens_of(&a)), (is_same, is_same), "{a:?} {b:?}");
        }
        assert_eq!(
            [of("a", Some("x")), of("a", None)].map(|info| info.tokens_sha256().to_owned()),
            ["x", "a"]
        );
    }

    fn info() -> TokenStoreInfo {
        TokenStoreInfo {
            grid: [2, 3],
            codes: 10,
            classes: vec!["a".into(), "b".into()],
            tokenizer: "none".into(),
            codes_sha256: None,
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

    /// What is written would not be opened.
    #[test]
    fn a_grid_of_no_place_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for grid in [[0, 5], [usize::MAX, 2]] {
            let writer = || TokenWriter::new(folder.path(), TokenStoreInfo { grid, ..info() });
            for refused in [writer().push(&[], 0), writer().finish()] {
                let error = refused.unwrap_err().to_string();
                assert!(
                    error.ends_with(&format!("grid: expected rows and columns, got {grid:?}")),
                    "{error}"
                );
            }
        }
    }

    #[test]
    fn what_no_tokenizer_writes_is_not_sound() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = TokenWriter::new(folder.path(), info());
        (0..3).for_each(|number| writer.push(&[1; 6], number % 2).unwrap());
        writer.finish().unwrap();
        let path = folder.path().join(manifest::MANIFEST);
        let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let refused = |field: &str, value: serde_json::Value| {
            let mut other = whole.clone();
            other[field] = value;
            std::fs::write(&path, other.to_string()).unwrap();
            crate::verify(folder.path()).unwrap_err().to_string()
        };
        let error = refused("flips", true.into());
        assert!(error.ends_with("an even number of pictures, of which half are mirrored, got 3"), "{error}");
        let error = refused("shards", serde_json::json!([]));
        assert!(error.ends_with("shards: expected at least one picture, got none"), "{error}");
    }

    /// Labels are u16: class 65,537 would read back as class 1.
    #[test]
    fn more_classes_than_labels_can_tell_apart_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let many = |count: usize| (0..count).map(|class| class.to_string()).collect::<Vec<_>>();
        let mut writer = TokenWriter::new(folder.path(), TokenStoreInfo { classes: many(1 << 16), ..info() });
        writer.push(&[1; 6], 65_535).unwrap();
        assert!(writer.push(&[1; 6], 65_536).is_err());
        writer.finish().unwrap();
        assert_eq!(TokenStore::open(folder.path()).unwrap().label(0), 65_535);

        let too_many = TokenStoreInfo { classes: many(70_000), ..info() };
        let told = "classes: expected 65536 at most, got 70000";
        let error = TokenWriter::new(folder.path(), too_many).push(&[1; 6], 65_537).unwrap_err().to_string();
        assert!(error.ends_with(told), "{error}");
        let path = folder.path().join(manifest::MANIFEST);
        let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        text["info"]["classes"] = many(70_000).into();
        std::fs::write(&path, text.to_string()).unwrap();
        let refusals = [TokenStore::open(folder.path()).map(drop), crate::verify(folder.path()).map(drop)];
        for error in refusals.map(|refused| refused.unwrap_err().to_string()) {
            assert!(error.ends_with(told), "{error}");
        }
    }
}
