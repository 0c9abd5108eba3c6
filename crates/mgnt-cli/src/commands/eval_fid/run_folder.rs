//! The folder of a run: what is in it, and whether it is this run's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use mgnt_eval::{Activations, Measuring};
use mgnt_weights::atomic::Lock;
use mgnt_weights::{Error, TensorMap, atomic, safetensors};
use serde::{Deserialize, Serialize};

use crate::commands::output_folder::{self, is_within};
use crate::failure::bad_use;

/// All that the samples depend on. Written first; a run that is continued must have the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub(super) version: u32,
    /// Of configuration and weights together; a report has that of the weights alone.
    pub(super) model_sha256: String,
    /// The same of the tokenizer.
    pub(super) tokenizer_sha256: String,
    pub(super) samples: usize,
    pub(super) seed: u64,
    pub(super) classes: String,
    pub(super) class_count: usize,
    pub(super) strategy: String,
    pub(super) dtype: String,
    pub(super) device: String,
    pub(super) batch: usize,
    pub(super) shard: usize,
}

const IDENTITY: &str = "run.json";
/// What a run keeps in its folder for itself.
const OWN: [&str; 8] =
    [IDENTITY, "lock", "manifest.json", "samples.npz", "tokens", "features", "png", "npz-parts"];
const REPORTS: [&str; 2] = ["report.json", "report.md"];

/// The folder, which no other process works in meanwhile.
pub(super) struct RunFolder {
    path: PathBuf,
    features: PathBuf,
    /// Held until the run ends, however it ends.
    lock: Lock,
}

impl RunFolder {
    /// Opens the folder of a run, or makes it; one of another run is left alone.
    pub(super) fn open(path: &Path, identity: &Identity, measuring: &Measuring) -> anyhow::Result<Self> {
        output_folder::check_named(path)?;
        let known = path.join(IDENTITY);
        // Before the lock, which would stay in somebody else's folder. A training's file has the same name.
        let is_ours = match known.exists() {
            true => is_of_a_run(&fs::read(&known).map_err(Error::io(&known))?),
            false => !path.is_dir() || only_leftovers(path)?,
        };
        if !is_ours {
            return Err(bad_use(format!("--out {}: holds something else already", path.display())));
        }
        let lock = output_folder::lock(path, "eval-fid")?;
        if known.exists() {
            let text = fs::read_to_string(&known).map_err(Error::io(&known))?;
            let before: Identity = serde_json::from_str(&text)
                .with_context(|| format!("{}: not of this version", known.display()))?;
            if let Some((field, before, now)) = difference(&before, identity)? {
                return Err(bad_use(format!(
                    "--out {}: holds a run with {field} {before}, not {now}; another folder starts anew",
                    path.display()
                )));
            }
        } else {
            atomic::write_bytes(&known, &serde_json::to_vec_pretty(identity)?)?;
        }
        let &Measuring { network, dims, .. } = measuring;
        let what = [network.sha256(), &network.resize().to_string()].concat();
        let name = format!("{}-{}", dims.count(), &mgnt_data::manifest::sha256(what.as_bytes())[..16]);
        let folder = Self { path: path.into(), features: path.join("features").join(name), lock };
        folder.clear_leftovers()?;
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails where the folder was removed, or is another run's, since it was opened: before anything is written there.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.lock.check()
    }

    pub(super) fn tokens(&self, shard: usize) -> PathBuf {
        self.path.join("tokens").join(shard_file(shard))
    }

    pub(super) fn features(&self, shard: usize) -> PathBuf {
        self.features.join(shard_file(shard))
    }

    /// The folder of a shard's PNG files.
    pub(super) fn png(&self, shard: usize) -> PathBuf {
        self.path.join("png").join(format!("{shard:05}"))
    }

    /// Pictures of a shard on their way into the archive.
    pub(super) fn parts(&self) -> PathBuf {
        self.path.join("npz-parts")
    }

    pub(super) fn part(&self, shard: usize) -> PathBuf {
        self.parts().join(shard_file(shard))
    }

    pub(super) fn archive(&self) -> PathBuf {
        self.path.join("samples.npz")
    }

    pub(super) fn manifest(&self) -> PathBuf {
        self.path.join("manifest.json")
    }

    /// What a killed run was writing.
    fn clear_leftovers(&self) -> Result<(), Error> {
        atomic::remove_leftovers_of(&self.path, |name| OWN.contains(&name) || REPORTS.contains(&name))?;
        let folders = [&self.path.join("tokens"), &self.features, &self.path.join("png"), &self.parts()];
        folders.into_iter().try_for_each(|folder| atomic::remove_leftovers(folder))
    }
}

