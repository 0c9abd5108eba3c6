//! `mgnt eval-fid`: generated pictures, or given ones, measured against real ones.

mod run_folder;
mod samples;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Arg, ArgGroup, Args, Command, Id, ValueEnum};
use mgnt_eval::{
    Dims, Measured, Measuring, Origin, Pictures, Protocol, Report, Side, Source, is_npz, measure,
};
use mgnt_weights::atomic;

use super::evaluation::{ReferenceArguments, check_unchanged, real_progress, warn_of_passed_over};
use super::generation::{AsRead, ClassChoice};
use super::output_folder::{check_file, is_within};
use super::print_json;
use super::strategy::StrategyArguments;
use super::watch::Progress;
use crate::device::Compute;
use crate::failure::bad_use;
use run_folder::RunFolder;
use samples::Keep;

/// Has each option that says how to decode ask for a model, without which it is of no use.
fn decoding_needs_a_model() -> impl FnMut(Arg) -> Arg {
    let strategy = StrategyArguments::augment_args(Command::new("strategy"));
    let own = strategy.get_arguments().map(|option| option.get_id().clone());
    let names: Vec<Id> = own.chain(["dtype".into()]).collect();
    move |option| match names.contains(option.get_id()) {
        true => option.requires("model").conflicts_with("fake"),
        false => option,
    }
}

/// Arguments of `mgnt eval-fid`.
#[derive(Args)]
#[command(mut_args(decoding_needs_a_model()))]
#[command(group = ArgGroup::new("task").required(true).multiple(true).args(["fake", "model", "save_reference"]))]
pub struct Arguments {
    #[command(flatten)]
    reference: ReferenceArguments,
    /// Pictures to measure: a packed store, a folder of pictures, or an .npz of arr_0
    #[arg(long, value_name = "PATH", conflicts_with_all = [
        "model", "tokenizer", "out", "keep", "samples", "classes", "seed", "shard",
    ])]
    fake: Option<PathBuf>,
    /// In place of --fake: generate with this transformer
    #[arg(long, value_name = "DIR", requires_all = ["tokenizer", "out"])]
    model: Option<PathBuf>,
    /// The tokenizer of --model
    #[arg(long, value_name = "DIR", requires = "model")]
    tokenizer: Option<PathBuf>,
    /// Folder of the samples of --model and of the report; the same command continues one that was stopped or killed
    #[arg(long, short, value_name = "DIR", requires = "model")]
    out: Option<PathBuf>,
    /// Pictures to generate
    #[arg(long, requires = "model", value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(2..))]
    samples: u32,
    /// Classes of the samples: all in turn, or each drawn by itself
    #[arg(long, requires = "model", value_enum, default_value_t = ClassChoice::Balanced)]
    classes: ClassChoice,
    /// Seed of the generated pictures
    #[arg(long, requires = "model", default_value_t = 0)]
    seed: u64,
    /// Also keep the generated pictures: as PNG files, a folder a shard, or as samples.npz (arr_0, as ADM's evaluator
    /// takes them)
    #[arg(long, value_enum, value_name = "FORM", requires = "model")]
    keep: Option<Keep>,
    /// Samples that are written together, so that a kill costs fewer than these
    #[arg(long, requires = "model", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=8_192))]
    shard: u32,
    #[command(flatten)]
    strategy: StrategyArguments,
    /// Pictures at a time, generated and measured; changes no number beyond rounding
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Also write the reference to this file: .npz for others, or .safetensors for mgnt, which keeps the features too
    #[arg(long, value_name = "FILE")]
    save_reference: Option<PathBuf>,
    /// Form of an .npz of --save-reference
    #[arg(long, value_enum, default_value_t = Form::PytorchFid, requires = "save_reference")]
    form: Form,
    /// Also write the report to this file: JSON, or one line of Markdown where the name ends in .md
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    compute: Compute,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// Forms of published statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// mu and sigma
    PytorchFid,
    /// mu, sigma, mu_s, sigma_s, and up to 10,000 of the pictures as arr_0
    Adm,
}

