//! Manifests: the last file written of a store, so that a store without one is known to be incomplete.

use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

use mgnt_weights::atomic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

/// Name of the manifest in every store.
pub const MANIFEST: &str = "manifest.json";
/// Most classes that a store's labels, which are u16, can tell apart.
pub(crate) const MOST_CLASSES: usize = 1 << 16;
/// Name of the list of what was left out.
pub(crate) const REJECTED: &str = "rejected.jsonl";

/// What a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// Pictures.
    Pictures,
    /// Tokens of pictures.
    Tokens,
}

impl StoreKind {
    /// Of a folder that has a manifest of ours, of any version: others call their files so too.
    pub fn of(folder: &Path) -> Option<Self> {
        Self::of_manifest(&fs::read(folder.join(MANIFEST)).ok()?)
    }

    fn of_manifest(bytes: &[u8]) -> Option<Self> {
        let manifest: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        if !manifest["version"].is_u64() || !manifest["shards"].is_array() {
            return None;
        }
        match (
            manifest["size"].is_u64() && manifest["classes"].is_array(),
            manifest["info"]["codes"].is_u64(),
        ) {
            (true, _) => Some(Self::Pictures),
            (false, true) => Some(Self::Tokens),
            (false, false) => None,
        }
    }

    /// Whether a file is named as the shards are.
    pub fn is_shard(self, name: &str) -> bool {
        let first = match self {
            Self::Pictures => "pictures-",
            Self::Tokens => "tokens-",
        };
        name.starts_with(first) && name.ends_with(".safetensors")
    }

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pictures => "a store of pictures",
            Self::Tokens => "a store of tokens",
        }
    }

    /// With the command that makes it.
    fn made(self) -> &'static str {
        match self {
            Self::Pictures => "a store of pictures, which `mgnt prepare-imagenet` makes",
            Self::Tokens => "a store of tokens, which `mgnt tokenize` or `import-tokens` makes",
        }
    }
}

/// Both kinds, where nothing tells which one is meant.
pub(crate) const EITHER: &str =
    "a store of pictures or tokens, which `mgnt prepare-imagenet`, `tokenize` or `import-tokens` makes";

/// Whether a folder's manifest looks like that of a store of tokens, though something in it is wrong.
pub(crate) fn looks_like_tokens(folder: &Path) -> bool {
    let bytes = fs::read(folder.join(MANIFEST)).unwrap_or_default();
    serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|manifest| manifest["info"].is_object())
}

/// The error of a store that holds nothing.
pub(crate) fn of_nothing(folder: &Path) -> Error {
    Error::store(folder.join(MANIFEST), "shards", "at least one picture", "none")
}

/// One shard of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// File name within the store.
    pub file: String,
    /// Number of items.
    pub items: usize,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// Where a file that a manifest names lies: in the store itself, whoever wrote the manifest.
pub(crate) fn within(folder: &Path, file: &str) -> Result<PathBuf, Error> {
    let mut parts = Path::new(file).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) => Ok(folder.join(file)),
        _ => Err(Error::store(folder.join(MANIFEST), "file", "a name without a folder", format!("`{file}`"))),
    }
}

/// A file that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejected {
    /// Path within the source.
    pub key: String,
    /// What was wrong with it.
    pub reason: String,
}

/// The file of a store that lists what was left out: a JSON object a line, each a [`Rejected`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectedList {
    /// File name within the store.
    pub file: String,
    /// Number of lines.
    pub count: usize,
    /// SHA-256 of the file.
    pub sha256: String,
}

impl RejectedList {
    /// Writes the list, if there is something to list; else there is none, of a try before neither.
    pub(crate) fn write(folder: &Path, rejected: &[Rejected]) -> Result<Option<Self>, Error> {
        let file = REJECTED.to_owned();
        let path = folder.join(&file);
        if rejected.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(&path)(error)),
                _ => Ok(None),
            };
        }
        let mut bytes = Vec::new();
        for one in rejected {
            serde_json::to_writer(&mut bytes, one).map_err(|e| Error::store(&path, "line", "JSON", e))?;
            bytes.push(b'\n');
        }
        atomic::write_bytes(&path, &bytes)?;
        Ok(Some(Self { file, count: rejected.len(), sha256: sha256(&bytes) }))
    }

    /// Reads the list, which must be as it was written.
    pub(crate) fn read(&self, folder: &Path) -> Result<Vec<Rejected>, Error> {
        let path = within(folder, &self.file)?;
        let bytes = fs::read(&path).map_err(Error::io(&path))?;
        check_sum(&path, &sha256(&bytes), &self.sha256)?;
        let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        let rejected = lines
            .map(|line| {
                serde_json::from_slice(line)
                    .map_err(|e| Error::store(&path, "line", "a file and a reason", e))
            })
            .collect::<Result<Vec<_>, _>>()?;
        if rejected.len() != self.count {
            return Err(Error::store(&path, "lines", self.count, rejected.len()));
        }
        Ok(rejected)
    }
}

