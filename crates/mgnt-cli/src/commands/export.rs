//! `mgnt export`: a model directory as one safetensors file for other programs, or as a model directory of half the size.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::{ImageTokenizer, ImageTokenizerConfig, VideoTokenizer, published};
use mgnt_weights::directory::{CONFIG, ModelDirectory, WEIGHTS};
use mgnt_weights::{DType, TensorMap, atomic, safetensors};

use super::output_folder::{check_file, check_not_read, tell_of_leftovers_of_a_model};
use crate::device::DeviceWord;
use crate::failure::bad_use;
use crate::model_kind::ModelKind;

/// Arguments of `mgnt export`.
#[derive(Args)]
pub struct Arguments {
    /// A model directory
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Names of the tensors: our own (docs/checkpoints.md), or those of the PyTorch port of MaskGIT's tokenizer
    #[arg(long, value_enum, default_value_t = Names::Own)]
    names: Names,
    /// Type of the numbers
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
    /// Write a model directory, which all commands take, in place of a file
    #[arg(long, conflicts_with = "names")]
    directory: bool,
    /// The file or folder to write
    #[arg(long, short, value_name = "PATH")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Names {
    Own,
    Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
}

/// Fails where the weights do not fit the config, since whoever is given them would find out late.
fn check(model: &Path) -> anyhow::Result<()> {
    let (directory, device) = (ModelDirectory::new(model), DeviceWord::Cpu.open()?);
    match ModelKind::of(&directory)? {
        ModelKind::ImageTokenizer => drop(ImageTokenizer::load(model, &device)?),
        ModelKind::VideoTokenizer => drop(VideoTokenizer::load(model, &device)?),
        ModelKind::Transformer => drop(NestedTransformer::load(model, &device)?),
    }
    Ok(())
}

/// Exports.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let (model, out) = (&arguments.model, &arguments.out);
    let [config, weights_path] = [CONFIG, WEIGHTS].map(|file| model.join(file));
    let read =
        [("the model", model), ("the model's config", &config), ("the model's weights", &weights_path)];
    check_not_read("--out", out, &read.map(|(name, path)| (name, Some(path.as_path()))))?;
    if !arguments.directory {
        check_file("--out", out)?;
    } else if out.is_file() {
        return Err(bad_use(format!("--out {}: expected a folder, or nothing, got a file", out.display())));
    }
    check(model)?;
    if arguments.directory {
        tell_of_leftovers_of_a_model(out)?;
    }
    let directory = ModelDirectory::new(model);
    let mut weights = directory.weights()?;
    if arguments.names == Names::Port {
        let config = directory
            .config::<ImageTokenizerConfig>()
            .map_err(|error| ModelKind::ImageTokenizer.missed(model, error.into()))?;
        weights = published::image_to_port(&config, weights)?;
    }
    let dtype = match arguments.dtype {
        Precision::F32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::Bf16,
    };
    let mut out = TensorMap::new();
    let names: Vec<String> = weights.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        if let Some(tensor) = weights.remove(&name) {
            let tensor = tensor.to_float(&name, dtype).map_err(|error| error.at(&arguments.model))?;
            out.insert(name, tensor);
        }
    }
    // What PyTorch's own loaders look for.
    out.set_metadata("format", "pt");
    if arguments.directory {
        let config = arguments.model.join(CONFIG);
        let config = std::fs::read(&config).with_context(|| config.display().to_string())?;
        ModelDirectory::new(&arguments.out).write(|folder| {
            atomic::write_bytes(&folder.join(CONFIG), &config)?;
            safetensors::write(&folder.join(WEIGHTS), &out)
        })?;
    } else {
        safetensors::write(&arguments.out, &out)?;
    }
    tell!("{}: {} tensors", arguments.out.display(), out.len());
    Ok(())
}
