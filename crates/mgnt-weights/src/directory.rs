//! A model on disk: a folder with `config.ron` and `model.safetensors`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::shown;
use crate::{Error, TensorMap, atomic, format, safetensors};

/// Name of the configuration in a model directory.
pub const CONFIG: &str = "config.ron";
/// Name of the weights in a model directory.
pub const WEIGHTS: &str = "model.safetensors";

/// Name of what lists the parts of weights in several files, as the Hub has them; they are not read.
const INDEX: &str = "model.safetensors.index.json";

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
    ///
    /// Where this is the folder of a training, the error says where its model is.
    pub fn config<C: DeserializeOwned>(&self) -> Result<C, Error> {
        self.check()?;
        read_ron(&self.path.join(CONFIG))
    }

    /// Refuses what is no model directory, and says of the folder of a training where its model is.
    pub fn check(&self) -> Result<(), Error> {
        let is_folder = fs::metadata(&self.path).map_err(Error::io(&self.path))?.is_dir();
        if self.path.join(CONFIG).exists() {
            return Ok(());
        }
        let models = ["model", "best"].map(|name| self.path.join(name));
        let got = match models.into_iter().find(|model| model.join(CONFIG).exists()) {
            Some(model) => format!("the folder of a training, whose model is {}", model.display()),
            None if is_folder => format!("a folder without {CONFIG}"),
            None => "a file".into(),
        };
        Err(Error::Place { path: self.path.clone(), expected: "a model directory", got })
    }

    /// What is wrong with the configuration beyond its form, with its file.
    pub fn invalid(&self, reason: impl ToString) -> Error {
        Error::Config { path: self.path.join(CONFIG), reason: reason.to_string() }
    }

    /// Fills a module with the weights, which must be finite: what attention makes of others may look as if nothing were wrong.
    #[cfg(feature = "module")]
    pub fn fill<M: burn::module::Module>(&self, module: M) -> Result<M, Error> {
        let weights = self.weights()?;
        let filled = weights.check_finite().and_then(|()| crate::module::from_map(module, weights));
        filled.map_err(|error| error.at(self.path.join(WEIGHTS)))
    }

    /// Reads `model.safetensors`; an error as of [`config`](Self::config).
    pub fn weights(&self) -> Result<TensorMap, Error> {
        self.check()?;
        let path = self.path.join(WEIGHTS);
        let index = self.path.join(INDEX);
        if !path.exists() && index.exists() {
            return Err(format::of_several_files(&index));
        }
        safetensors::read(&path)
    }

    /// Writes both files; the folder appears whole, or an older model stays ([`atomic::write_folder`]).
    ///
    /// Fails where the folder holds any other file or folder, but for a [file manager's](is_of_a_file_manager).
    pub fn save<C: Serialize>(&self, config: &C, weights: &TensorMap) -> Result<(), Error> {
        self.write(|folder| {
            write_ron(&folder.join(CONFIG), config)?;
            safetensors::write(&folder.join(WEIGHTS), weights)
        })
    }

    /// The same, of files that `fill` writes into the folder that it gets.
    pub fn write<E: From<Error>>(&self, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
        atomic::put_back(&self.path)?;
        self.check_others()?;
        atomic::write_folder(&self.path, |folder| {
            fill(folder)?;
            // That may have taken long, and what came meanwhile would go with the older model.
            Ok(self.check_others()?)
        })
    }

    /// Refuses a folder that holds anything but a model.
    fn check_others(&self) -> Result<(), Error> {
        let names = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let is_ours = |name: &OsStr| name == CONFIG || name == WEIGHTS || is_of_a_file_manager(name);
        if let Some(other) = names.into_iter().find(|name| !is_ours(name)) {
            let expected = "an empty folder, or a model directory to replace";
            let got = format!("`{}`", shown(&other.to_string_lossy()));
            return Err(Error::Place { path: self.path.clone(), expected, got });
        }
        Ok(())
    }
}

/// Whether a name is that of a file which file managers leave in every folder that they show.
pub fn is_of_a_file_manager(name: &OsStr) -> bool {
    [".DS_Store", "Thumbs.db", "desktop.ini"].iter().any(|of| name == *of)
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
        // Some editors begin a text with a byte order mark.
        .from_str(text.trim_start_matches('\u{feff}'))
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
        directory.save(&Config { width: 4, note: None }, &weights).unwrap();
        assert_eq!(directory.config::<Config>().unwrap().width, 4);
        // Whoever looked at the folder may have left that.
        fs::write(directory.path().join(".DS_Store"), "").unwrap();
        directory.save(&config, &weights).unwrap();

        let of_run = ModelDirectory::new(folder.path().join("run"));
        let best = of_run.path().join("best");
        ModelDirectory::new(&best).save(&config, &weights).unwrap();
        for error in [of_run.config::<Config>().unwrap_err(), of_run.weights().unwrap_err()] {
            let error = error.to_string();
            assert!(error.contains(&format!("whose model is {}", best.display())), "{error}");
        }

        let photos = folder.path().join("photos");
        fs::create_dir(&photos).unwrap();
        let save = || ModelDirectory::new(&photos).save(&config, &weights);
        save().unwrap();
        fs::write(photos.join("p.jpg"), "photo").unwrap();
        let refused = || save().unwrap_err().to_string();
        assert!(refused().contains("got `p.jpg`") && photos.join("p.jpg").exists(), "{}", refused());
        // What comes while the model is written stays too.
        fs::remove_file(photos.join("p.jpg")).unwrap();
        let late = ModelDirectory::new(&photos)
            .write(|_| fs::write(photos.join("p.jpg"), "photo").map_err(Error::io(&photos)));
        assert!(late.is_err() && photos.join("p.jpg").exists() && photos.join(CONFIG).exists());
        // What a process that was killed left aside is looked at as well.
        fs::rename(&photos, folder.path().join("photos.old.tmp")).unwrap();
        assert!(refused().contains("got `p.jpg`") && photos.join("p.jpg").exists(), "{}", refused());
    }

    #[test]
    fn weights_in_several_files_are_refused_by_their_index() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(CONFIG), "()").unwrap();
        fs::write(folder.path().join(INDEX), "{}").unwrap();
        let error = ModelDirectory::new(folder.path()).weights().unwrap_err().to_string();
        assert!(error.contains("index.json: ") && error.contains("several files"), "{error}");
    }

    #[test]
    fn what_is_no_model_directory_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| ModelDirectory::new(path).weights().unwrap_err().to_string();
        assert!(
            refused(folder.path()).ends_with("expected a model directory, got a folder without config.ron")
        );
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(refused(&file).ends_with("file: expected a model directory, got a file"));
        assert!(refused(&folder.path().join("nosuch")).contains("nosuch: "));
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let text = "\u{feff}(width: 3)";
        assert!(parse_ron::<Config>(text, Path::new("c.ron")).is_ok());
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
