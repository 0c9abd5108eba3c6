//! `mgnt generate`: pictures under a schedule of sub-models, or their tokens alone.

use std::path::{Path, PathBuf};

use clap::Args;
use mgnt_data::Picture;
use mgnt_decode::{Ledger, Strategy};
use mgnt_weights::directory::{CONFIG, WEIGHTS};
use mgnt_weights::{TensorMap, atomic, safetensors};
use serde::Serialize;

use super::generation::{
    AsRead, Generator, MadeWith, add_up, classes, parse_class, warn_of_another_tokenizer,
};
use super::output_folder::{self, Contents, is_number};
use super::strategy::StrategyArguments;
use super::watch::Progress;
use super::{in_words, print_json};
use crate::device::{Compute, Dtype, decoder};
use crate::failure::bad_use;
use crate::output::animation::gif;
use crate::output::canvas::stacked;
use crate::output::grid::{Cell, columns, labelled_grid};

/// Arguments of `mgnt generate`.
#[derive(Args)]
pub struct Arguments {
    /// The transformer's model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The tokenizer's model directory; without it there are only tokens, in the file of --save-tokens
    #[arg(long, value_name = "DIR", requires = "out")]
    tokenizer: Option<PathBuf>,
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
    #[arg(long, short, value_name = "DIR", requires = "tokenizer", required_unless_present = "save_tokens")]
    out: Option<PathBuf>,
    /// Also write the tokens, i32 [count, N], and the classes; not into the folder, which is replaced as a whole
    #[arg(long, value_name = "FILE")]
    save_tokens: Option<PathBuf>,
    /// Also write grid/iterations.gif and grid/iterations.png into the folder: the first pictures as they are decoded, masked
    /// cells grey; 8 at most, and of the first --batch alone
    #[arg(long, requires = "out")]
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

/// Generates.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    match (&arguments.tokenizer, &arguments.out, &arguments.save_tokens) {
        (Some(tokenizer), Some(out), _) => pictures(&arguments, tokenizer, out),
        (_, _, Some(path)) => tokens(&arguments, path),
        _ => Err(bad_use("--tokenizer and --out are needed, or --save-tokens")),
    }
}

/// Refuses a file of tokens that would be written over what is read.
fn check_tokens_file(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    output_folder::check_file("--save-tokens", path)?;
    if arguments.json && is_to_stdout(arguments) {
        return Err(bad_use("--json and --save-tokens: both would go to standard output"));
    }
    let of = |folder: Option<&PathBuf>, file| folder.map(|folder| folder.join(file));
    let (model, tokenizer) = (Some(&arguments.model), arguments.tokenizer.as_ref());
    let read = [
        ("the model's config", of(model, CONFIG)),
        ("the model's weights", of(model, WEIGHTS)),
        ("the tokenizer's config", of(tokenizer, CONFIG)),
        ("the tokenizer's weights", of(tokenizer, WEIGHTS)),
        ("--strategy", arguments.strategy.strategy.clone()),
    ];
    output_folder::check_not_read(
        "--save-tokens",
        path,
        &read.each_ref().map(|(name, path)| (*name, path.as_deref())),
    )
}

/// Tokens alone, for who makes pictures of them elsewhere.
fn tokens(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    check_tokens_file(arguments, path)?;
    let device = arguments.compute.open()?;
    let as_read = AsRead::new(&[&arguments.model]);
    let model = arguments.compute.load(&arguments.model, &device)?;
    let plan = arguments.strategy.plan(model.config())?;
    let count = arguments.count as usize;
    arguments.compute.check_memory(&plan, "--batch", count.min(arguments.batch.into()))?;
    let classes = classes(model.config().classes, arguments.class, count)?;
    let made_with = MadeWith::new(&arguments.model, None)?;
    as_read.check()?;

    let mut progress = Progress::new(count, "pictures' tokens");
    let (mut all_tokens, mut ledger) = (Vec::with_capacity(count), None);
    let batch = usize::from(arguments.batch);
    for (first, chunk) in (0..).step_by(batch).zip(classes.chunks(batch)) {
        let decoder = decoder(&model, &plan).classes(chunk).seed(arguments.seed).first_sample(first);
        let decoded = decoder.run()?;
        all_tokens.extend(decoded.tokens);
        add_up(&mut ledger, decoded.ledger);
        progress.add(chunk.len());
    }
    save_tokens(path, &all_tokens, &classes)?;
    progress.finish();
    let Some(ledger) = &ledger else { return Ok(()) };
    if arguments.json {
        return print_json(&report(arguments, path, &made_with, &classes, plan.strategy(), ledger));
    }
    say(
        arguments,
        &format!("tokens of {count} pictures in {}; times are of all of them", path.display()),
        ledger,
    );
    Ok(())
}

