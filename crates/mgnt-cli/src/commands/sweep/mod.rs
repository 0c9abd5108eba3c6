//! `mgnt sweep`: many strategies on one model, measured and drawn against their compute.

mod log;
mod named;
mod results;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use clap::Args;
use mgnt_data::manifest::sha256;
use mgnt_decode::{CachePolicy, Strategy, search};
use mgnt_eval::{Inception, Measuring, Moments, Protocol, Side, Source, Statistics, frechet_distance};
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_tokenizer::ImageTokenizer;
use mgnt_weights::atomic;
use mgnt_weights::directory::write_ron;

use super::configs;
use super::evaluation::{
    ReferenceArguments, VERSION, activations, check_unchanged, real_progress, warn_of_passed_over,
};
use super::generation::{AsRead, Generator, check_pair, classes, model_sha256, warn_of_another_tokenizer};
use super::output_folder::check_not_read;
use super::print_json;
use super::strategy::StrategyArguments;
use super::watch::Progress;
use crate::device::Compute;
use crate::failure::bad_use;
use crate::output::plot::{best, front, is_among};
use log::{Log, Row};
use named::Named;

/// Arguments of `mgnt sweep`.
#[derive(Args)]
pub struct Arguments {
    /// The transformer's model directory
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// The tokenizer's model directory
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    #[command(flatten)]
    reference: ReferenceArguments,
    /// Strategies to measure: a RON map from names to strategies, each with options of its own
    #[arg(long, value_name = "FILE")]
    strategies: Option<PathBuf>,
    /// A schedule to measure, with the other options of a strategy below; may be given many times. Without this,
    /// --strategies and --search, those options' own strategy is measured, and its full model without a cache
    #[arg(long = "also", value_name = "LIST")]
    also: Vec<String>,
    /// Look for the best strategy of at most this many GFLOPs a picture, from the one that the options describe
    #[arg(long, value_name = "GFLOPS", value_parser = parse_budget)]
    search: Option<f64>,
    /// Strategies that a search measures at most
    #[arg(long, requires = "search", value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    most: u16,
    /// Pictures a strategy and seed, the classes in turn
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(2..))]
    samples: u32,
    /// Seeds, with commas between; what is measured is the mean over them, and strategies that are not known with all of
    /// them are not shown
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Pictures at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Folder for results.jsonl and results.csv (every row, of other seeds too), front.svg and best.ron; an unfinished
    /// sweep is continued
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// One JSON list of the table's rows, one a seed, on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// A budget of GFLOPs as an option.
fn parse_budget(word: &str) -> Result<f64, String> {
    let budget = word.parse().ok().filter(|&budget: &f64| budget.is_finite() && budget > 0.0);
    budget.ok_or_else(|| "expected a number of GFLOPs above 0".into())
}

