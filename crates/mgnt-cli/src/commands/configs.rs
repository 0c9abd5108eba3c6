//! Files of `--config`. Configs, recipes and strategies are all RON: one of another kind is told by what it is.

use std::path::{Path, PathBuf};

use mgnt_decode::Strategy;
use mgnt_model::ModelConfig;
use mgnt_tokenizer::{ImageTokenizerConfig, VideoTokenizerConfig};
use mgnt_train::{Recipe, TokenizerRecipe};
use mgnt_weights::directory::{CONFIG, read_ron};
use serde::de::DeserializeOwned;

use crate::failure::bad_use;

/// The file that is meant by `path`: a model directory's config, or that of a run's model.
pub fn file(path: &Path) -> PathBuf {
    let of_folder = [path.join(CONFIG), path.join("model").join(CONFIG)];
    of_folder.into_iter().find(|file| file.is_file()).unwrap_or_else(|| path.into())
}

/// The config of a model, from a file or a [folder](file()).
pub fn model(path: &Path) -> anyhow::Result<ModelConfig> {
    read(&file(path), "a model's config (configs/model-L.ron, or RUN/model)")
}

/// The recipe of a nested transformer.
pub fn recipe(path: &Path) -> anyhow::Result<Recipe> {
    read(path, "a recipe of train-imagenet (configs/image/debug.ron)")
}

/// What is `expected` in a file.
pub fn read<C: DeserializeOwned>(path: &Path, expected: &str) -> anyhow::Result<C> {
    read_ron(path).map_err(|error| of_another_kind(path, expected).unwrap_or_else(|| error.into()))
}

/// What to say of a file that was not `expected`, where it is something else that we know.
pub fn of_another_kind(path: &Path, expected: &str) -> Option<anyhow::Error> {
    fn is<C: DeserializeOwned>(path: &Path) -> bool {
        read_ron::<C>(path).is_ok()
    }
    let named = |got: &str| bad_use(format!("{}: expected {expected}, got {got}", path.display()));
    if path.is_dir() {
        return Some(named("a folder without one"));
    }
    // A map of RON begins as an object of JSON does; what is expected was looked for before.
    fn is_json(path: &Path) -> bool {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text).is_ok()
    }
    type IsOne = fn(&Path) -> bool;
    let kinds: [(&str, IsOne); 7] = [
        ("a recipe of train-imagenet", is::<Recipe>),
        ("a recipe of train-tokenizer", is::<TokenizerRecipe>),
        ("a model's config", is::<ModelConfig>),
        ("a tokenizer's config", is::<ImageTokenizerConfig>),
        ("a video tokenizer's config", is::<VideoTokenizerConfig>),
        ("a strategy", is::<Strategy>),
        ("JSON, where RON is read: (layers: 4, …)", is_json),
    ];
    let (got, _) = kinds.into_iter().find(|(_, is_one)| is_one(path))?;
    Some(named(got))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs")
    }

    #[test]
    fn a_file_of_another_kind_is_told_by_what_it_is() {
        for (name, kind) in [
            ("image/debug.ron", "a recipe of train-imagenet"),
            ("image/debug-tokenizer.ron", "a recipe of train-tokenizer"),
        ] {
            let error = model(&configs().join(name)).unwrap_err().to_string();
            let end = format!("a model's config (configs/model-L.ron, or RUN/model), got {kind}");
            assert!(error.ends_with(&end), "{error}");
        }
        let error = recipe(&configs().join("model-L.ron")).unwrap_err().to_string();
        assert!(error.ends_with("(configs/image/debug.ron), got a model's config"), "{error}");
        let json = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(json.path(), "{\"layers\": 4}").unwrap();
        let error = recipe(json.path()).unwrap_err().to_string();
        assert!(error.ends_with(", got JSON, where RON is read: (layers: 4, …)"), "{error}");
        let error = recipe(&configs().join("nosuch.ron")).unwrap_err().to_string();
        assert!(error.contains("nosuch.ron: "), "{error}");
    }

    #[test]
    fn a_folder_is_that_of_a_model_or_of_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let (run, in_run) = (folder.path().join("run"), folder.path().join("run/model"));
        std::fs::create_dir_all(&in_run).unwrap();
        std::fs::copy(configs().join("model-L.ron"), in_run.join(CONFIG)).unwrap();
        for path in [&run, &in_run] {
            assert_eq!(file(path), in_run.join(CONFIG));
            assert_eq!(model(path).unwrap().layers, 24);
        }
        for error in [model(folder.path()).unwrap_err(), recipe(&run).unwrap_err()] {
            let error = error.to_string();
            assert!(error.starts_with(&folder.path().display().to_string()), "{error}");
            assert!(error.ends_with(", got a folder without one"), "{error}");
        }
    }
}
