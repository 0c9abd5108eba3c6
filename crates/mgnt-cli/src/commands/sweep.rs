//! `mgnt sweep`: many strategies on one model, measured and drawn against their compute.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use mgnt_decode::{Strategy, search};
use mgnt_eval::{Dims, Inception, Moments, Protocol, ReferenceCache, Resize, Statistics, frechet_distance};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::ImageTokenizer;
use mgnt_weights::atomic;
use mgnt_weights::directory::{read_ron, write_ron};
use serde::{Deserialize, Serialize};

use super::eval_fid::{network, parse_dims, real_source, statistics_folder};
use super::generation::{Generator, classes};
use super::print_json;
use super::strategy::StrategyArguments;
use super::watch::bar;
use crate::device::Compute;
use crate::failure::bad_use;
use crate::output::plot::{Point, best, front, is_among};

/// Arguments of `mgnt sweep`.
#[derive(Args)]
pub struct Arguments {
    /// The transformer's model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The tokenizer's model directory
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// The reference: a packed store, a folder of pictures, or statistics, as `eval-fid --real` takes them
    #[arg(long, value_name = "DIR")]
    real: PathBuf,
    /// Take at most this many real pictures, evenly over them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    real_samples: Option<u32>,
    /// Weights of the Inception network
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Dimensions of the features: 64, 192, 768 or 2048; fewer are a cheaper proxy
    #[arg(long, value_name = "N", default_value = "2048", value_parser = parse_dims)]
    dims: Dims,
    /// Folder that keeps the statistics of real pictures (default: the user's cache folder)
    #[arg(long, value_name = "DIR")]
    statistics: Option<PathBuf>,
    /// Strategies to measure: a RON map from names to strategies
    #[arg(long, value_name = "FILE")]
    strategies: Option<PathBuf>,
    /// A schedule to measure, with the other options of a strategy below; may be given many times
    #[arg(long = "also", value_name = "LIST")]
    also: Vec<String>,
    /// Look for the best strategy of at most this many GFLOPs a picture, from the one that the options describe
    #[arg(long, value_name = "GFLOPS")]
    search: Option<f64>,
    /// Strategies that a search measures at most
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    most: u16,
    /// Pictures a strategy and seed, the classes in turn
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(2..))]
    samples: u32,
    /// Seeds; what is measured is the mean over them
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Pictures at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Folder for results.jsonl, results.csv, front.svg and best.ron; an unfinished sweep is continued
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// One strategy with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    name: String,
    schedule: String,
    seed: u64,
    samples: u32,
    dims: usize,
    gflops: f64,
    less_compute: f64,
    fid: f64,
    images_per_second: f64,
    /// The whole strategy, as RON.
    strategy: String,
    /// What the numbers hold for: the files of model, tokenizer, weights and reference, and the type computed in.
    world: String,
}

/// Sweeps.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let device = arguments.compute.open()?;
    let model = arguments.compute.load(&arguments.model, &device)?;
    let tokenizer = arguments.compute.image_tokenizer(&arguments.tokenizer, &device)?;
    let network = network(&arguments.weights, Resize::default(), arguments.compute.device, &device)?;
    let real = real_source(&arguments.real, arguments.real_samples)?;
    let named = named(&arguments, &model)?;
    let cache = ReferenceCache::new(statistics_folder(arguments.statistics.as_deref())?);
    let batch = usize::from(arguments.batch);
    let reference = cache.reference(&real, &network, arguments.dims, batch, &mut |_| {})?.moments;
    let world = {
        let file = |folder: &PathBuf| {
            mgnt_data::manifest::sha256_of_file(&folder.join(mgnt_weights::directory::WEIGHTS))
        };
        let parts = [
            file(&arguments.model)?,
            file(&arguments.tokenizer)?,
            network.sha256().into(),
            real.sha256()?,
            format!("{:?}", model.compute_type()),
        ];
        mgnt_data::manifest::sha256(parts.concat().as_bytes())
    };
    let mut sweep = Sweep {
        arguments: &arguments,
        model: &model,
        tokenizer: &tokenizer,
        network: &network,
        reference: &reference,
        world,
        rows: Vec::new(),
    };
    sweep.recall()?;

    for (name, strategy) in &named {
        sweep.measure(name, true, strategy)?;
    }
    if let Some(budget) = arguments.search {
        let start = arguments.strategy.strategy(model.config())?;
        let mut number = 0;
        let mut measure = |strategy: &Strategy| {
            number += 1;
            sweep.measure(&format!("search {number}"), false, strategy)
        };
        let found = search::coordinate_search::<anyhow::Error>(
            model.config(),
            &start,
            (budget * 1e9) as u64,
            arguments.most.into(),
            &mut measure,
        )?;
        write_ron(&arguments.out.join("best.ron"), &found.strategy)?;
        let end = if found.settled { "no single change is better" } else { "--most was reached" };
        eprintln!("best within {budget} GFLOPs: {} at {:.4}; {end}", found.strategy.models, found.value);
    }
    sweep.finish()
}

