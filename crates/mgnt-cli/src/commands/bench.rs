//! `mgnt bench`: time of forwards, decodes and training steps of a model with random weights.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::anyhow;
use burn::tensor::{Device, Distribution, FloatDType, Int, Tensor};
use clap::{Args, ValueEnum};
use mgnt_decode::{CachePolicy, Ledger, Plan, Recorded, Snapshot, Strategy};
use mgnt_model::NestedTransformer;
use mgnt_model::compute::{Forward, forward_flops};
use mgnt_train::Precision;
use mgnt_weights::in_parts;
use serde::Serialize;

use super::strategy::StrategyArguments;
use super::{bench_train, configs, print_json};
use crate::device::{Compute, DeviceWord, Dtype, decoder};
use crate::failure::{bad_use, one_line, text_of};
use crate::memory::peak_bytes;

/// Arguments of `mgnt bench`.
#[derive(Args)]
pub struct Arguments {
    /// What is timed
    #[arg(value_enum)]
    what: What,
    /// A model's config, or its folder; for train, a recipe
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Batch sizes, with commas between
    #[arg(long, value_delimiter = ',', default_value = "4", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Vec<u16>,
    /// Times that each is run, turn and turn about, after once to warm up; medians are printed
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) repeat: u16,
    #[command(flatten)]
    strategy: StrategyArguments,
    #[command(flatten)]
    pub(super) compute: Compute,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// The whole model without a cache, by each sub-model
    Forward,
    /// Whole decodes: the full model without and with a cache, and the schedule
    Decode,
    /// Training steps: the full model alone, the nested objective, that on one batch again and again, and a checkpoint
    Train,
}

#[derive(Serialize)]
struct Report {
    /// Type of the matrices, and of the product below.
    dtype: Dtype,
    /// GFLOP/s of a large matrix product in this run.
    matrix_peak_gflops: f64,
    rows: Vec<Row>,
    /// Batches that could not be measured, and why.
    failed: Vec<Failed>,
    /// Of the process on the host, where the system tells.
    peak_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Failed {
    batch: u16,
    reason: String,
}

/// One thing that was timed.
#[derive(Serialize)]
pub(super) struct Row {
    pub name: String,
    batch: usize,
    /// Of the whole batch; the median.
    pub milliseconds: f64,
    samples_per_second: f64,
    /// Time of the first row of this batch over this one's.
    faster: f64,
    gflops_per_second: Option<f64>,
    /// Share of the time after the logits.
    sampling_share: Option<f64>,
    /// Milliseconds of each iteration; medians.
    iterations: Option<Vec<f64>>,
    /// Of a device's memory, all that is held once this batch's are measured, where it tells.
    device_bytes: Option<u64>,
}

/// Times it.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    if matches!(arguments.what, What::Train) && arguments.compute.dtype != Dtype::F32 {
        return Err(bad_use("--dtype: of a training the recipe's `precision` says it"));
    }
    if !matches!(arguments.what, What::Decode) && arguments.strategy != StrategyArguments::default() {
        return Err(bad_use("a strategy is of decodes: forwards and training steps have none"));
    }
    let config = || configs::model(&arguments.config);
    if !matches!(arguments.what, What::Train) {
        // Before the device takes its time.
        arguments.strategy.plan(&config()?)?;
    }
    let device = match arguments.what {
        What::Train => arguments.compute.device.open_to_train()?,
        _ => arguments.compute.open()?,
    };
    let compute = match arguments.what {
        What::Train => of_training(&arguments)?,
        _ => arguments.compute,
    };
    // Before the first is measured.
    for &batch in &arguments.batch {
        check_memory(&arguments, batch)?;
    }
    let (dtype, product) = (compute.dtype, LargeProduct::for_device(compute.device));
    let matrix_peak_gflops = product.peak(&compute, &device);
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for &batch in &arguments.batch {
        // A device that fails panics, and the rows of other batches are no worse for it.
        let measured = catch_unwind(AssertUnwindSafe(|| {
            // What is kept for the sizes of another batch is found by no tensor of this one.
            device.memory_cleanup();
            measured(&arguments, batch, &device)
        }));
        match measured.unwrap_or_else(|panic| Err(anyhow!("{}", one_line(text_of(&*panic))))) {
            Ok(of_batch) => {
                let device_bytes = compute.device.held();
                rows.extend(of_batch.into_iter().map(|row| Row { device_bytes, ..row }));
            }
            Err(error) => failed.push(Failed { batch, reason: format!("{error:#}") }),
        }
    }
    let report = Report { dtype, matrix_peak_gflops, rows, failed, peak_bytes: peak_bytes() };
    match arguments.json {
        true => print_json(&report)?,
        false => print(&report, &product),
    }
    let failed: Vec<String> =
        report.failed.iter().map(|Failed { batch, reason }| format!("batch {batch}: {reason}")).collect();
    if failed.is_empty() { Ok(()) } else { Err(anyhow!("{}", failed.join("; "))) }
}

