//! `mgnt bench-against-torch`: our decodes and a plain PyTorch one with the same weights, turn and turn about.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::Args;
use mgnt_model::{ModelConfig, NestedTransformer, Norm};
use serde::{Deserialize, Serialize};

use super::bench::{self, Row};
use super::strategy::StrategyArguments;
use super::{configs, print_json};
use crate::device::{Compute, DeviceWord};
use crate::failure::bad_use;

/// Arguments of `mgnt bench-against-torch`.
#[derive(Args)]
pub struct Arguments {
    /// The model's config, or the folder of one like it
    #[arg(long, value_name = "FILE", default_value = "configs/model-L.ron")]
    config: PathBuf,
    /// Samples decoded at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Decodes of each, after one to warm up; the median counts
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Times that both sides take their turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// A Python that has torch, safetensors and numpy
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// The PyTorch side
    #[arg(long, value_name = "FILE", default_value = "benches/torch_decode.py")]
    script: PathBuf,
    /// Let PyTorch compile its model; with reduce-overhead it records graphs
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "default",
        value_parser = ["default", "reduce-overhead"]
    )]
    compile: Option<String>,
    #[command(flatten)]
    strategy: StrategyArguments,
    #[command(flatten)]
    compute: Compute,
    /// One JSON list on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// What the script prints.
#[derive(Deserialize)]
struct Torch {
    what: String,
    milliseconds: f64,
}

/// A decode of either side.
#[derive(Serialize)]
struct Compared {
    round: u16,
    name: String,
    milliseconds: f64,
    samples_per_second: f64,
    /// PyTorch's time in the same round over this one.
    times_torch: f64,
}

/// Runs both.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = configs::model(&arguments.config)?;
    let plan = arguments.strategy.plan(&config)?;
    if plan.iterations().iter().any(mgnt_decode::Iteration::is_guided) {
        return Err(bad_use("--guidance: the PyTorch side decodes without, and would do half the work"));
    }
    if config.norm != Norm::Post {
        return Err(bad_use(
            "--config: the PyTorch side has LayerNorms behind each branch, and none before: norm must be post",
        ));
    }
    let device = arguments.compute.open()?;
    let folder = tempfile::tempdir().context("a folder for the weights")?;
    let directory = folder.path().join("model");
    NestedTransformer::init(&config, 1, &device)?.save(&directory)?;
    let mut compared = Vec::new();
    for round in 0..arguments.rounds {
        let torch = torch(&arguments, &config, &directory)?;
        let model = arguments.compute.load(&directory, &device)?;
        let ours = bench::decodes(&model, plan.strategy().clone(), arguments.batch.into(), arguments.repeat)?;
        let ours = ours.into_iter().map(|Row { name, milliseconds, .. }| (name, milliseconds));
        let reference = torch.milliseconds;
        compared.extend([(torch.what, reference)].into_iter().chain(ours).map(|(name, milliseconds)| {
            Compared {
                round,
                name,
                milliseconds,
                samples_per_second: f64::from(arguments.batch) * 1e3 / milliseconds,
                times_torch: reference / milliseconds,
            }
        }));
    }
    if arguments.json {
        return print_json(&compared);
    }
    let width = compared.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(44);
    println!("{:<width$} {:>11} {:>10} {:>9}", "decode", "ms", "samples/s", "of torch");
    for Compared { name, milliseconds, samples_per_second, times_torch, .. } in compared {
        println!("{name:<width$} {milliseconds:>11.1} {samples_per_second:>10.3} {times_torch:>8.2}x");
    }
    Ok(())
}

fn torch(arguments: &Arguments, config: &ModelConfig, model: &std::path::Path) -> anyhow::Result<Torch> {
    let device = match arguments.compute.device {
        DeviceWord::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".into(),
    };
    let mut command = Command::new(&arguments.python);
    command.arg(&arguments.script).arg("--model").arg(model).args(["--device", &device]);
    for (option, number) in [
        ("--heads", config.heads),
        ("--codes", config.codes),
        ("--classes", config.classes),
        ("--batch", arguments.batch.into()),
        ("--repeat", arguments.repeat.into()),
        ("--steps", arguments.strategy.strategy(config)?.iterations()),
        ("--threads", rayon::current_num_threads()),
    ] {
        command.args([option, &number.to_string()]);
    }
    command.args(["--dtype", &arguments.compute.dtype.to_string()]);
    if let Some(mode) = &arguments.compile {
        command.args(["--compile", mode]);
    }
    command.stderr(Stdio::inherit());
    let program = arguments.python.display();
    let output = command.output().with_context(|| format!("--python {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.script.display(), output.status);
    }
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("what {} printed", arguments.script.display()))
}
