//! Manifests: the last file written of a store, so that a store without one is known to be incomplete.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use mgnt_weights::atomic;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

/// Name of the manifest in every store.
pub const MANIFEST: &str = "manifest.json";

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

/// A file that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejected {
    /// Path within the source.
    pub key: String,
    /// What was wrong with it.
    pub reason: String,
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

pub(crate) fn read<M: DeserializeOwned>(folder: &Path) -> Result<M, Error> {
    let path = folder.join(MANIFEST);
    if folder.is_dir() && !path.exists() {
        return Err(Error::store(
            &path,
            "file",
            "a manifest, the last file written",
            "none: the store is incomplete",
        ));
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(|e| Error::store(&path, "manifest", "a manifest of this version", e))
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

/// Checks that every shard has the checksum of its entry.
pub(crate) fn verify(folder: &Path, shards: &[ShardEntry]) -> Result<(), Error> {
    for shard in shards {
        let path = folder.join(&shard.file);
        let got = sha256_of_file(&path)?;
        if got != shard.sha256 {
            return Err(Error::store(path, "sha256", &shard.sha256, got));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_the_empty_and_of_abc() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        assert_eq!(
            sha256_of_file(file.path()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