/// Measures.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    check_outputs(&arguments)?;
    let device = arguments.compute.open()?;
    let network = arguments.reference.network(&arguments.compute, &device)?;
    let measuring = arguments.reference.measuring(&network, arguments.batch);
    let real = arguments.reference.source()?;
    let fake = arguments.fake.as_deref().map(Pictures::open).transpose()?;
    if let Some(path) = &arguments.save_reference {
        check_form(path, arguments.form, measuring.dims, &real)?;
    }
    let generated = match (&arguments.model, &arguments.tokenizer, &arguments.out) {
        (Some(model), Some(tokenizer), Some(out)) => {
            let as_read = AsRead::new(&[model, tokenizer]);
            let transformer = arguments.compute.load(model, &device)?;
            let tokenizer = (arguments.compute.image_tokenizer(tokenizer, &device)?, tokenizer.as_path());
            let request = samples::Request::new(&arguments, (transformer, model), tokenizer)?;
            as_read.check()?;
            // What stands there already is looked at before anything is measured.
            let folder = request.folder(out, &measuring)?;
            Some((request, folder))
        }
        _ => None,
    };
    for pictures in fake.iter().chain(if let Source::Pictures(real) = &real { Some(real) } else { None }) {
        warn_of_passed_over(pictures);
    }

    let reference = reference(&arguments, &real, &measuring)?;
    if let Some(path) = &arguments.save_reference {
        save_reference(path, arguments.form, &reference, &real, &measuring)?;
        tell!("{}: the reference", path.display());
        if arguments.json && arguments.fake.is_none() && arguments.model.is_none() {
            return print_json(
                &serde_json::json!({ "reference": path.to_string_lossy(), "dims": measuring.dims.count() }),
            );
        }
    }
    let real = Side::new(&real, &reference)?;
    if let Some(pictures) = fake {
        let mut progress = Progress::new(pictures.len(), "pictures");
        let measured = measure(&pictures, &measuring, &mut |done| progress.set(done))?;
        progress.finish();
        let fake = Side::new(&Source::Pictures(pictures), &measured)?;
        let protocol = Protocol::new(&network, measuring.dims, real, fake);
        let report = Report::new(&reference, &measured, protocol)?;
        return show(&arguments, &report, None);
    }
    if let Some((request, folder)) = generated {
        let (measured, fake, generation) = request.run(&folder, &measuring, &device)?;
        let mut protocol = Protocol::new(&network, measuring.dims, real, fake);
        protocol.generation = Some(generation);
        let report = Report::new(&reference, &measured, protocol)?;
        return show(&arguments, &report, Some(&folder));
    }
    Ok(())
}

fn reference(arguments: &Arguments, real: &Source, measuring: &Measuring) -> anyhow::Result<Measured> {
    let cache = arguments.reference.cache()?;
    let mut progress = match real {
        // Archives of statistics may have pictures beside them, whose features are measured.
        Source::Statistics(path) => {
            Progress::new(Pictures::open(path).map_or(0, |pictures| pictures.len()), "real pictures")
        }
        _ => real_progress(real),
    };
    let measured = cache.reference(real, measuring, &mut |done| progress.set(done))?;
    progress.finish();
    Ok(measured)
}

