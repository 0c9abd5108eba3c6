//! `mgnt generate`: pictures under a schedule of sub-models.

use std::path::{Path, PathBuf};

use clap::Args;
use mgnt_data::Picture;
use mgnt_decode::{Ledger, Strategy};
use mgnt_weights::directory::{CONFIG, WEIGHTS};
use mgnt_weights::{TensorMap, atomic, safetensors};
use serde::Serialize;

use super::generation::{Generator, MadeWith, add_up, classes, parse_class, warn_of_another_tokenizer};
use super::output_folder::{self, Contents, is_number};
use super::strategy::StrategyArguments;
use super::watch::Progress;
use super::{in_words, print_json};
use crate::device::{Compute, Dtype};
use crate::output::animation::gif;
use crate::output::canvas::stacked;
use crate::output::grid::{Cell, columns, labelled_grid};

/// Arguments of `mgnt generate`.
#[derive(Args)]
pub struct Arguments {
    /// The transformer's model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The tokenizer's model directory
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Class of all pictures; without it they go through the classes in turn
    #[arg(long, value_name = "C", value_parser = parse_class)]
    class: Option<usize>,
    /// Number of pictures
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Pictures decoded together; changes no picture (on accelerators but for rounding)
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Folder for the pictures, and grid/grid.png of the first 256; one that an earlier `generate` made is replaced
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Also write the tokens, i32 [count, N], and the classes; not into the folder, which is replaced as a whole
    #[arg(long, value_name = "FILE")]
    save_tokens: Option<PathBuf>,
    /// Also write grid/iterations.gif and grid/iterations.png into the folder: the first pictures as they are decoded, masked
    /// cells grey; 8 at most, and of the first --batch alone
    #[arg(long)]
    iterations: bool,
    #[command(flatten)]
    compute: Compute,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// What the folder holds.
const CONTENTS: Contents = Contents {
    manifest: "generated.json",
    is_picture: |name| {
        let numbers = name.strip_suffix(".png").and_then(|rest| rest.split_once('-'));
        numbers.is_some_and(|(class, sample)| is_number(class, 4) && is_number(sample, 5))
    },
    grid: &["grid.png", "iterations.gif", "iterations.png"],
};
/// Pictures of the grid, at most.
const IN_GRID: usize = 256;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "in_words")]
    out: &'a Path,
    count: usize,
    seed: u64,
    dtype: Dtype,
    #[serde(flatten)]
    made_with: &'a MadeWith<'a>,
    classes: &'a [usize],
    strategy: &'a Strategy,
    ledger: &'a Ledger,
}

