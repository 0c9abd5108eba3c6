//! `mgnt generate`: pictures under a schedule of sub-models.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use mgnt_data::Picture;
use mgnt_decode::{Decoder, Ledger, Plan, Snapshot};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::ImageTokenizer;
use mgnt_weights::{TensorMap, atomic, safetensors};
use serde::Serialize;

use super::print_json;
use super::strategy::StrategyArguments;
use super::watch::bar;
use crate::device::DeviceWord;
use crate::failure::bad_use;
use crate::output::animation::gif;
use crate::output::canvas::Canvas;
use crate::output::grid::{Cell, labelled_grid, veiled};

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
    #[arg(long, value_name = "C")]
    class: Option<usize>,
    /// Number of pictures
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Pictures decoded together; changes no picture
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Seed of all random numbers
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Folder for the pictures
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Also write the tokens, i32 [count, N], and the classes
    #[arg(long, value_name = "FILE")]
    save_tokens: Option<PathBuf>,
    /// Also write iterations.gif and iterations.png: the first pictures as they are decoded, masked cells grey
    #[arg(long)]
    iterations: bool,
    /// cpu, ndarray, wgpu or cuda[:n]
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceWord,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    out: &'a Path,
    count: usize,
    seed: u64,
    classes: &'a [usize],
    ledger: &'a Ledger,
}

/// Generates the pictures.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let device = arguments.device.open()?;
    let model = NestedTransformer::load(&arguments.model, &device)?;
    let tokenizer = ImageTokenizer::load(&arguments.tokenizer, &device)?;
    check_pair(&model, &tokenizer)?;
    let plan = arguments.strategy.plan(model.config())?;
    let count = arguments.count as usize;
    let classes = classes(model.config().classes, arguments.class, count)?;

    let progress = bar(count, "pictures");
    let mut generated = Generated::default();
    for (i, chunk) in classes.chunks(arguments.batch.into()).enumerate() {
        let first = i * usize::from(arguments.batch);
        let watched = arguments.iterations && i == 0;
        generated.add(&model, &tokenizer, &plan, chunk, arguments.seed, first, watched, &device)?;
        progress.inc(chunk.len() as u64);
    }
    progress.finish_and_clear();

    let out = &arguments.out;
    for (i, (picture, class)) in generated.pictures.iter().zip(&classes).enumerate() {
        picture.save_png(&out.join(format!("{class:04}-{i:05}.png")))?;
    }
    let cells: Vec<Cell> = generated
        .pictures
        .iter()
        .zip(&classes)
        .take(256)
        .map(|(picture, class)| Cell { picture, label: format!("class {class}") })
        .collect();
    labelled_grid(&cells, columns(cells.len())).into_picture()?.save_png(&out.join("grid/grid.png"))?;
    if arguments.iterations {
        let frames = generated.frames(&plan);
        atomic::write_bytes(&out.join("grid/iterations.gif"), &gif(&frames, 40)?)?;
        stacked(&frames).into_picture()?.save_png(&out.join("grid/iterations.png"))?;
    }
    if let Some(path) = &arguments.save_tokens {
        save_tokens(path, &generated.tokens, &classes)?;
    }
    let ledger = generated.ledger.context("no picture was asked for")?;
    if arguments.json {
        return print_json(&Report { out, count, seed: arguments.seed, classes: &classes, ledger: &ledger });
    }
    println!("{count} pictures in {}; times are of all of them", out.display());
    print!("{ledger}");
    Ok(())
}

/// A class for each picture.
pub fn classes(all: usize, class: Option<usize>, count: usize) -> anyhow::Result<Vec<usize>> {
    match class {
        Some(class) if class >= all => {
            Err(bad_use(format!("--class {class}: the model has classes 0 to {}", all - 1)))
        }
        Some(class) => Ok(vec![class; count]),
        None => Ok((0..count).map(|i| i % all).collect()),
    }
}

/// Refuses a tokenizer whose tokens are not those of the model.
pub fn check_pair(model: &NestedTransformer, tokenizer: &ImageTokenizer) -> anyhow::Result<()> {
    let (m, t) = (model.config(), tokenizer.config());
    if (m.tokens, m.codes) != (t.grid() * t.grid(), t.codes) {
        return Err(bad_use(format!(
            "the model has {} tokens of {} codes, the tokenizer {} of {}",
            m.tokens,
            m.codes,
            t.grid() * t.grid(),
            t.codes
        )));
    }
    Ok(())
}