/// Fails where the device has not the memory for a batch.
fn check_memory(arguments: &Arguments, batch: u16) -> anyhow::Result<()> {
    let plan = match arguments.what {
        What::Forward => Strategy::baseline(1).plan(&configs::model(&arguments.config)?)?,
        What::Decode => {
            let config = configs::model(&arguments.config)?;
            // Of all that is timed the full model holds the most.
            arguments.strategy.strategy(&config)?.of_full_model().plan(&config)?
        }
        What::Train => return bench_train::check_memory(arguments, batch.into()),
    };
    arguments.compute.check_memory(&plan, "--batch", batch.into())
}

/// All that is timed of a batch.
fn measured(arguments: &Arguments, batch: u16, device: &Device) -> anyhow::Result<Vec<Row>> {
    match arguments.what {
        What::Forward => forwards(arguments, batch.into(), device),
        What::Decode => {
            let config = configs::model(&arguments.config)?;
            let strategy = arguments.strategy.strategy(&config)?;
            let model = arguments.compute.cast(NestedTransformer::init(&config, 1, device)?)?;
            decodes(&model, strategy, batch.into(), arguments.repeat)
        }
        What::Train => bench_train::rows(arguments, batch.into(), device),
    }
}

fn print(report: &Report, product: &LargeProduct) {
    let Report { dtype, matrix_peak_gflops, .. } = report;
    let width = report.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    println!(
        "{:<width$} {:>5} {:>11} {:>11} {:>8} {:>9} {:>8} {:>9}",
        "", "batch", "ms", "samples/s", "faster", "GFLOP/s", "of peak", "sampling"
    );
    for row in &report.rows {
        let percent =
            |share: Option<f64>| share.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share));
        println!(
            "{:<width$} {:>5} {:>11.1} {:>11.3} {:>7.2}x {:>9} {:>8} {:>9}",
            row.name,
            row.batch,
            row.milliseconds,
            row.samples_per_second,
            row.faster,
            row.gflops_per_second.map_or("-".into(), |rate| format!("{rate:.1}")),
            percent(row.gflops_per_second.map(|rate| rate / matrix_peak_gflops)),
            percent(row.sampling_share),
        );
    }
    let [m, k, n] = product.sizes;
    println!("matrix peak {matrix_peak_gflops:.1} GFLOP/s ({dtype:?}, {m} x {k} x {n}, best of ten)");
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let batches: BTreeMap<usize, Option<u64>> =
        report.rows.iter().map(|row| (row.batch, row.device_bytes)).collect();
    for (batch, bytes) in batches.iter().filter_map(|(batch, bytes)| Some((batch, (*bytes)?))) {
        println!(
            "memory held of the device after batch {batch}: {:.0} MiB, by all programs",
            mebibytes(bytes)
        );
    }
    if let Some(bytes) = report.peak_bytes {
        println!("peak memory of the process on the host {:.0} MiB", mebibytes(bytes));
    }
}

/// Where a recipe trains, and in which type its products are.
fn of_training(arguments: &Arguments) -> anyhow::Result<Compute> {
    let recipe = configs::recipe(&arguments.config)?;
    let device = arguments.compute.device;
    let dtype = match recipe.precision {
        Precision::Bf16 => Dtype::Bf16,
        // No step takes exact products.
        Precision::F32 if device.is_cpu() => Dtype::F32,
        Precision::F32 => Dtype::Tf32,
    };
    Ok(Compute { device, dtype })
}

/// A product that is large enough for a device to be at its best.
struct LargeProduct {
    /// Rows, what is summed over, columns.
    sizes: [usize; 3],
    /// Products before the device is waited for: one wait is long beside an accelerator's product.
    at_once: usize,
}