/// Sweeps.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let best = arguments.search.map(|_| "best.ron");
    for file in ["front.svg", "results.csv", "results.jsonl"].into_iter().chain(best) {
        let read = [
            ("--strategy", arguments.strategy.strategy.as_deref()),
            ("--strategies", arguments.strategies.as_deref()),
        ];
        check_not_read("--out", &arguments.out.join(file), &read)?;
    }
    let read = [
        ("--real", Some(&arguments.reference.real)),
        ("--model", Some(&arguments.model)),
        ("--tokenizer", Some(&arguments.tokenizer)),
    ];
    check_unchanged("--out", &arguments.out, true, &read)?;
    let device = arguments.compute.open()?;
    let network = arguments.reference.network(&arguments.compute, &device)?;
    let measuring = arguments.reference.measuring(&network, arguments.batch);
    let as_read = AsRead::new(&[&arguments.model, &arguments.tokenizer]);
    let model = arguments.compute.load(&arguments.model, &device)?;
    let tokenizer = arguments.compute.image_tokenizer(&arguments.tokenizer, &device)?;
    check_pair(model.config(), &tokenizer)?;
    warn_of_another_tokenizer(&arguments.model, &arguments.tokenizer)?;
    let named = named(&arguments, model.config())?;
    let search = arguments.search.map(|gigaflops| Search::new(&arguments, gigaflops, model.config()));
    let search = search.transpose()?;
    let real = arguments.reference.source()?;
    if let Source::Pictures(pictures) = &real {
        warn_of_passed_over(pictures);
    }
    let world = world(&arguments, &network, &real)?;
    as_read.check()?;
    let log = Log::open(&arguments.out)?;
    let cache = arguments.reference.cache()?;
    let mut progress = real_progress(&real);
    let reference = cache.moments(&real, &measuring, &mut |done| progress.set(done))?;
    progress.finish();
    let mut sweep = Sweep {
        arguments: &arguments,
        model: &model,
        tokenizer: &tokenizer,
        measuring,
        real: Side::new(&real, &reference)?,
        reference: &reference.moments,
        seeds: arguments.seeds.iter().copied().collect(),
        world,
        log,
        given: Vec::new(),
    };

    // Those of which a batch has no room would only be found out when their turn comes.
    for (name, strategy) in &named {
        sweep.check_memory(strategy).with_context(|| format!("strategy {name}"))?;
    }
    if let Some(Search { start, .. }) = &search {
        sweep.check_memory(start).context("the start of --search")?;
    }
    for (name, strategy) in &named {
        sweep.measure(name, true, strategy)?;
    }
    if let Some(Search { gigaflops, budget, start }) = search {
        let mut number = 0;
        let mut measure = |strategy: &Strategy| {
            if let Err(error) = sweep.check_memory(strategy) {
                tell!("{}: passed over: {error:#}", strategy.models);
                return Ok(None);
            }
            number += 1;
            sweep.measure(&format!("search {number}"), false, strategy).map(Some)
        };
        let most = arguments.most.into();
        let found =
            search::coordinate_search::<anyhow::Error>(model.config(), &start, budget, most, &mut measure)?;
        sweep.log.check()?;
        write_ron(&arguments.out.join("best.ron"), &found.strategy)?;
        let end = if found.settled { "no single change is better" } else { "--most was reached" };
        tell!("best within {gigaflops} GFLOPs: {} at {:.4}; {end}", found.strategy.models, found.value);
    }
    sweep.finish()
}

/// All that a row's numbers depend on beside its own fields, as a checksum: the files, the arithmetic, and the batch, of
/// which the speed is.
fn world(arguments: &Arguments, network: &Inception, real: &Source) -> anyhow::Result<String> {
    let parts = [
        VERSION.to_string(),
        model_sha256(&arguments.model)?,
        model_sha256(&arguments.tokenizer)?,
        network.sha256().into(),
        network.resize().to_string(),
        real.sha256()?,
        arguments.compute.dtype.to_string(),
        arguments.compute.device.kind().into(),
        arguments.batch.to_string(),
    ];
    Ok(sha256(parts.join(" ").as_bytes()))
}

/// The strategies that are named: of the file, and each --also; without any, the options' own and the full model without
/// a cache, all else equal.
fn named(arguments: &Arguments, config: &ModelConfig) -> anyhow::Result<Vec<(String, Strategy)>> {
    let options = &arguments.strategy;
    let (also, searches) = (!arguments.also.is_empty(), arguments.search.is_some());
    if arguments.strategies.is_some() && !also && !searches && *options != StrategyArguments::default() {
        return Err(bad_use(
            "--strategies: its strategies have options of their own; those of the command line are for --also and --search",
        ));
    }
    if also && !searches && options.schedule.is_some() {
        return Err(bad_use("--schedule: each --also is a schedule; this one is for --search"));
    }
    let mut named: Vec<(String, Strategy)> = Vec::new();
    if let Some(path) = &arguments.strategies {
        named.extend(configs::read::<Named>(path, "a map from names to strategies")?.0);
    }
    for schedule in &arguments.also {
        let options = StrategyArguments { schedule: Some(schedule.clone()), ..options.clone() };
        let strategy = options.strategy(config)?;
        named.push((schedule.clone(), strategy));
    }
    if named.is_empty() && !searches {
        let own = options.strategy(config)?;
        let full = own.clone().of_full_model();
        named.push((format!("{}, no cache", full.models), full.with_cache(CachePolicy::Off)));
        named.push((own.models.to_string(), own));
    }
    // All are checked before the first is measured.
    for (name, strategy) in &named {
        strategy.plan(config).map_err(|error| bad_use(format!("strategy {name}: {error}")))?;
    }
    Ok(named)
}

