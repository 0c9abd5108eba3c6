//! `mgnt import`: published checkpoints become model directories.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args, Subcommand};
use mgnt_model::published::{self as transformer, Family};
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_tokenizer::published::{self as tokenizer, VideoShape};
use mgnt_tokenizer::{ImageTokenizer, VideoTokenizer};
use mgnt_weights::{TensorMap, flax};

use super::output_folder::{check_not_within, tell_of_leftovers_of_a_model};
use crate::device::DeviceWord;
use crate::failure::bad_use;

/// Arguments of `mgnt import`.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Subcommand)]
enum Kind {
    /// MaskGIT's transformer or image tokenizer (Flax msgpack)
    #[command(group = ArgGroup::new("which").required(true).args(["transformer", "tokenizer"]))]
    MaskgitFlax {
        #[command(flatten)]
        transformer: TransformerArguments,
        /// The tokenizer's file
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// Side of the tokenizer's pictures in pixels
        #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = pixels(), conflicts_with = "transformer")]
        size: u32,
        /// The model directory to write
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
    },
    /// The PyTorch port of MaskGIT's image tokenizer (.bin, .pth, .pt or safetensors)
    MaskgitVqganTorch {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Side of its pictures in pixels
        #[arg(long, value_name = "PIXELS", default_value_t = 256, value_parser = pixels())]
        size: u32,
        /// The model directory to write
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
    },
    /// MAGVIT's transformer or 3D tokenizer (Flax msgpack); the transformer's unconditional class is not among --classes
    #[command(group = ArgGroup::new("which").required(true).args(["transformer", "tokenizer"]))]
    MagvitFlax {
        #[command(flatten)]
        transformer: TransformerArguments,
        /// The tokenizer's file
        #[arg(long, value_name = "FILE")]
        tokenizer: Option<PathBuf>,
        /// Frames of the tokenizer's videos
        #[arg(long, value_name = "T", default_value_t = 16, value_parser = pixels(), conflicts_with = "transformer")]
        frames: u32,
        /// Side of the tokenizer's videos in pixels
        #[arg(long, value_name = "PIXELS", default_value_t = 128, value_parser = pixels(), conflicts_with = "transformer")]
        size: u32,
        /// Whether each level but the last halves the frames
        #[arg(
            long,
            value_name = "LIST",
            value_delimiter = ',',
            default_value = "true,true,false",
            conflicts_with = "transformer"
        )]
        temporal_downsample: Vec<bool>,
        /// The model directory to write
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
    },
}

/// A transformer, beside which a subcommand has a `--tokenizer`.
#[derive(Args)]
struct TransformerArguments {
    /// The transformer's file
    #[arg(long, value_name = "FILE", requires = "classes")]
    transformer: Option<PathBuf>,
    /// Classes that the transformer's vocabulary has
    #[arg(long, value_name = "C", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "tokenizer")]
    classes: Option<u32>,
    /// Sub-models that decodes may use, of which a published checkpoint has trained 1 alone [default: 1, 2, 4 and 8, as
    /// far as the sizes allow]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "tokenizer")]
    sub_models: Vec<usize>,
}

/// Sides of pictures, and lengths of videos.
fn pixels() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=65_536)
}

/// Imports.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    match arguments.kind {
        Kind::MaskgitFlax { tokenizer: Some(file), size, out, .. } => {
            image(tokenizer::image_from_flax(read(&file, &out)?, size as usize), &file, &out)
        }
        Kind::MaskgitVqganTorch { file, size, out } => {
            image(tokenizer::image_from_port(read(&file, &out)?, size as usize), &file, &out)
        }
        Kind::MagvitFlax { tokenizer: Some(file), frames, size, temporal_downsample, out, .. } => {
            let (frames, size) = (frames as usize, size as usize);
            let shape = VideoShape { frames, size, temporal_downsample };
            let tensors = read(&file, &out)?;
            let (config, weights) = tokenizer::video_from_flax(tensors, &shape).map_err(named(&file))?;
            weights.check_finite().map_err(named(&file))?;
            let model = VideoTokenizer::from_weights(&config, weights, &DeviceWord::Cpu.open()?)?;
            model.save(&out)?;
            done(&out, &format!("video tokenizer, {:?} tokens of {} codes", config.grid(), config.codes))
        }
        Kind::MaskgitFlax { transformer, out, .. } => transformer.import(Family::Maskgit, &out),
        Kind::MagvitFlax { transformer, out, .. } => transformer.import(Family::Magvit, &out),
    }
}

