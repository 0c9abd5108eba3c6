//! A model on disk: a folder with `config.ron` and `model.safetensors`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, TensorMap, atomic, safetensors};

/// Name of the configuration in a model directory.
pub const CONFIG: &str = "config.ron";
/// Name of the weights in a model directory.
pub const WEIGHTS: &str = "model.safetensors";

/// A folder that holds a model's configuration and weights.
#[derive(Debug, Clone)]
pub struct ModelDirectory {
    path: PathBuf,
}

impl ModelDirectory {
    /// Names the folder; it is looked at when something is read.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads and parses `config.ron`.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C, Error> {
        read_ron(&self.path.join(CONFIG))
    }

    /// Reads `model.safetensors`.
    pub fn weights(&self) -> Result<TensorMap, Error> {
        safetensors::read(&self.path.join(WEIGHTS))
    }

    /// Writes both files; the folder appears whole, or an older one stays.
    pub fn save<C: Serialize>(&self, config: &C, weights: &TensorMap) -> Result<(), Error> {
        atomic::write_folder(&self.path, |folder| {
            write_ron(&folder.join(CONFIG), config)?;
            safetensors::write(&folder.join(WEIGHTS), weights)
        })
    }
}

/// Reads a RON file; an error names the file, the line and the field.
pub fn read_ron<C: DeserializeOwned>(path: &Path) -> Result<C, Error> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    parse_ron(&text, path)
}

/// Parses RON text; `path` is for the error only.
pub fn parse_ron<C: DeserializeOwned>(text: &str, path: &Path) -> Result<C, Error> {
    ron::Options::default()
        .with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
        .from_str(text)
        .map_err(|e| Error::Config { path: path.into(), reason: format!("line {}", e) })
}

/// Writes a value as readable RON, atomically.
pub fn write_ron<C: Serialize>(path: &Path, value: &C) -> Result<(), Error> {
    let pretty = ron::ser::PrettyConfig::new().struct_names(false);
    let options = ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME);
    let mut text = options
        .to_string_pretty(value, pretty)
        .map_err(|e| Error::Config { path: path.into(), reason: e.to_string() })?;
    text.push('\n');
    atomic::write_bytes(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        width: usize,
        note: Option<String>,
    }

    #[test]
    fn config_and_weights_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let directory = ModelDirectory::new(folder.path().join("m"));
        let config = Config { width: 3, note: Some("x".into()) };
        let mut weights = TensorMap::new();
        weights.insert_f32("w", &[1], &[2.0]).unwrap();
        directory.save(&config, &weights).unwrap();
        assert_eq!(directory.config::<Config>().unwrap(), config);
        assert_eq!(directory.weights().unwrap(), weights);
    }

    #[test]
    fn an_unknown_field_is_named_with_its_line() {
        let error = parse_ron::<Config>("(\n  width: 3,\n  hight: 4,\n)", Path::new("c.ron"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("c.ron: line 3"), "{error}");
        assert!(error.contains("hight"), "{error}");
    }
}