/// What --search looks for.
struct Search {
    gigaflops: f64,
    /// FLOPs a picture.
    budget: u64,
    start: Strategy,
}

impl Search {
    /// The search from the options' own strategy, made cheaper until it is within the budget; refuses a budget that nothing meets.
    fn new(arguments: &Arguments, gigaflops: f64, config: &ModelConfig) -> anyhow::Result<Self> {
        let (start, budget) = (arguments.strategy.strategy(config)?, (gigaflops * 1e9).round() as u64);
        // A search of its start alone, which measures nothing.
        let mut unmeasured = |_: &Strategy| Ok::<_, mgnt_decode::Error>(Some(0.0));
        let found = search::coordinate_search(config, &start, budget, 1, &mut unmeasured)
            .map_err(|error| bad_use(format!("--search {gigaflops}: {error}")))?;
        Ok(Self { gigaflops, budget, start: found.strategy })
    }
}

struct Sweep<'a> {
    arguments: &'a Arguments,
    model: &'a NestedTransformer,
    tokenizer: &'a ImageTokenizer,
    measuring: Measuring<'a>,
    real: Side,
    reference: &'a Moments,
    seeds: BTreeSet<u64>,
    world: String,
    log: Log,
    /// What was named in this run, by what it does.
    given: Vec<(String, String)>,
}