/// Whether tokens go to standard output, where nothing else may follow them.
fn is_to_stdout(arguments: &Arguments) -> bool {
    let names = ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];
    arguments.save_tokens.as_ref().is_some_and(|path| names.iter().any(|name| path == Path::new(name)))
}

fn say(arguments: &Arguments, title: &str, ledger: &Ledger) {
    let table = format!("{title}\n{ledger}");
    if is_to_stdout(arguments) { tell!("{}", table.trim_end()) } else { print!("{table}") }
}

/// Pictures in a folder, and their tokens where they are asked for.
fn pictures(arguments: &Arguments, tokenizer_path: &Path, out: &Path) -> anyhow::Result<()> {
    output_folder::check(out, &CONTENTS)?;
    if let Some(path) = &arguments.save_tokens {
        check_tokens_file(arguments, path)?;
        output_folder::check_outside(out, "--save-tokens", path)?;
    }
    let device = arguments.compute.open()?;
    let as_read = AsRead::new(&[&arguments.model, tokenizer_path]);
    let model = arguments.compute.load(&arguments.model, &device)?;
    let tokenizer = arguments.compute.image_tokenizer(tokenizer_path, &device)?;
    let plan = arguments.strategy.plan(model.config())?;
    let count = arguments.count as usize;
    arguments.compute.check_memory(&plan, "--batch", count.min(arguments.batch.into()))?;
    let strategy = plan.strategy().clone();
    let generator = Generator::new(&model, &tokenizer, plan, arguments.seed, &device)?;
    let classes = classes(model.config().classes, arguments.class, count)?;
    warn_of_another_tokenizer(&arguments.model, tokenizer_path)?;
    let made_with = MadeWith::new(&arguments.model, Some(tokenizer_path))?;
    as_read.check()?;

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
        let report = report(arguments, out, &made_with, &classes, &strategy, ledger);
        Ok::<_, anyhow::Error>(atomic::write_within(
            &folder.join(CONTENTS.manifest),
            &serde_json::to_vec(&report)?,
        )?)
    })?;
    progress.finish();

    if let Some(ledger) = &ledger {
        if arguments.json {
            return print_json(&report(arguments, out, &made_with, &classes, &strategy, ledger));
        }
        say(arguments, &format!("{count} pictures in {}; times are of all of them", out.display()), ledger);
    }
    Ok(())
}

fn report<'a>(
    arguments: &'a Arguments,
    out: &'a Path,
    made_with: &'a MadeWith<'a>,
    classes: &'a [usize],
    strategy: &'a Strategy,
    ledger: &'a Ledger,
) -> Report<'a> {
    let (count, seed, dtype) = (classes.len(), arguments.seed, arguments.compute.dtype);
    Report { out, count, seed, dtype, made_with, classes, strategy, ledger }
}

fn save_tokens(path: &Path, tokens: &[Vec<u16>], classes: &[usize]) -> anyhow::Result<()> {
    let mut map = TensorMap::new();
    let values: Vec<i32> = tokens.iter().flatten().map(|&t| i32::from(t)).collect();
    map.insert_i32("tokens", &[tokens.len(), values.len() / tokens.len().max(1)], &values)?;
    let classes: Vec<i32> = classes.iter().map(|&c| c as i32).collect();
    map.insert_i32("class_ids", &[classes.len()], &classes)?;
    Ok(safetensors::write(path, &map)?)
}