/// The strategies that are named: of the file, and each --also; without any, baseline and the options' own.
fn named(arguments: &Arguments, model: &NestedTransformer) -> anyhow::Result<Vec<(String, Strategy)>> {
    let config = model.config();
    let mut named: Vec<(String, Strategy)> = Vec::new();
    if let Some(path) = &arguments.strategies {
        named.extend(read_ron::<BTreeMap<String, Strategy>>(path)?);
    }
    for schedule in &arguments.also {
        let options = StrategyArguments { schedule: Some(schedule.clone()), ..arguments.strategy.clone() };
        let strategy = options.strategy(config)?;
        named.push((schedule.clone(), strategy));
    }
    if named.is_empty() && arguments.search.is_none() {
        let own = arguments.strategy.strategy(config)?;
        let steps = own.iterations();
        named.push((format!("1x{steps}, no cache"), Strategy::baseline(steps)));
        named.push((own.models.to_string(), own));
    }
    // All are checked before the first is measured.
    for (name, strategy) in &named {
        strategy.plan(config).map_err(|error| bad_use(format!("strategy {name}: {error}")))?;
    }
    Ok(named)
}

struct Sweep<'a> {
    arguments: &'a Arguments,
    model: &'a NestedTransformer,
    tokenizer: &'a ImageTokenizer,
    network: &'a Inception,
    reference: &'a Moments,
    world: String,
    rows: Vec<Row>,
}

