//! `mgnt eval-fid`: Frechet distance of generated pictures, or of a folder, from real ones.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgGroup, Args};
use mgnt_data::PictureSet;
use mgnt_eval::{
    Dims, Inception, Measured, Meter, Protocol, ReferenceCache, Report, frechet_distance, measure,
};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::ImageTokenizer;
use mgnt_weights::atomic;

use super::generation::{Generator, classes};
use super::print_json;
use super::strategy::StrategyArguments;
use super::watch::bar;
use crate::device::DeviceWord;

/// Arguments of `mgnt eval-fid`.
#[derive(Args)]
#[command(group = ArgGroup::new("measured").required(true).args(["fake", "model"]))]
pub struct Arguments {
    /// Real pictures: a packed store, or a folder of pictures
    #[arg(long, value_name = "DIR")]
    real: PathBuf,
    /// Take at most this many real pictures, evenly over them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    real_samples: Option<u32>,
    /// Pictures to measure: a packed store, or a folder of pictures
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tokenizer", "samples", "keep"])]
    fake: Option<PathBuf>,
    /// In place of --fake: generate with this transformer
    #[arg(long, value_name = "DIR", requires = "tokenizer")]
    model: Option<PathBuf>,
    /// The tokenizer of --model
    #[arg(long, value_name = "DIR", requires = "model")]
    tokenizer: Option<PathBuf>,
    /// Pictures to generate, the classes in turn
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(2..))]
    samples: u32,
    /// Keep the generated pictures in this folder, as PNG
    #[arg(long, value_name = "DIR", requires = "model")]
    keep: Option<PathBuf>,
    /// Seed of the generated pictures
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Weights of the Inception network: safetensors with the names of its PyTorch port
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Dimensions of the features: 64, 192, 768 or 2048
    #[arg(long, value_name = "N", default_value = "2048", value_parser = parse_dims)]
    dims: Dims,
    /// Pictures at a time, generated and measured; changes no number beyond rounding
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Folder that keeps the statistics of real pictures (default: the user's cache folder)
    #[arg(long, value_name = "DIR")]
    statistics: Option<PathBuf>,
    /// Also write the report to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Device to compute on
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    device: DeviceWord,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// Dimensions as an option.
pub fn parse_dims(word: &str) -> Result<Dims, String> {
    let dims = word.parse().ok().and_then(Dims::from_count);
    dims.ok_or_else(|| "expected 64, 192, 768 or 2048".into())
}

/// Measures.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let device = arguments.device.open()?;
    let real = real_pictures(&arguments.real, arguments.real_samples)?;
    let network = Inception::load(&arguments.weights, &device)?;
    let fake = match (&arguments.fake, &arguments.model, &arguments.tokenizer) {
        (Some(folder), ..) => Fake::Set(PictureSet::open(folder)?),
        (None, Some(model), Some(tokenizer)) => Fake::Model {
            model: Box::new(NestedTransformer::load(model, &device)?),
            tokenizer: Box::new(ImageTokenizer::load(tokenizer, &device)?),
            path: model,
        },
        _ => anyhow::bail!("neither --fake nor --model is given"),
    };

    let batch = usize::from(arguments.batch);
    let cache = ReferenceCache::new(statistics_folder(arguments.statistics.as_deref())?);
    let progress = bar(real.len(), "real pictures");
    let reference = cache.statistics(&real, &network, arguments.dims, batch, &mut |done| {
        progress.set_position(done as u64);
    })?;
    progress.finish_and_clear();

    let meter = Meter::new(&network, arguments.dims).scoring();
    let mut protocol = Protocol {
        dims: arguments.dims.count(),
        weights: name_of(network.path()),
        weights_sha256: network.sha256().into(),
        resize: "bilinear to 299, half-pixel centres, no antialiasing; 2x - 1 (pytorch-fid)".into(),
        real: real.path().display().to_string(),
        real_count: reference.count(),
        fake: String::new(),
        fake_count: 0,
        classes: None,
        seed: None,
        strategy: None,
    };
    let measured = match fake {
        Fake::Set(set) => {
            let progress = bar(set.len(), "pictures");
            let meter = measure(&set, meter, batch, &mut |done| progress.set_position(done as u64))?;
            progress.finish_and_clear();
            protocol.fake = set.path().display().to_string();
            meter.finish()?
        }
        Fake::Model { model, tokenizer, path } => {
            let plan = arguments.strategy.plan(model.config())?;
            protocol.fake = path.display().to_string();
            protocol.classes = Some("all in turn".into());
            protocol.seed = Some(arguments.seed);
            protocol.strategy = Some(ron::to_string(plan.strategy())?);
            let generator = Generator::new(&model, &tokenizer, plan, arguments.seed, &device)?;
            generate(&arguments, &generator, model.config().classes, meter)?
        }
    };
    protocol.fake_count = measured.statistics.count();

    let distance = frechet_distance(&reference, &measured.statistics)?;
    let warnings = protocol.warnings();
    let report = Report {
        fid: distance.distance,
        fid_of_means: distance.means,
        inception_score: measured.inception_score.map(|score| [score.mean, score.deviation]),
        protocol,
        warnings,
    };
    if let Some(path) = &arguments.report {
        atomic::write_bytes(path, &serde_json::to_vec_pretty(&report)?)?;
    }
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    if arguments.json {
        return print_json(&report);
    }
    print!("{report}");
    Ok(())
}

/// The reference: all pictures of a set, or some.
pub fn real_pictures(path: &Path, samples: Option<u32>) -> anyhow::Result<PictureSet> {
    let set = PictureSet::open(path)?;
    Ok(match samples {
        Some(samples) => set.thinned(samples as usize),
        None => set,
    })
}

/// Where statistics of real pictures are kept: the folder that is named, or the user's cache folder.
pub fn statistics_folder(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        Some(folder) => Ok(folder.into()),
        None => {
            let cache = dirs::cache_dir().context("no cache folder is known; --statistics names one")?;
            Ok(cache.join("mgnt/statistics"))
        }
    }
}

/// What is measured.
enum Fake<'a> {
    Set(PictureSet),
    Model { model: Box<NestedTransformer>, tokenizer: Box<ImageTokenizer>, path: &'a Path },
}

fn generate(
    arguments: &Arguments,
    generator: &Generator,
    all: usize,
    mut meter: Meter,
) -> anyhow::Result<Measured> {
    let classes = classes(all, None, arguments.samples as usize)?;
    let progress = bar(classes.len(), "pictures");
    let batch_size = usize::from(arguments.batch);
    for (first, chunk) in (0..).step_by(batch_size).zip(classes.chunks(batch_size)) {
        let batch = generator.batch(chunk, first)?;
        if let Some(folder) = &arguments.keep {
            for (i, (picture, class)) in batch.pictures.iter().zip(chunk).enumerate() {
                picture.save_png(&folder.join(format!("{class:04}-{:05}.png", first + i)))?;
            }
        }
        meter.add(&batch.pictures)?;
        progress.inc(chunk.len() as u64);
    }
    progress.finish_and_clear();
    Ok(meter.finish()?)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