impl Sweep<'_> {
    /// Rows of the log whose numbers hold here.
    fn rows(&self) -> impl Iterator<Item = &Row> {
        let (samples, dims) = (self.arguments.samples, self.measuring.dims.count());
        self.log
            .rows()
            .iter()
            .filter(move |row| (&row.world, row.samples, row.dims) == (&self.world, samples, dims))
    }

    /// What a strategy does, in words that are the same however it is written: a search writes it in another way than who
    /// named it.
    fn plan(&self, strategy: &Strategy) -> anyhow::Result<String> {
        Ok(ron::to_string(&strategy.plan(self.model.config())?.explicit())?)
    }

    /// The same of a row.
    fn plan_of(&self, row: &Row) -> String {
        let plan = ron::from_str(&row.strategy).ok().and_then(|strategy| self.plan(&strategy).ok());
        plan.unwrap_or_else(|| row.strategy.clone())
    }

    /// Fails where a batch has no room, of a strategy that is to be measured.
    fn check_memory(&self, strategy: &Strategy) -> anyhow::Result<()> {
        let plan = self.plan(strategy)?;
        let known: BTreeSet<u64> =
            self.rows().filter(|row| self.plan_of(row) == plan).map(|row| row.seed).collect();
        if self.seeds.is_subset(&known) {
            return Ok(());
        }
        let Arguments { compute, batch, samples, .. } = self.arguments;
        let batch = usize::from(*batch).min(*samples as usize);
        compute.check_memory(&strategy.plan(self.model.config())?, "--batch", batch)
    }

    /// Mean FID over the seeds, from the log where it is known. One that was `named` has rows of its own.
    fn measure(&mut self, name: &str, named: bool, strategy: &Strategy) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        let (text, plan) = (ron::to_string(strategy)?, self.plan(strategy)?);
        let known: Vec<Row> = self.rows().filter(|row| self.plan_of(row) == plan).cloned().collect();
        // What a search comes by may have a name already.
        let name = known.last().filter(|_| !named).map_or(name, |row| &row.name);
        for seed in self.seeds.clone() {
            let mut of_seed = known.iter().filter(|row| row.seed == seed);
            if let Some(first) = of_seed.clone().next() {
                sum += first.fid;
                // The same under another name, where somebody gave it one.
                if named && of_seed.all(|row| row.name != name) {
                    self.log.keep(Row {
                        name: name.into(),
                        schedule: strategy.models.to_string(),
                        strategy: text.clone(),
                        ..first.clone()
                    })?;
                }
                continue;
            }
            let row = self.one(name, strategy, text.clone(), seed)?;
            sum += row.fid;
            tell!(
                "{name}: seed {seed}, {:.4} GFLOPs, FID-{} {:.4}, {:.1} images/s",
                row.gflops,
                row.dims,
                row.fid,
                row.images_per_second
            );
            self.log.keep(row)?;
        }
        if named {
            self.given.push((plan, name.into()));
        }
        Ok(sum / self.seeds.len() as f64)
    }

    fn one(&self, name: &str, strategy: &Strategy, text: String, seed: u64) -> anyhow::Result<Row> {
        let arguments = self.arguments;
        let device = self.model.device();
        let plan = strategy.plan(self.model.config())?;
        let (gflops, less_compute) =
            (plan.flops() as f64 / 1e9, plan.baseline_flops() as f64 / plan.flops() as f64);
        let generator = Generator::new(self.model, self.tokenizer, plan, seed, &device)?;
        let classes = classes(self.model.config().classes, None, arguments.samples as usize)?;
        let dims = self.measuring.dims;
        let mut statistics = Statistics::new(dims.count());
        let mut progress = Progress::new(classes.len(), "pictures");
        let size = usize::from(arguments.batch);
        let mut seconds = 0.0;
        for (first, chunk) in (0..).step_by(size).zip(classes.chunks(size)) {
            let clock = Instant::now();
            let batch = generator.batch(chunk, first)?;
            seconds += clock.elapsed().as_secs_f64();
            statistics.add(&activations(&self.measuring, &batch.pictures)?.features)?;
            progress.add(chunk.len());
        }
        progress.finish();
        Ok(Row {
            name: name.into(),
            schedule: strategy.models.to_string(),
            seed,
            samples: arguments.samples,
            dims: dims.count(),
            gflops,
            less_compute,
            fid: frechet_distance(self.reference, &statistics.moments())?.distance,
            images_per_second: classes.len() as f64 / seconds,
            strategy: text,
            world: self.world.clone(),
        })
    }

    /// Writes table and plot of all that was measured here for this model with these seeds.
    fn finish(self) -> anyhow::Result<()> {
        let (samples, dims) = (self.arguments.samples, self.measuring.dims);
        let all: Vec<(String, &Row)> = self.rows().map(|row| (self.plan_of(row), row)).collect();
        let out = &self.arguments.out;
        self.log.check()?;
        atomic::write_bytes(&out.join("results.csv"), results::csv(&all, &self.given).as_bytes())?;
        let compared = results::compared(&all, &self.seeds, &self.given);
        let points = results::points(&compared);
        let title = format!("FID-{}", dims.count());
        atomic::write_bytes(&out.join("front.svg"), front(&points, &title)?.as_bytes())?;
        let fake = Side::generated(&self.arguments.model, self.world.clone(), samples.into());
        for warning in Protocol::new(self.measuring.network, dims, self.real, fake).warnings() {
            tracing::warn!("{warning}");
        }
        if self.arguments.json {
            return print_json(&compared.concat());
        }
        let best = best(&points);
        println!("{:<28} {:>12} {title:>12}", "strategy", "GFLOPs");
        for point in &points {
            let mark = if is_among(point, &best) { "  on the front" } else { "" };
            println!("{:<28} {:>12.4} {:>12.4}{mark}", point.name, point.gflops, point.value);
        }
        println!("{}", out.join("front.svg").display());
        Ok(())
    }
}