/// Whether a place is one of those that a run in `out` keeps for itself; its reports are anybody's.
pub(super) fn is_own(out: &Path, place: &Path) -> bool {
    OWN.iter().any(|name| is_within(place, &out.join(name)))
}

/// Whether a run died before it wrote what it is.
fn only_leftovers(path: &Path) -> anyhow::Result<bool> {
    let mut entries = fs::read_dir(path).map_err(Error::io(path))?.flatten();
    Ok(entries.all(|entry| {
        let name = entry.file_name();
        name == "lock" || atomic::leftover_of(&name.to_string_lossy()) == Some(IDENTITY)
    }))
}

/// Whether a file says what a run is, of this version or another.
fn is_of_a_run(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(text).is_ok_and(|found| {
        ["version", "model_sha256", "samples"].iter().all(|field| found.get(field).is_some())
    })
}

fn shard_file(shard: usize) -> String {
    format!("{shard:05}.safetensors")
}

/// The first field in which two runs differ, and both values.
fn difference(before: &Identity, now: &Identity) -> anyhow::Result<Option<(String, String, String)>> {
    let (before, now) = (serde_json::to_value(before)?, serde_json::to_value(now)?);
    let field = now.as_object().into_iter().flatten().find(|(field, value)| before.get(field) != Some(value));
    Ok(field.map(|(field, value)| {
        let old = before.get(field).cloned().unwrap_or_default();
        (field.clone(), old.to_string(), value.to_string())
    }))
}

/// Writes what the network said of a shard.
pub(super) fn write_activations(path: &Path, said: &Activations, count: usize) -> anyhow::Result<()> {
    let mut map = TensorMap::new();
    let parts = [
        ("features", Some(&said.features)),
        ("spatial", said.spatial.as_ref()),
        ("logits", said.logits.as_ref()),
    ];
    for (name, values) in parts {
        if let Some(values) = values {
            map.insert_f32(name, &[count, values.len() / count.max(1)], values)?;
        }
    }
    Ok(safetensors::write(path, &map)?)
}

/// Reads it again, if it is of `count` pictures.
pub(super) fn read_activations(path: &Path, count: usize) -> anyhow::Result<Activations> {
    let damaged = || format!("{}: damaged; without it, its samples are measured again", path.display());
    let map = safetensors::read(path).with_context(damaged)?;
    let get = |name: &str| -> anyhow::Result<Option<Vec<f32>>> {
        match map.get(name) {
            Ok(tensor) if tensor.shape().first() == Some(&count) => Ok(Some(tensor.to_f32())),
            Ok(tensor) => Err(anyhow!("`{name}`: expected {count} rows, got {:?}", tensor.shape()))
                .with_context(damaged),
            Err(_) => Ok(None),
        }
    };
    let features = get("features")?.context("`features` are missing").with_context(damaged)?;
    Ok(Activations { features, spatial: get("spatial")?, logits: get("logits")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::evaluation::VERSION;

    #[test]
    fn the_first_difference_is_named() {
        let identity = Identity {
            version: VERSION,
            model_sha256: "a".into(),
            tokenizer_sha256: "b".into(),
            samples: 10,
            seed: 0,
            classes: "balanced".into(),
            class_count: 3,
            strategy: "s".into(),
            dtype: "f32".into(),
            device: "cpu".into(),
            batch: 2,
            shard: 4,
        };
        assert_eq!(difference(&identity, &identity).unwrap(), None);
        let other = Identity { dtype: "bf16".into(), ..identity.clone() };
        let (field, before, now) = difference(&identity, &other).unwrap().unwrap();
        assert_eq!((field.as_str(), before.as_str(), now.as_str()), ("dtype", "\"f32\"", "\"bf16\""));
    }

    #[test]
    fn activations_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let said = Activations { features: vec![1.5; 8], spatial: None, logits: Some(vec![-2.0; 6]) };
        write_activations(&path, &said, 2).unwrap();
        assert_eq!(read_activations(&path, 2).unwrap(), said);
        let refused = |part: &str| {
            let error = format!("{:#}", read_activations(&path, 3).unwrap_err());
            assert!(error.contains("without it, its samples are measured again"), "{error}");
            assert!(error.contains("a.safetensors") && error.contains(part), "{error}");
        };
        refused("expected 3 rows");
        safetensors::write(&path, &TensorMap::new()).unwrap();
        refused("`features` are missing");
        fs::write(&path, b"torn").unwrap();
        refused("");
    }
}