impl Sweep<'_> {
    fn log(&self) -> PathBuf {
        self.arguments.out.join("results.jsonl")
    }

    /// Reads what was measured before; a last line that was cut off by a kill is dropped.
    fn recall(&mut self) -> anyhow::Result<()> {
        let path = self.log();
        if !path.exists() {
            return Ok(());
        }
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        self.rows = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let mut kept = Vec::new();
        for row in &self.rows {
            serde_json::to_writer(&mut kept, row)?;
            kept.push(b'\n');
        }
        Ok(atomic::write_bytes(&path, &kept)?)
    }

    /// Mean FID over the seeds, from the log where it is known. One that was `named` has rows of its own.
    fn measure(&mut self, name: &str, named: bool, strategy: &Strategy) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        let text = ron::to_string(strategy)?;
        let spelled =
            |strategy: &Strategy| Ok::<_, mgnt_decode::Error>(strategy.plan(self.model.config())?.explicit());
        let asked = spelled(strategy)?;
        // By what is done: a search writes the same strategy in another way than who named it.
        let does = |row: &Row| {
            row.strategy == text
                || ron::from_str::<Strategy>(&row.strategy)
                    .is_ok_and(|known| spelled(&known).is_ok_and(|known| known == asked))
        };
        for &seed in &self.arguments.seeds {
            let same = |row: &&Row| {
                (row.seed, row.samples, row.dims, &row.world)
                    == (seed, self.arguments.samples, self.arguments.dims.count(), &self.world)
                    && does(row)
            };
            if let Some(known) = self.rows.iter().find(same) {
                sum += known.fid;
                // The same under another name, where somebody gave it one.
                if known.strategy == text || !named {
                    continue;
                }
                let row = Row {
                    name: name.into(),
                    schedule: strategy.models.to_string(),
                    strategy: text.clone(),
                    ..known.clone()
                };
                self.keep(row)?;
                continue;
            }
            let row = self.one(name, strategy, text.clone(), seed)?;
            sum += row.fid;
            eprintln!(
                "{name}: seed {seed}, {:.4} GFLOPs, FID-{} {:.4}, {:.1} images/s",
                row.gflops, row.dims, row.fid, row.images_per_second
            );
            self.keep(row)?;
        }
        Ok(sum / self.arguments.seeds.len() as f64)
    }

    /// Appends a row to the log.
    fn keep(&mut self, row: Row) -> anyhow::Result<()> {
        fs::create_dir_all(&self.arguments.out)?;
        let mut file = OpenOptions::new().create(true).append(true).open(self.log())?;
        writeln!(file, "{}", serde_json::to_string(&row)?)?;
        self.rows.push(row);
        Ok(())
    }

    fn one(&self, name: &str, strategy: &Strategy, text: String, seed: u64) -> anyhow::Result<Row> {
        let arguments = self.arguments;
        let device = self.model.device();
        let plan = strategy.plan(self.model.config())?;
        let (gflops, less_compute) =
            (plan.flops() as f64 / 1e9, plan.baseline_flops() as f64 / plan.flops() as f64);
        arguments.compute.check_memory(&plan, "--batch", arguments.batch.into())?;
        let generator = Generator::new(self.model, self.tokenizer, plan, seed, &device)?;
        let classes = classes(self.model.config().classes, None, arguments.samples as usize)?;
        let mut statistics = Statistics::new(arguments.dims.count());
        let progress = bar(classes.len(), "pictures");
        let size = usize::from(arguments.batch);
        let mut seconds = 0.0;
        for (first, chunk) in (0..).step_by(size).zip(classes.chunks(size)) {
            let clock = Instant::now();
            let batch = generator.batch(chunk, first)?;
            seconds += clock.elapsed().as_secs_f64();
            statistics.add(&self.network.activations(&batch.pictures, arguments.dims)?.features);
            progress.inc(chunk.len() as u64);
        }
        progress.finish_and_clear();
        Ok(Row {
            name: name.into(),
            schedule: strategy.models.to_string(),
            seed,
            samples: arguments.samples,
            dims: arguments.dims.count(),
            gflops,
            less_compute,
            fid: frechet_distance(self.reference, &statistics.moments())?.distance,
            images_per_second: classes.len() as f64 / seconds,
            strategy: text,
            world: self.world.clone(),
        })
    }

    /// Writes table and plot of all that was measured here for this model.
    fn finish(self) -> anyhow::Result<()> {
        let (samples, dims) = (self.arguments.samples, self.arguments.dims.count());
        let comparable = |row: &&Row| (&row.world, row.samples, row.dims) == (&self.world, samples, dims);
        let rows: Vec<&Row> = self.rows.iter().filter(comparable).collect();
        let mut csv = String::from(
            "name,schedule,seed,samples,dims,gflops,less_compute,fid,images_per_second,strategy\n",
        );
        for row in &rows {
            csv += &format!(
                "{},{},{},{},{},{:.6},{:.4},{:.6},{:.3},{}\n",
                quoted(&row.name),
                quoted(&row.schedule),
                row.seed,
                row.samples,
                row.dims,
                row.gflops,
                row.less_compute,
                row.fid,
                row.images_per_second,
                quoted(&row.strategy)
            );
        }
        let out = &self.arguments.out;
        atomic::write_bytes(&out.join("results.csv"), csv.as_bytes())?;
        let mut means: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in &rows {
            // By strategy: two searches give the same names to different ones.
            means.entry(&row.strategy).or_default().push(row);
        }
        let points: Vec<Point> = means
            .into_values()
            .map(|rows| Point {
                name: rows[0].name.clone(),
                gflops: rows[0].gflops,
                value: rows.iter().map(|row| row.fid).sum::<f64>() / rows.len() as f64,
            })
            .collect();
        atomic::write_bytes(&out.join("front.svg"), front(&points, &format!("FID-{dims}"))?.as_bytes())?;
        let (real, fake) = (self.reference.count(), u64::from(samples));
        for warning in Protocol::warnings_for(dims, self.network.sha256(), real, Some(fake)) {
            tracing::warn!("{warning}");
        }
        if self.arguments.json {
            return print_json(&rows);
        }
        let best = best(&points);
        println!("{:<28} {:>12} {:>12}", "strategy", "GFLOPs", format!("FID-{dims}"));
        for point in &points {
            let mark = if is_among(point, &best) { "  on the front" } else { "" };
            println!("{:<28} {:>12.4} {:>12.4}{mark}", point.name, point.gflops, point.value);
        }
        println!("{}", out.join("front.svg").display());
        Ok(())
    }
}

/// A field of a CSV file.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}
