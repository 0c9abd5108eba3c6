//! `mgnt bench-evaluation`: Inception features beside PyTorch's, Frechet distance beside SciPy's, turn and turn about.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use mgnt_data::Picture;
use mgnt_eval::{Dims, Moments, Resize, Statistics, frechet_distance};
use mgnt_weights::atomic;
use mgnt_weights::npz::Writer;
use serde::{Deserialize, Serialize};

use super::bench::median;
use super::evaluation::{network, parse_dims};
use super::print_json;
use crate::device::DeviceWord;
use crate::memory::peak_bytes;

/// Arguments of `mgnt bench-evaluation`.
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Times that both sides take their turn
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Times within a turn, after one to warm up; the median counts
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// A Python that has torch, pytorch-fid and safetensors
    #[arg(long, global = true, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// The other side
    #[arg(long, global = true, value_name = "FILE", default_value = "benches/evaluation/theirs.py")]
    script: PathBuf,
    /// One JSON list on standard output instead of the table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// The network on a batch of pictures of 299 pixels
    Features {
        /// Weights of the Inception network
        #[arg(long, value_name = "FILE")]
        weights: PathBuf,
        /// Dimensions of the features: 64, 192, 768 or 2048
        #[arg(long, value_name = "N", default_value = "2048", value_parser = parse_dims)]
        dims: Dims,
        /// Pictures at a time
        #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
        batch: u16,
        /// Device to compute on
        #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
        device: DeviceWord,
    },
    /// The distance of two sets of statistics
    Frechet {
        /// Dimensions
        #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u16).range(2..=8192))]
        dims: u16,
    },
}

/// What either side says of a turn.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Turn {
    milliseconds: f64,
    value: f64,
}

#[derive(Serialize)]
struct Row {
    round: u16,
    ours: Turn,
    theirs: Turn,
    /// Their time over ours: above 1, ours is the faster.
    times_theirs: f64,
}

/// Takes turns.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let rows = match &arguments.what {
        What::Features { weights, dims, batch, device } => {
            let network = network(weights, Resize::PytorchFid, *device, &device.open()?)?;
            network.require(*dims)?;
            let pictures = (0..usize::from(*batch)).map(picture).collect::<anyhow::Result<Vec<_>>>()?;
            let words = [
                "features".into(),
                weights.display().to_string(),
                dims.count().to_string(),
                batch.to_string(),
            ];
            turns(&arguments, &words, || {
                Ok(f64::from(black_box(network.activations(&pictures, *dims)?).features[0]))
            })?
        }
        What::Frechet { dims } => {
            let (a, b) = (moments(usize::from(*dims), 1)?, moments(usize::from(*dims), 2)?);
            let folder = tempfile::tempdir().context("a folder for the statistics")?;
            let path = folder.path().join("moments.npz");
            write(&path, &a, &b)?;
            turns(&arguments, &["frechet".into(), path.display().to_string()], || {
                Ok(frechet_distance(&a, &b)?.distance)
            })?
        }
    };
    if arguments.json {
        return print_json(&rows);
    }
    println!(
        "{:>5} {:>12} {:>12} {:>10} {:>14} {:>14}",
        "round", "ours, ms", "theirs, ms", "speed", "ours", "theirs"
    );
    for Row { round, ours, theirs, times_theirs } in &rows {
        println!(
            "{round:>5} {:>12.1} {:>12.1} {times_theirs:>9.2}x {:>14.8} {:>14.8}",
            ours.milliseconds, theirs.milliseconds, ours.value, theirs.value
        );
    }
    let ratios = rows.iter().map(|row| row.times_theirs).collect();
    println!("{} threads; median of the ratios {:.3}", rayon::current_num_threads(), median(ratios));
    if let Some(bytes) = peak_bytes() {
        println!("most memory of this side {} MiB", bytes >> 20);
    }
    Ok(())
}

/// Byte i of picture n is 31 n + 7 i.
fn picture(number: usize) -> anyhow::Result<Picture> {
    let side = 299;
    Ok(Picture::new(side, side, (0..side * side * 3).map(|i| (number * 31 + i * 7) as u8).collect())?)
}

/// Statistics of made-up features that decay and are cut at nothing, as a network's are.
fn moments(dims: usize, seed: u32) -> Result<Moments, mgnt_eval::Error> {
    let mut statistics = Statistics::new(dims);
    let mut state = seed.wrapping_mul(0x9E37_79B9);
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 - 0.45
    };
    let rows = 256;
    for _ in 0..(2 * dims).div_ceil(rows) {
        let features: Vec<f32> = (0..rows * dims)
            .map(|i| (uniform() * (-4.0 * (i % dims) as f32 / dims as f32).exp()).max(0.0))
            .collect();
        statistics.add(&features)?;
    }
    Ok(statistics.moments())
}

fn write(path: &Path, a: &Moments, b: &Moments) -> anyhow::Result<()> {
    Ok(atomic::write_file(path, |file| {
        let mut writer = Writer::new(file, path);
        for (number, moments) in [(1, a), (2, b)] {
            let dims = moments.dims();
            writer.values(&format!("mu_{number}"), &[dims], moments.mean())?;
            writer.values(&format!("sigma_{number}"), &[dims, dims], &moments.covariance_values())?;
        }
        writer.finish()
    })?)
}

fn turns(
    arguments: &Arguments,
    words: &[String],
    mut work: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<Row>> {
    (0..arguments.rounds)
        .map(|round| {
            let mut value = work()?;
            let mut times = Vec::new();
            for _ in 0..arguments.repeat {
                let clock = Instant::now();
                value = work()?;
                times.push(clock.elapsed().as_secs_f64() * 1e3);
            }
            let ours = Turn { milliseconds: median(times), value };
            let theirs = theirs(arguments, words)?;
            Ok(Row { round, ours, theirs, times_theirs: theirs.milliseconds / ours.milliseconds })
        })
        .collect()
}

fn theirs(arguments: &Arguments, words: &[String]) -> anyhow::Result<Turn> {
    let program = arguments.python.display();
    let mut command = Command::new(&arguments.python);
    command.arg(&arguments.script).args(words);
    command.args([rayon::current_num_threads().to_string(), arguments.repeat.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("--python {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.script.display(), output.status);
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("what {} printed", arguments.script.display()))
}
