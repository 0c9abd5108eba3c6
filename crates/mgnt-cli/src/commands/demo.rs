//! `mgnt demo`: the whole path on a bare machine, from drawn pictures to a page that compares the baseline with the
//! schedule and its cache.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use burn::tensor::Device;
use clap::Args;
use mgnt_data::{Picture, PictureStore, PrepareOptions, TokenStore, prepare, synthetic};
use mgnt_decode::{Ledger, Strategy};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::ImageTokenizer;
use mgnt_train::tokenizer::Networks;
use mgnt_train::{
    Optimization, Outcome, Recipe, RunOptions, Task, TokenizerRecipe, TokenizerTask, TransformerTask,
    has_checkpoint, run as train,
};
use mgnt_weights::{atomic, directory};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::generation::{Generator, add_up, classes};
use super::print_json;
use super::tokenize::{TokenizeOptions, tokenize};
use super::watch::stop_on_interrupt;
use super::watcher::RunWatcher;
use crate::device::DeviceWord;
use crate::output::animation::gif;
use crate::output::grid::{Cell, labelled_grid};
use crate::output::page::Page;

/// Arguments of `mgnt demo`.
#[derive(Args)]
pub struct Arguments {
    /// Folder for all that the demonstration makes; an unfinished one is continued
    #[arg(long, short, value_name = "DIR", default_value = "demo")]
    out: PathBuf,
    /// Drawn pictures of each class to train on
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(4..))]
    pictures: u16,
    /// Divide the steps of both trainings and the pictures by this, for an impression in less time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    hurry: u16,
    /// Seed of the generated pictures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Device to compute on
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    device: DeviceWord,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// The paper's growing schedule.
const GROWING: &str = "8x3,4x3,2x3,1x3";
const TOKENIZER: (&str, &str) =
    ("configs/image/demo-tokenizer.ron", include_str!("../../../../configs/image/demo-tokenizer.ron"));
const TRANSFORMER: (&str, &str) =
    ("configs/image/demo.ron", include_str!("../../../../configs/image/demo.ron"));
/// Drawn pictures of each class that are held out.
const HELD_OUT: usize = 8;
/// Generated pictures of each class, where there is no hurry.
const EACH: usize = 4;
/// Pictures decoded together.
const BATCH: usize = 8;
/// Iterations of both decodes.
const ITERATIONS: usize = 12;

/// What was measured.
#[derive(Serialize)]
struct Measures {
    page: PathBuf,
    /// Of held-out pictures through the tokenizer, in decibels.
    reconstruction_psnr: f64,
    /// Share of tokens in which baseline and schedule agree, from the same seeds.
    code_agreement: f64,
    /// The agreement that two random pictures of a class have.
    agreement_by_chance: f64,
    /// Milliseconds of the baseline over those of the schedule.
    faster: f64,
    baseline: Ledger,
    schedule: Ledger,
}