/// Refuses to write over what is read or written besides, and where nothing can be written, which would only be told at the end.
fn check_outputs(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.fake.is_none() && arguments.model.is_none() && arguments.report.is_some() {
        return Err(bad_use("--report: there is a report with --fake or --model alone"));
    }
    let inputs = [
        ("--real", Some(&arguments.reference.real)),
        ("--fake", arguments.fake.as_ref()),
        ("--weights", Some(&arguments.reference.weights)),
        ("--model", arguments.model.as_ref()),
        ("--tokenizer", arguments.tokenizer.as_ref()),
        ("--strategy", arguments.strategy.strategy.as_ref()),
    ];
    let outputs = [
        ("--out", &arguments.out, true),
        ("--save-reference", &arguments.save_reference, false),
        ("--report", &arguments.report, false),
    ];
    for (output, path, is_folder) in outputs {
        let Some(path) = path else { continue };
        if !is_folder {
            check_file(output, path)?;
        }
        check_unchanged(output, path, is_folder, &inputs)?;
    }
    for (output, path, _) in &outputs[1..] {
        let Some(path) = path else { continue };
        if let Some(out) = arguments.out.as_ref().filter(|out| run_folder::is_own(out, path)) {
            let out = out.display();
            return Err(bad_use(format!(
                "{output} {}: --out {out} has a file of its own there",
                path.display()
            )));
        }
    }
    if let (Some(reference), Some(report)) = (&arguments.save_reference, &arguments.report)
        && is_within(reference, report)
    {
        return Err(bad_use(format!("--report {}: --save-reference is the same file", report.display())));
    }
    Ok(())
}

/// Whether a file's name has this ending, in capitals or not.
fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|own| own.eq_ignore_ascii_case(ending))
}

/// Refuses what [`save_reference`] cannot write.
fn check_form(path: &Path, form: Form, dims: Dims, real: &Source) -> anyhow::Result<()> {
    let npz = is_npz(path);
    if !npz && !ends_in(path, "safetensors") {
        return Err(bad_use(format!("--save-reference {}: expected .npz or .safetensors", path.display())));
    }
    if !npz && form != Form::PytorchFid {
        return Err(bad_use(format!("--form: {} is no .npz", path.display())));
    }
    if form == Form::Adm && dims != Dims::D2048 {
        let got = dims.count();
        return Err(bad_use(format!(
            "--form adm: expected 2048 dimensions, as ADM's evaluator takes, got {got}"
        )));
    }
    if (!npz || form == Form::Adm) && !matches!(real, Source::Pictures(_)) {
        let what = if npz { "--form adm" } else { "a .safetensors" };
        return Err(bad_use(format!("--save-reference: {what} needs pictures, and --real has statistics")));
    }
    Ok(())
}

fn save_reference(
    path: &Path,
    form: Form,
    reference: &Measured,
    real: &Source,
    measuring: &Measuring,
) -> anyhow::Result<()> {
    let network = measuring.network;
    match real {
        Source::Pictures(pictures) if is_npz(path) && form == Form::Adm => {
            mgnt_eval::write_adm(path, reference, pictures, &Origin::of(network))?;
        }
        Source::Pictures(pictures) if !is_npz(path) => {
            mgnt_eval::save(path, reference, pictures, measuring)?;
        }
        _ => mgnt_eval::write_pytorch_fid(path, &reference.moments, real.origin(network)?.as_ref())?,
    }
    Ok(())
}

fn json(report: &Report) -> anyhow::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(report)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn markdown(report: &Report) -> String {
    report.markdown() + "\n"
}

/// Prints the report, then writes it: to the folder of a run and to the file that is asked for. Where one of these fails, the
/// others have the numbers at least.
fn show(arguments: &Arguments, report: &Report, out: Option<&RunFolder>) -> anyhow::Result<()> {
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let printed = match arguments.json {
        true => print_json(report),
        false => write!(std::io::stdout(), "{report}").context("standard output"),
    };
    let (json, markdown) = (json(report)?, markdown(report));
    let own = |out: &RunFolder| {
        out.check()?;
        atomic::write_bytes(&out.path().join("report.json"), &json)?;
        atomic::write_bytes(&out.path().join("report.md"), markdown.as_bytes())
    };
    let own = out.map_or(Ok(()), own);
    let asked_for = arguments.report.as_ref().map_or(Ok(()), |path| {
        atomic::write_bytes(path, if ends_in(path, "md") { markdown.as_bytes() } else { &json })
    });
    printed?;
    own?;
    Ok(asked_for?)
}