/// Generates the pictures.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let out = &arguments.out;
    output_folder::check(out, &CONTENTS)?;
    if let Some(path) = &arguments.save_tokens {
        output_folder::check_file("--save-tokens", path)?;
        output_folder::check_outside(out, "--save-tokens", path)?;
        let of = |file| [&arguments.model, &arguments.tokenizer].map(|directory| directory.join(file));
        let ([model_config, tokenizer_config], [model, tokenizer]) = (of(CONFIG), of(WEIGHTS));
        let read = [
            ("the model's config", Some(model_config.as_path())),
            ("the model's weights", Some(&model)),
            ("the tokenizer's config", Some(&tokenizer_config)),
            ("the tokenizer's weights", Some(&tokenizer)),
            ("--strategy", arguments.strategy.strategy.as_deref()),
        ];
        output_folder::check_not_read("--save-tokens", path, &read)?;
    }
    let device = arguments.compute.open()?;
    let model = arguments.compute.load(&arguments.model, &device)?;
    let tokenizer = arguments.compute.image_tokenizer(&arguments.tokenizer, &device)?;
    let plan = arguments.strategy.plan(model.config())?;
    let count = arguments.count as usize;
    arguments.compute.check_memory(&plan, "--batch", count.min(arguments.batch.into()))?;
    let strategy = plan.strategy().clone();
    let generator = Generator::new(&model, &tokenizer, plan, arguments.seed, &device)?;
    let classes = classes(model.config().classes, arguments.class, count)?;
    warn_of_another_tokenizer(&arguments.model, &arguments.tokenizer)?;
    let made_with = MadeWith::new(&arguments.model, &arguments.tokenizer)?;

    let mut progress = Progress::new(count, "pictures");
    let (mut all_tokens, mut ledger) = (Vec::new(), None);
    atomic::write_folder(out, |folder| {
        let mut shown: Vec<Picture> = Vec::new();
        let batch_size = usize::from(arguments.batch);
        for (first, chunk) in (0..).step_by(batch_size).zip(classes.chunks(batch_size)) {
            let batch = if arguments.iterations && first == 0 {
                let (batch, frames) = generator.watched(chunk, first)?;
                atomic::write_within(&folder.join("grid/iterations.gif"), &gif(&frames, 40)?)?;
                let drawn = stacked(&frames).into_picture()?.to_png()?;
                atomic::write_within(&folder.join("grid/iterations.png"), &drawn)?;
                batch
            } else {
                generator.batch(chunk, first)?
            };
            for (i, (picture, class)) in batch.pictures.iter().zip(chunk).enumerate() {
                let path = folder.join(format!("{class:04}-{:05}.png", first + i));
                atomic::write_within(&path, &picture.to_png()?)?;
            }
            shown.extend(batch.pictures.into_iter().take(IN_GRID - shown.len()));
            all_tokens.extend(batch.tokens);
            add_up(&mut ledger, batch.ledger);
            progress.add(chunk.len());
        }
        let label = |class| format!("class {class}");
        let cells: Vec<Cell> =
            shown.iter().zip(&classes).map(|(picture, c)| Cell { picture, label: label(c) }).collect();
        let grid = labelled_grid(&cells, columns(cells.len())).into_picture()?.to_png()?;
        atomic::write_within(&folder.join("grid/grid.png"), &grid)?;
        // Before the folder is in its place, which may be taken by now.
        if let Some(path) = &arguments.save_tokens {
            save_tokens(path, &all_tokens, &classes)?;
        }
        output_folder::check_again(out, &CONTENTS)?;
        let Some(ledger) = &ledger else { return Ok(()) };
        let report = report(&arguments, &made_with, &classes, &strategy, ledger);
        Ok::<_, anyhow::Error>(atomic::write_within(
            &folder.join(CONTENTS.manifest),
            &serde_json::to_vec(&report)?,
        )?)
    })?;
    progress.finish();

    if let Some(ledger) = &ledger {
        if arguments.json {
            return print_json(&report(&arguments, &made_with, &classes, &strategy, ledger));
        }
        println!("{count} pictures in {}; times are of all of them", out.display());
        print!("{ledger}");
    }
    Ok(())
}

fn report<'a>(
    arguments: &'a Arguments,
    made_with: &'a MadeWith<'a>,
    classes: &'a [usize],
    strategy: &'a Strategy,
    ledger: &'a Ledger,
) -> Report<'a> {
    let (count, seed, dtype) = (classes.len(), arguments.seed, arguments.compute.dtype);
    Report { out: &arguments.out, count, seed, dtype, made_with, classes, strategy, ledger }
}

fn save_tokens(path: &Path, tokens: &[Vec<u16>], classes: &[usize]) -> anyhow::Result<()> {
    let mut map = TensorMap::new();
    let values: Vec<i32> = tokens.iter().flatten().map(|&t| i32::from(t)).collect();
    map.insert_i32("tokens", &[tokens.len(), values.len() / tokens.len().max(1)], &values)?;
    let classes: Vec<i32> = classes.iter().map(|&c| c as i32).collect();
    map.insert_i32("class_ids", &[classes.len()], &classes)?;
    Ok(safetensors::write(path, &map)?)
}