/// Runs the demonstration.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let start = Instant::now();
    let device = arguments.device.open()?;
    let stop = stop_on_interrupt()?;
    let out = &arguments.out;

    let mut tokenizer_recipe: TokenizerRecipe = embedded(TOKENIZER)?;
    let mut recipe: Recipe = embedded(TRANSFORMER)?;
    for optimization in [&mut tokenizer_recipe.optimization, &mut recipe.optimization] {
        optimization.steps = (optimization.steps / usize::from(arguments.hurry)).max(2);
        optimization.warm_up_steps /= usize::from(arguments.hurry);
    }

    eprintln!("1/5 drawing pictures of {} classes", synthetic::CLASSES.len());
    let size = tokenizer_recipe.tokenizer.size;
    let store = Arc::new(drawn(out, "train", usize::from(arguments.pictures), size, 1)?);
    let held_out = Arc::new(drawn(out, "held-out", HELD_OUT, size, 2)?);

    eprintln!("2/5 training the tokenizer");
    let tokenizer_run = out.join("tokenizer");
    let task = TokenizerTask::new(&tokenizer_recipe, &store, Some(&held_out), Networks::default(), &device)?;
    let optimization = &tokenizer_recipe.optimization;
    let options = RunOptions {
        device: &device,
        out: &tokenizer_run,
        resume: false,
        others: &[],
        side_by_side: arguments.device.is_cpu(),
        stop: &stop,
    };
    if !finish(task, optimization, &tokenizer_recipe, options)? {
        return Ok(());
    }

    eprintln!("3/5 turning pictures into tokens");
    let tokenizer_folder = tokenizer_run.join("model");
    let tokens = Arc::new(tokens(out, "train", &store, &tokenizer_folder, &device)?);
    let held_out_tokens = Arc::new(self::tokens(out, "held-out", &held_out, &tokenizer_folder, &device)?);

    eprintln!("4/5 training the nested transformer");
    let run = out.join("transformer");
    let mut task = TransformerTask::new(&recipe, &tokens, Some(&held_out_tokens), &device)?;
    if arguments.device.is_cpu() {
        task = task.on_processor();
    }
    if !finish(task, &recipe.optimization, &recipe, RunOptions { out: &run, ..options })? {
        return Ok(());
    }

    eprintln!("5/5 decoding the same seeds by the baseline and by the schedule with its cache");
    let model = arguments.device.suited(NestedTransformer::load(run.join("model"), &device)?);
    let tokenizer = ImageTokenizer::load(&tokenizer_folder, &device)?;
    let compared =
        compare(&model, &tokenizer, (EACH / usize::from(arguments.hurry)).max(2), arguments.seed, &device)?;

    let (originals, rebuilt) = reconstructions(&tokenizer, &held_out, &device)?;
    let psnr = psnr(&originals, &rebuilt);
    let chance = agreement(&compared.baseline_tokens, &shifted(&compared.baseline_tokens));
    let measures = Measures {
        page: out.join("index.html"),
        reconstruction_psnr: psnr,
        code_agreement: agreement(&compared.baseline_tokens, &compared.schedule_tokens),
        agreement_by_chance: chance,
        faster: compared.baseline.milliseconds.unwrap_or(0.0) / compared.schedule.milliseconds.unwrap_or(1.0),
        baseline: compared.baseline,
        schedule: compared.schedule,
    };
    let grid = compared.grid;
    atomic::write_bytes(&out.join("grid.png"), &grid)?;
    atomic::write_bytes(&out.join("decoding.gif"), &compared.animation)?;
    let shown: Vec<Cell> = originals
        .iter()
        .map(|picture| (picture, "drawn"))
        .chain(rebuilt.iter().map(|picture| (picture, "rebuilt")))
        .map(|(picture, label)| Cell { picture, label: label.into() })
        .collect();
    let rebuilt = labelled_grid(&shown, originals.len()).into_picture()?.to_png()?;
    let page = page(&measures, &model, &grid, &compared.animation, &rebuilt, start);
    atomic::write_bytes(&measures.page, page.as_bytes())?;

    if arguments.json {
        return print_json(&measures);
    }
    print!("{}", measures.schedule);
    println!(
        "{:.2}x faster than the baseline in wall clock; {:.1} % of the tokens are the same ({:.1} % by chance)",
        measures.faster,
        100.0 * measures.code_agreement,
        100.0 * measures.agreement_by_chance
    );
    println!("open {}", measures.page.display());
    Ok(())
}

fn embedded<R: DeserializeOwned>((name, text): (&str, &str)) -> anyhow::Result<R> {
    Ok(directory::parse_ron(text, Path::new(name))?)
}

/// A packed store of drawn pictures, drawn where it is not there yet.
fn drawn(out: &Path, name: &str, each: usize, size: usize, seed: u64) -> anyhow::Result<PictureStore> {
    let store = out.join("data").join(format!("{name}-pictures"));
    if !store.exists() {
        let source = out.join("data").join(name);
        atomic::write_folder(&source, |folder| synthetic::write_folder(folder, each, size, seed))?;
        prepare(&source, &PrepareOptions { size, ..PrepareOptions::default() }, &store, &mut |_, _| {})?;
    }
    let store = PictureStore::open(&store)?;
    anyhow::ensure!(
        (store.len(), store.size()) == (each * synthetic::CLASSES.len(), size),
        "{} holds another demonstration; remove it, or choose another --out",
        out.display()
    );
    Ok(store)
}

fn tokens(
    out: &Path,
    name: &str,
    store: &PictureStore,
    tokenizer: &Path,
    device: &Device,
) -> anyhow::Result<TokenStore> {
    let folder = out.join("data").join(format!("{name}-tokens"));
    if !folder.exists() {
        let options = TokenizeOptions { batch: 16, flips: false, shard_items: None };
        tokenize(store, tokenizer, &options, &folder, device)?;
    }
    Ok(TokenStore::open(folder)?)
}