/// What was generated so far.
#[derive(Default)]
pub struct Generated {
    /// Tokens of each picture in raster order.
    pub tokens: Vec<Vec<u16>>,
    /// The pictures.
    pub pictures: Vec<Picture>,
    /// Plan and times of all batches together.
    pub ledger: Option<Ledger>,
    /// By iteration: pictures of the first few samples with the masked cells veiled.
    iterations: Vec<Vec<Picture>>,
}

/// Samples whose iterations are shown.
const SHOWN: usize = 8;

impl Generated {
    /// Decodes one more batch.
    #[expect(clippy::too_many_arguments, reason = "what a batch is decoded with")]
    pub fn add(
        &mut self,
        model: &NestedTransformer,
        tokenizer: &ImageTokenizer,
        plan: &Plan,
        classes: &[usize],
        seed: u64,
        first: usize,
        watched: bool,
        device: &Device,
    ) -> anyhow::Result<()> {
        let mut seen: Vec<(Vec<Vec<u16>>, Vec<Vec<bool>>)> = Vec::new();
        let mut watch = |snapshot: &Snapshot| {
            let shown = snapshot.tokens.len().min(SHOWN);
            seen.push((snapshot.tokens[..shown].to_vec(), snapshot.undecided[..shown].to_vec()));
        };
        let mut decoder = Decoder::new(model, plan).classes(classes).seed(seed).first_sample(first as u64);
        if watched {
            decoder = decoder.watch(&mut watch);
        }
        let decoded = decoder.run()?;
        for (tokens, undecided) in seen {
            let pictures = to_pictures(tokenizer, &tokens, device)?;
            let grid = tokenizer.config().grid();
            self.iterations
                .push(pictures.iter().zip(&undecided).map(|(p, open)| veiled(p, open, grid)).collect());
        }
        self.pictures.extend(to_pictures(tokenizer, &decoded.tokens, device)?);
        self.tokens.extend(decoded.tokens);
        match &mut self.ledger {
            Some(ledger) => ledger.add(&decoded.ledger),
            None => self.ledger = Some(decoded.ledger),
        }
        Ok(())
    }

    /// A frame an iteration: the first samples side by side.
    pub fn frames(&self, plan: &Plan) -> Vec<Canvas> {
        let frame = |(pictures, iteration): (&Vec<Picture>, &mgnt_decode::Iteration)| {
            let label = format!("i {} p {}", iteration.index, iteration.sub_model.p());
            let cells: Vec<Cell> =
                pictures.iter().map(|picture| Cell { picture, label: label.clone() }).collect();
            labelled_grid(&cells, SHOWN)
        };
        self.iterations.iter().zip(plan.iterations()).map(frame).collect()
    }
}

fn to_pictures(
    tokenizer: &ImageTokenizer,
    tokens: &[Vec<u16>],
    device: &Device,
) -> anyhow::Result<Vec<Picture>> {
    let size = tokenizer.config().size;
    let pictures = tokenizer.pictures(tokens, device)?;
    pictures.into_iter().map(|rgb| Ok(Picture::new(size, size, rgb)?)).collect()
}

/// Canvases under each other.
pub fn stacked(frames: &[Canvas]) -> Canvas {
    let width = frames.iter().map(Canvas::width).max().unwrap_or(1);
    let mut canvas = Canvas::new(width, frames.iter().map(Canvas::height).sum::<usize>().max(1), [250; 3]);
    let mut top = 0;
    for frame in frames {
        for (i, pixel) in frame.rgb().chunks(3).enumerate() {
            canvas.set(i % frame.width(), top + i / frame.width(), [pixel[0], pixel[1], pixel[2]]);
        }
        top += frame.height();
    }
    canvas
}

/// About twice as wide as high, at most 16.
pub fn columns(count: usize) -> usize {
    (2 * count).isqrt().clamp(1, 16)
}

fn save_tokens(path: &Path, tokens: &[Vec<u16>], classes: &[usize]) -> anyhow::Result<()> {
    let mut map = TensorMap::new();
    let values: Vec<i32> = tokens.iter().flatten().map(|&t| i32::from(t)).collect();
    map.insert_i32("tokens", &[tokens.len(), values.len() / tokens.len().max(1)], &values)?;
    let classes: Vec<i32> = classes.iter().map(|&c| c as i32).collect();
    map.insert_i32("class_ids", &[classes.len()], &classes)?;
    Ok(safetensors::write(path, &map)?)
}