impl LargeProduct {
    fn for_device(device: DeviceWord) -> Self {
        match device {
            DeviceWord::Cuda(_) => Self { sizes: [8192; 3], at_once: 10 },
            _ => Self { sizes: [1024, 1024, 4096], at_once: 1 },
        }
    }

    /// GFLOP/s of it as a transformer's are computed there, by kernels or as exact as the type: the best of ten.
    fn peak(&self, compute: &Compute, device: &Device) -> f64 {
        let kernels = compute.kernels(device);
        let [m, k, n] = self.sizes;
        let normal = Distribution::Normal(0.0, 1.0);
        let random = |shape| Tensor::<2>::random(shape, normal, device).cast(FloatDType::from(compute.dtype));
        let (a, b) = (random([m, k]), random([k, n]));
        // Held until they are there: a lazy device need not compute what is dropped.
        let seconds = || {
            let clock = Instant::now();
            let product = |_| match &kernels {
                Some(kernels) => kernels.dense(a.clone(), b.clone(), n),
                None if compute.is_exact() => in_parts(a.clone(), b.clone(), Tensor::matmul).unsqueeze(),
                None => a.clone().matmul(b.clone()).unsqueeze(),
            };
            let products: Vec<Tensor<3>> = (0..self.at_once).map(product).collect();
            finished(device);
            drop(products);
            clock.elapsed().as_secs_f64()
        };
        // The first compiles and tunes.
        seconds();
        let best = (0..10).map(|_| seconds());
        2.0 * (self.at_once * m * k * n) as f64 / best.fold(f64::INFINITY, f64::min) / 1e9
    }
}

/// Waits for the device; where it cannot say, what was timed has ended already.
fn finished(device: &Device) {
    if let Err(error) = device.sync() {
        tracing::warn!("the device does not synchronise: {error:?}");
    }
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { 0.5 * (values[middle - 1] + values[middle]) }
}