/// Trains to the end, from the newest checkpoint where there is one; `false` where the user stopped it.
fn finish<T: Task>(
    task: T,
    optimization: &Optimization,
    recipe: &impl Serialize,
    options: RunOptions,
) -> anyhow::Result<bool> {
    let resume = has_checkpoint(options.out)?;
    let outcome = train(
        task,
        optimization,
        recipe,
        RunOptions { resume, ..options },
        RunWatcher::new(options.out, None),
    )?;
    if let Outcome::Interrupted(step) = outcome {
        eprintln!("stopped after {step} steps; the same command continues");
    }
    Ok(outcome == Outcome::Finished)
}

/// Both decodes of the same samples.
struct Compared {
    baseline: Ledger,
    schedule: Ledger,
    baseline_tokens: Vec<Vec<u16>>,
    schedule_tokens: Vec<Vec<u16>>,
    grid: Vec<u8>,
    animation: Vec<u8>,
}

fn compare(
    model: &NestedTransformer,
    tokenizer: &ImageTokenizer,
    each: usize,
    seed: u64,
    device: &Device,
) -> anyhow::Result<Compared> {
    let config = model.config();
    let baseline = Strategy::baseline(ITERATIONS).plan(config)?;
    let schedule = Strategy::parse(GROWING)?.plan(config)?;
    let baseline = Generator::new(model, tokenizer, baseline, seed, device)?;
    let schedule = Generator::new(model, tokenizer, schedule, seed, device)?;
    let classes = classes(config.classes, None, each * config.classes)?;

    // The first decode of each also warms caches and memory up: its times do not count.
    baseline.batch(&classes[..BATCH], 0)?;
    let (_, frames) = schedule.watched(&classes[..BATCH], 0)?;
    let (mut pictures, mut all_tokens) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut ledgers = [None, None];
    // Turn and turn about, so that whatever else the machine does falls on both.
    for (i, chunk) in classes.chunks(BATCH).enumerate() {
        for (which, generator) in [&baseline, &schedule].into_iter().enumerate() {
            let batch = generator.batch(chunk, i * BATCH)?;
            pictures[which].extend(batch.pictures);
            all_tokens[which].extend(batch.tokens);
            add_up(&mut ledgers[which], batch.ledger);
        }
    }
    let mut cells = Vec::new();
    for row in (0..classes.len()).collect::<Vec<_>>().chunks(BATCH) {
        for (pictures, name) in pictures.iter().zip(["1x12", "nested"]) {
            cells.extend(row.iter().map(|&i| {
                let class = synthetic::CLASSES.get(classes[i]).copied().unwrap_or("?");
                Cell { picture: &pictures[i], label: format!("{class} {name}") }
            }));
        }
    }
    let grid = labelled_grid(&cells, BATCH).into_picture()?.to_png()?;
    let [Some(baseline), Some(schedule)] = ledgers else { anyhow::bail!("nothing was decoded") };
    let [baseline_tokens, schedule_tokens] = all_tokens;
    Ok(Compared { baseline, schedule, baseline_tokens, schedule_tokens, grid, animation: gif(&frames, 40)? })
}

/// One held-out picture of each class, and what the tokenizer makes of it.
fn reconstructions(
    tokenizer: &ImageTokenizer,
    store: &PictureStore,
    device: &Device,
) -> anyhow::Result<(Vec<Picture>, Vec<Picture>)> {
    let chosen: Vec<&[u8]> = (0..store.len()).step_by(HELD_OUT).map(|i| store.picture(i)).collect();
    let rebuilt = tokenizer.pictures(&tokenizer.tokens(&chosen, device)?, device)?;
    let picture = |rgb: Vec<u8>| Ok(Picture::new(store.size(), store.size(), rgb)?);
    let originals = chosen.iter().map(|rgb| picture(rgb.to_vec())).collect::<anyhow::Result<_>>()?;
    Ok((originals, rebuilt.into_iter().map(picture).collect::<anyhow::Result<_>>()?))
}

/// Peak signal-to-noise ratio in decibels.
fn psnr(a: &[Picture], b: &[Picture]) -> f64 {
    let values = a.iter().zip(b).flat_map(|(a, b)| a.rgb().iter().zip(b.rgb()));
    let (sum, count) = values
        .fold((0.0, 0.0), |(sum, count), (&a, &b)| (sum + f64::from(a.abs_diff(b)).powi(2), count + 1.0));
    10.0 * (255.0 * 255.0 * count / sum.max(1e-9)).log10()
}

/// Share of tokens that are the same.
fn agreement(a: &[Vec<u16>], b: &[Vec<u16>]) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let (same, all) = pairs.fold((0u32, 0u32), |(same, all), (a, b)| (same + u32::from(a == b), all + 1));
    f64::from(same) / f64::from(all.max(1))
}