/// The tensors of a file, which the model directory must not take the place of.
fn read(file: &Path, out: &Path) -> anyhow::Result<TensorMap> {
    check_not_within("the file", file, out)?;
    tell_of_leftovers_of_a_model(out)?;
    Ok(mgnt_weights::read(file)?)
}

impl TransformerArguments {
    fn import(self, family: Family, out: &Path) -> anyhow::Result<()> {
        let Self { transformer: Some(file), classes, sub_models } = self else {
            anyhow::bail!("neither part is named")
        };
        let tensors = flax::parameters(read(&file, out)?);
        // The vocabularies of the two differ by a class, which nothing else in a file tells.
        if let Some(other) = Family::of(&tensors).filter(|of_file| *of_file != family) {
            let name = |family| if family == Family::Magvit { "magvit-flax" } else { "maskgit-flax" };
            let file = file.display();
            return Err(bad_use(format!(
                "{file}: expected names of {}, got those of {}",
                name(family),
                name(other)
            )));
        }
        let (classes, null_class) = (classes.unwrap_or(0) as usize, family == Family::Magvit);
        let (config, weights) = transformer::from_flax(tensors, classes, null_class).map_err(named(&file))?;
        weights.check_finite().map_err(named(&file))?;
        let config = match sub_models.is_empty() {
            true => config,
            false => ModelConfig { sub_models, ..config },
        };
        config.validate().map_err(|error| bad_use(format!("--sub-models: {error}")))?;
        NestedTransformer::from_weights(&config, weights, &DeviceWord::Cpu.open()?)?.save(out)?;
        if config.sub_models != [1] {
            let sub_models = &config.sub_models;
            tell!(
                "sub-models {sub_models:?}: decodes take them by default, and a checkpoint that was trained whole has none \
                 but 1 (--sub-models 1; `train-imagenet --from` trains the others)"
            );
        }
        let millions = config.parameters() as f64 / 1e6;
        done(
            out,
            &format!(
                "transformer of {millions:.2} M parameters: {} layers, width {}, {} heads; {} tokens of {} codes, {} classes, {} null class",
                config.layers,
                config.width,
                config.heads,
                config.tokens,
                config.codes,
                config.classes,
                if config.null_class { "a" } else { "no" }
            ),
        )
    }
}

type Imported = Result<(mgnt_tokenizer::ImageTokenizerConfig, TensorMap), mgnt_tokenizer::Error>;

fn image(imported: Imported, file: &Path, out: &Path) -> anyhow::Result<()> {
    let (config, weights) = imported.map_err(named(file))?;
    weights.check_finite().map_err(named(file))?;
    ImageTokenizer::from_weights(&config, weights, &DeviceWord::Cpu.open()?)?.save(out)?;
    done(out, &format!("image tokenizer, {0} x {0} tokens of {1} codes", config.grid(), config.codes))
}

/// An error with the file that it is about.
fn named<E: std::error::Error + Send + Sync + 'static>(file: &Path) -> impl FnOnce(E) -> anyhow::Error {
    let file = file.display().to_string();
    move |error| anyhow::Error::new(error).context(file)
}

fn done(out: &Path, what: &str) -> anyhow::Result<()> {
    tell!("{}: {what}", out.display());
    Ok(())
}