fn forwards(arguments: &Arguments, batch: usize, device: &Device) -> anyhow::Result<Vec<Row>> {
    let config = configs::model(&arguments.config)?;
    let model = arguments.compute.cast(NestedTransformer::init(&config, 1, device)?)?;
    let length = config.positions();
    let tokens: Tensor<2, Int> = Tensor::zeros([batch, length], device);
    let mut times = vec![Vec::new(); config.sub_models.len()];
    for round in 0..=arguments.repeat {
        for (&p, times) in config.sub_models.iter().zip(&mut times) {
            let sub_model = config.sub_model(p)?;
            let clock = Instant::now();
            let hidden = model.hidden(tokens.clone(), sub_model);
            let logits = model.code_logits(hidden.reshape([batch * length, config.width]));
            finished(device);
            drop(logits);
            if round > 0 {
                times.push(clock.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let mut rows = Vec::new();
    for (&p, times) in config.sub_models.iter().zip(times) {
        let forward = Forward { active: length, context: length, logits: length };
        let flops = forward_flops(&config, config.sub_model(p)?, forward) as f64 * batch as f64;
        rows.push(row(format!("forward p = {p}"), batch, median(times), Some(flops), &rows));
    }
    Ok(rows)
}

/// Decodes of the full model without and with a cache, and of the strategy itself.
pub(super) fn decodes(
    model: &NestedTransformer,
    own: Strategy,
    batch: usize,
    repeat: u16,
) -> anyhow::Result<Vec<Row>> {
    let config = model.config();
    let full = own.clone().of_full_model();
    let strategies = [
        (format!("{}, no cache", full.models), full.clone().with_cache(CachePolicy::Off)),
        (format!("{}, cache", full.models), full.with_cache(CachePolicy::AtSizeSwitch)),
        (own.models.to_string(), own),
    ];
    let plans: Vec<(String, Plan)> =
        strategies.into_iter().map(|(name, s)| Ok((name, s.plan(config)?))).collect::<anyhow::Result<_>>()?;
    let classes: Vec<usize> = (0..batch).map(|i| i % config.classes).collect();
    let mut ledgers: Vec<Vec<Ledger>> = vec![Vec::new(); plans.len()];
    for round in 0..=repeat {
        for ((_, plan), ledgers) in plans.iter().zip(&mut ledgers) {
            let decoded = decoder(model, plan).classes(&classes).seed(round.into()).run()?;
            if round > 0 {
                ledgers.push(decoded.ledger);
            }
        }
    }
    let mut rows: Vec<Row> = Vec::new();
    for ((name, plan), ledgers) in plans.iter().zip(ledgers) {
        let whole = |ledger: &Ledger| ledger.milliseconds.unwrap_or(0.0);
        let sampling: Option<f64> = ledgers.iter().map(|l| l.sampling_milliseconds).sum();
        let share = sampling.map(|sampling| sampling / ledgers.iter().map(whole).sum::<f64>());
        let flops = plan.flops() as f64 * batch as f64;
        let mut row =
            row(name.clone(), batch, median(ledgers.iter().map(whole).collect()), Some(flops), &rows);
        row.sampling_share = share;
        row.iterations = Some(iterations(model, plan, &classes, &ledgers)?);
        rows.push(row);
    }
    if !model.is_on_processor() {
        for (name, plan) in &plans {
            rows.extend(recorded(model, name, plan, &classes, repeat, &rows)?);
        }
    }
    Ok(rows)
}

/// Milliseconds of each iteration: medians, or, where single ones are not waited for, those of one more decode in which
/// they are.
fn iterations(
    model: &NestedTransformer,
    plan: &Plan,
    classes: &[usize],
    ledgers: &[Ledger],
) -> anyhow::Result<Vec<f64>> {
    let each = |ledgers: &[Ledger], i: usize| {
        let times: Vec<f64> = ledgers.iter().filter_map(|l| l.iterations[i].milliseconds).collect();
        (!times.is_empty()).then(|| median(times))
    };
    let all = |ledgers: &[Ledger]| (0..plan.iterations().len()).map(|i| each(ledgers, i)).collect();
    if let Some(times) = all(ledgers) {
        return Ok(times);
    }
    let mut waits = |_: &Snapshot| ();
    let watched = decoder(model, plan).classes(classes).watch(&mut waits).run()?;
    Ok(all(&[watched.ledger]).unwrap_or_default())
}

/// A plan as one graph, where the device has graphs.
fn recorded(
    model: &NestedTransformer,
    name: &str,
    plan: &Plan,
    classes: &[usize],
    repeat: u16,
    before: &[Row],
) -> anyhow::Result<Option<Row>> {
    let recorded = Recorded::new(model, plan, classes.len())?.filter(Recorded::is_graph);
    let Some(mut recorded) = recorded else {
        tell!(
            "{name}: no graph: the device has none, the plan's order or top-p needs the host, or a replay did not give the \
             tokens of a decode"
        );
        return Ok(None);
    };
    let mut times = Vec::new();
    for round in 0..=repeat {
        let clock = Instant::now();
        recorded.run(classes, round.into(), 0)?;
        if round > 0 {
            times.push(clock.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (batch, flops) = (classes.len(), plan.flops() as f64 * classes.len() as f64);
    Ok(Some(row(format!("{name}, one graph"), batch, median(times), Some(flops), before)))
}

pub(super) fn row(name: String, batch: usize, milliseconds: f64, flops: Option<f64>, before: &[Row]) -> Row {
    Row {
        name,
        batch,
        milliseconds,
        samples_per_second: batch as f64 * 1e3 / milliseconds,
        faster: before.first().map_or(1.0, |first| first.milliseconds / milliseconds),
        gflops_per_second: flops.map(|flops| flops / milliseconds / 1e6),
        sampling_share: None,
        iterations: None,
        device_bytes: None,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Bench {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_training_is_held_against_products_of_its_own_type() {
        for (recipe, device, dtype) in [
            ("debug", "cpu", Dtype::F32),
            ("debug", "cuda:1", Dtype::Tf32),
            ("imagenet256-L", "cpu", Dtype::Bf16),
            ("imagenet256-L", "cuda", Dtype::Bf16),
        ] {
            let recipe = format!("{}/../../configs/image/{recipe}.ron", env!("CARGO_MANIFEST_DIR"));
            let words = ["bench", "train", "--config", &recipe, "--device", device];
            let Bench { arguments } = Bench::parse_from(words);
            let compute = of_training(&arguments).unwrap();
            assert_eq!((compute.dtype, compute.device), (dtype, arguments.compute.device), "{words:?}");
        }
    }
}