/// Each sample in the place of the one before it of the same class.
fn shifted(tokens: &[Vec<u16>]) -> Vec<Vec<u16>> {
    let mut tokens = tokens.to_vec();
    let by = synthetic::CLASSES.len().min(tokens.len());
    tokens.rotate_left(by);
    tokens
}

fn page(
    measures: &Measures,
    model: &NestedTransformer,
    grid: &[u8],
    animation: &[u8],
    rebuilt: &[u8],
    start: Instant,
) -> String {
    let (baseline, schedule) = (&measures.baseline, &measures.schedule);
    let mut page = Page::new("mgnt: nested transformers with decode-time scaling");
    page.paragraph(&format!(
        "A tokenizer and a nested transformer of {:.2} M parameters, trained here on {} classes of drawn shapes; with \
         all decoding it took {:.0} s. The weights hold the sub-models {:?}: sub-model p has 1/p of the heads and \
         hidden units. Everything below is decoded from the same seeds, by the full model in every iteration (1x12) \
         and by small sub-models first with a cache of keys and values ({}).",
        model.config().parameters() as f64 / 1e6,
        synthetic::CLASSES.len(),
        start.elapsed().as_secs_f64(),
        model.config().sub_models,
        schedule.schedule,
    ));
    let row = |name: &str, ledger: &Ledger| {
        vec![
            name.to_owned(),
            format!("{:.4}", ledger.gflops),
            format!("{:.2}x", ledger.less_compute),
            format!("{:.1}", ledger.milliseconds.unwrap_or(0.0) / ledger.batch as f64),
        ]
    };
    page.table(
        "Compute and time of one picture",
        &["decode", "GFLOPs", "less compute", "ms"],
        &[row("1x12, no cache", baseline), row(&format!("{}, cache", schedule.schedule), schedule)],
    );
    page.table(
        "What the pictures say without a network to judge them",
        &["measure", "value"],
        &[
            vec!["faster in wall clock".into(), format!("{:.2}x", measures.faster)],
            vec![
                "tokens that both decodes agree on, from the same seeds".into(),
                format!("{:.1} %", 100.0 * measures.code_agreement),
            ],
            vec![
                "the same for two pictures of one class".into(),
                format!("{:.1} %", 100.0 * measures.agreement_by_chance),
            ],
            vec![
                "reconstruction of held-out pictures (PSNR)".into(),
                format!("{:.2} dB", measures.reconstruction_psnr),
            ],
        ],
    );
    page.figure(
        grid,
        "png",
        "Generated pictures: rows of the baseline, each above the schedule's from the same seeds",
    );
    page.figure(
        animation,
        "gif",
        "The schedule at work: iteration i by sub-model p; grey cells are still masked",
    );
    let lines = |ledger: &Ledger| -> Vec<Vec<String>> {
        let line = |l: &mgnt_decode::Line| {
            vec![
                format!("{}{}", l.iteration, if l.refresh { " *" } else { "" }),
                l.p.to_string(),
                l.processed.to_string(),
                l.revealed.to_string(),
                format!("{:.4}", l.gflops),
                format!("{:.1}", l.milliseconds.unwrap_or(0.0) / ledger.batch as f64),
            ]
        };
        ledger.iterations.iter().map(line).collect()
    };
    let head = ["iteration", "p", "tokens processed", "revealed", "GFLOPs", "ms"];
    page.table("The schedule, iteration by iteration (* = cache made anew)", &head, &lines(schedule));
    page.table("The baseline", &head, &lines(baseline));
    page.figure(rebuilt, "png", "Held-out pictures, and what the tokenizer rebuilds of them");
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_counts_equal_tokens() {
        let (a, b) = (vec![vec![1, 2], vec![3, 4]], vec![vec![1, 0], vec![3, 4]]);
        assert_eq!(agreement(&a, &b), 0.75);
    }

    #[test]
    fn psnr_of_a_known_error() {
        let picture = |value| vec![Picture::new(2, 2, vec![value; 12]).unwrap()];
        assert!((psnr(&picture(100), &picture(110)) - 28.130_803).abs() < 1e-5);
    }

    #[test]
    fn the_embedded_recipes_are_valid() {
        embedded::<TokenizerRecipe>(TOKENIZER).unwrap().validate().unwrap();
        embedded::<Recipe>(TRANSFORMER).unwrap().validate().unwrap();
    }
}