/// SHA-256 of bytes, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in hexadecimal, read in pieces.
pub fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let mut reader = BufReader::new(File::open(path).map_err(Error::io(path))?);
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer).map_err(Error::io(path))? {
            0 => return Ok(hex(&digest.finalize())),
            n => digest.update(&buffer[..n]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A manifest of either kind.
pub(crate) trait HasClasses {
    /// Class names by number.
    fn classes(&self) -> &[String];
}

/// Refuses more classes than labels can tell apart.
pub(crate) fn check_classes(folder: &Path, classes: &[String]) -> Result<(), Error> {
    if classes.len() <= MOST_CLASSES {
        return Ok(());
    }
    let expected = format!("{MOST_CLASSES} at most");
    Err(Error::store(folder.join(MANIFEST), "classes", expected, classes.len()))
}

/// Refuses what is no folder that has a manifest; `expected` is for the error.
pub(crate) fn check_is_there(folder: &Path, expected: &str) -> Result<(), Error> {
    if !fs::metadata(folder).map_err(Error::io(folder))?.is_dir() {
        return Err(Error::store(folder, "folder", expected, "a file"));
    }
    let path = folder.join(MANIFEST);
    if path.exists() {
        return Ok(());
    }
    Err(match has_shards(folder)? {
        true => {
            Error::store(path, "file", "a manifest, the last file written", "none: the store is incomplete")
        }
        false => Error::store(folder, "folder", expected, "one without a manifest"),
    })
}

/// Reads a manifest, which must be of a kind and a version.
pub(crate) fn read<M: DeserializeOwned + HasClasses>(
    folder: &Path,
    kind: StoreKind,
    version: u32,
) -> Result<M, Error> {
    let path = folder.join(MANIFEST);
    check_is_there(folder, kind.made())?;
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let invalid = |e| Error::store(&path, "manifest", "a manifest of this kind of store", e);
    if let Some(other) = StoreKind::of_manifest(text.as_bytes()).filter(|&other| other != kind) {
        return Err(Error::store(folder, "folder", kind.made(), other.name()));
    }
    let got: Version = serde_json::from_str(&text).map_err(invalid)?;
    if got.version != version {
        return Err(Error::store(&path, "version", version, got.version));
    }
    let manifest: M = serde_json::from_str(&text).map_err(invalid)?;
    check_classes(folder, manifest.classes())?;
    Ok(manifest)
}

/// Whether a folder has files such as shards are.
fn has_shards(folder: &Path) -> Result<bool, Error> {
    let files = fs::read_dir(folder).map_err(Error::io(folder))?;
    let is_shard =
        |name: &str| [StoreKind::Pictures, StoreKind::Tokens].iter().any(|kind| kind.is_shard(name));
    Ok(files.filter_map(Result::ok).any(|file| file.file_name().to_str().is_some_and(is_shard)))
}

/// A checksum of what a store holds: of its manifest, which has the checksum of every shard.
pub(crate) fn digest(folder: &Path, manifest: &impl Serialize) -> Result<String, Error> {
    let text = serde_json::to_string(manifest)
        .map_err(|e| Error::store(folder.join(MANIFEST), "manifest", "JSON", e))?;
    Ok(sha256(text.as_bytes()))
}

pub(crate) fn write(folder: &Path, manifest: &impl Serialize) -> Result<(), Error> {
    let path = folder.join(MANIFEST);
    let mut text =
        serde_json::to_string_pretty(manifest).map_err(|e| Error::store(&path, "manifest", "JSON", e))?;
    text.push('\n');
    Ok(atomic::write_bytes(&path, text.as_bytes())?)
}

/// Checks that a shard has the checksum of its entry.
pub(crate) fn verify(folder: &Path, shard: &ShardEntry) -> Result<(), Error> {
    let path = within(folder, &shard.file)?;
    check_sum(&path, &sha256_of_file(&path)?, &shard.sha256)
}

fn check_sum(path: &Path, got: &str, expected: &str) -> Result<(), Error> {
    if got == expected { Ok(()) } else { Err(Error::store(path, "sha256", expected, got)) }
}

/// The version that a manifest names, before anything else of it is read.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_the_empty_and_of_abc() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"abc").unwrap();
        assert_eq!(
            sha256_of_file(file.path()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
