//! `mgnt eval-fid`: generated pictures, or given ones, measured against real ones.

mod run_folder;
mod samples;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Arg, ArgGroup, Args, Command, Id, ValueEnum};
use mgnt_data::manifest::MANIFEST;
use mgnt_data::{Picture, is_picture_name};
use mgnt_eval::{
    Activations, Dims, Inception, Measured, Origin, Pictures, Protocol, ReferenceCache, Report, Resize, Side,
    Source, is_npz, measure,
};
use mgnt_weights::atomic;
use mgnt_weights::directory::{CONFIG, WEIGHTS};

use super::generation::ClassChoice;
use super::output_folder::{check_file, is_within};
use super::print_json;
use super::strategy::StrategyArguments;
use super::watch::Progress;
use crate::device::{Compute, DeviceWord};
use crate::failure::bad_use;
pub(super) use run_folder::VERSION;
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
    /// The reference: a packed store, a folder of pictures, an .npz (mu and sigma of pytorch-fid or ADM, or pictures
    /// arr_0), or a .safetensors that --save-reference wrote
    #[arg(long, value_name = "PATH")]
    real: PathBuf,
    /// Take at most this many real pictures, evenly over them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    real_samples: Option<u32>,
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
    /// Weights of the Inception network: pt_inception-2015-12-05-6726825d.pth, or safetensors of the same names
    #[arg(long, value_name = "FILE")]
    weights: PathBuf,
    /// Dimensions of the features: 64, 192, 768 or 2048
    #[arg(long, value_name = "N", default_value = "2048", value_parser = parse_dims)]
    dims: Dims,
    /// How pictures become the network's input: pytorch-fid or tf1 (as ADM's evaluator and torch-fidelity)
    #[arg(long, value_name = "WAY", default_value = "pytorch-fid")]
    resize: Resize,
    /// Pictures at a time, generated and measured; changes no number beyond rounding
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Folder that keeps the statistics of real pictures (default: the user's cache folder)
    #[arg(long, value_name = "DIR")]
    statistics: Option<PathBuf>,
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

/// Dimensions as an option.
pub fn parse_dims(word: &str) -> Result<Dims, String> {
    let dims = word.parse().ok().and_then(Dims::from_count);
    dims.ok_or_else(|| "expected 64, 192, 768 or 2048".into())
}

/// Measures.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    check_outputs(&arguments)?;
    let device = arguments.compute.open()?;
    let network = network(&arguments.weights, arguments.resize, arguments.compute.device, &device)?;
    network.require(arguments.dims)?;
    let real = real_source(&arguments.real, arguments.real_samples)?;
    let fake = arguments.fake.as_deref().map(Pictures::open).transpose()?;
    if let Some(path) = &arguments.save_reference {
        check_form(path, arguments.form, arguments.dims, &real)?;
    }
    let generated = match (&arguments.model, &arguments.tokenizer, &arguments.out) {
        (Some(model), Some(tokenizer), Some(out)) => {
            let transformer = arguments.compute.load(model, &device)?;
            let tokenizer = (arguments.compute.image_tokenizer(tokenizer, &device)?, tokenizer.as_path());
            let request = samples::Request::new(&arguments, (transformer, model), tokenizer)?;
            // What stands there already is looked at before anything is measured.
            let folder = request.folder(out, &network, arguments.dims)?;
            Some((request, folder, out))
        }
        _ => None,
    };
    for pictures in fake.iter().chain(if let Source::Pictures(real) = &real { Some(real) } else { None }) {
        warn_of_passed_over(pictures);
    }

    let reference = reference(&arguments, &real, &network)?;
    if let Some(path) = &arguments.save_reference {
        save_reference(path, arguments.form, &reference, &real, &network, arguments.dims)?;
        tell!("{}: the reference", path.display());
        if arguments.json && arguments.fake.is_none() && arguments.model.is_none() {
            return print_json(
                &serde_json::json!({ "reference": path.to_string_lossy(), "dims": arguments.dims.count() }),
            );
        }
    }
    let real = Side::new(&real, &reference)?;
    if let Some(pictures) = fake {
        let mut progress = Progress::new(pictures.len(), "pictures");
        let size = measured_at_once(arguments.batch);
        let measured = measure(&pictures, &network, arguments.dims, size, &mut |done| progress.set(done))?;
        progress.finish();
        let fake = Side::new(&Source::Pictures(pictures), &measured)?;
        let report = Report::new(&reference, &measured, Protocol::new(&network, arguments.dims, real, fake))?;
        return show(&arguments, &report, None);
    }
    if let Some((request, folder, out)) = generated {
        let (measured, fake, generation) = request.run(&folder, &network, arguments.dims, &device)?;
        let mut protocol = Protocol::new(&network, arguments.dims, real, fake);
        protocol.generation = Some(generation);
        let report = Report::new(&reference, &measured, protocol)?;
        return show(&arguments, &report, Some(out));
    }
    Ok(())
}

/// The network on a device: on a processor, parts of a batch side by side; where products are rounded, exact ones, since
/// distances are to be the same everywhere.
pub fn network(
    weights: &Path,
    resize: Resize,
    word: DeviceWord,
    device: &burn::tensor::Device,
) -> anyhow::Result<Inception> {
    let network = Inception::load(weights, device)?.with_resize(resize);
    Ok(match word {
        _ if word.is_cpu() => network.side_by_side()?,
        _ if word.rounds_products() => network.with_exact_products(),
        _ => network,
    })
}

/// Pictures that the network is given together, at most: each takes it more than ten MiB, for which there is no
/// room where many are decoded at once.
const MEASURED_AT_ONCE: usize = 32;

/// Pictures of a batch that are measured together.
pub fn measured_at_once(batch: u16) -> usize {
    usize::from(batch).min(MEASURED_AT_ONCE)
}

/// What the network says of pictures, however many.
pub fn activations(network: &Inception, pictures: &[Picture], dims: Dims) -> anyhow::Result<Activations> {
    let mut said = Activations::default();
    for part in pictures.chunks(MEASURED_AT_ONCE) {
        said.extend(network.activations(part, dims)?);
    }
    Ok(said)
}

/// The reference: all pictures of a set, or some; or statistics.
pub fn real_source(path: &Path, samples: Option<u32>) -> anyhow::Result<Source> {
    let source = Source::open(path)?;
    Ok(match samples {
        Some(samples) => source.thinned(samples as usize)?,
        None => source,
    })
}

/// Where statistics of real pictures are kept: the folder that is named, or the user's cache folder.
pub fn statistics_folder(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        Some(folder) => Ok(folder.into()),
        None => {
            let cache = dirs::cache_dir().context("no cache folder is known; --statistics names one")?;
            Ok(cache.join("mgnt/statistics"))
        }
    }
}

fn reference(arguments: &Arguments, real: &Source, network: &Inception) -> anyhow::Result<Measured> {
    let cache = ReferenceCache::new(statistics_folder(arguments.statistics.as_deref())?);
    let mut progress = match real {
        // Archives of statistics may have pictures beside them, whose features are measured.
        Source::Statistics(path) => {
            Progress::new(Pictures::open(path).map_or(0, |pictures| pictures.len()), "real pictures")
        }
        _ => real_progress(real),
    };
    let batch = measured_at_once(arguments.batch);
    let measured = cache.reference(real, network, arguments.dims, batch, &mut |done| progress.set(done))?;
    progress.finish();
    Ok(measured)
}

/// Progress of what reads the real pictures, where those are what is given.
pub fn real_progress(real: &Source) -> Progress {
    Progress::new(if let Source::Pictures(pictures) = real { pictures.len() } else { 0 }, "real pictures")
}

/// Pictures in folders are not of a set that has pictures beside them, as the grids are that `generate` draws. Where those
/// are many, something else was meant; and so it was where there are pictures that are not read.
pub fn warn_of_passed_over(pictures: &Pictures) {
    let Pictures::Set(set) = pictures else { return };
    if set.unread() > 0 {
        tracing::warn!(
            "{}: {} pictures are taken, and {} are not, whose formats are not read (tif, tiff, ppm, pgm)",
            set.path().display(),
            set.found(),
            set.unread()
        );
    }
    if set.passed_over() > set.found() {
        tracing::warn!(
            "{}: {} pictures are taken, and {} in its folders are not, since there are some beside them",
            set.path().display(),
            set.found(),
            set.passed_over()
        );
    }
}

/// Refuses to write over what is read or written besides, and where nothing can be written, which would only be told at the end.
fn check_outputs(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.fake.is_none() && arguments.model.is_none() && arguments.report.is_some() {
        return Err(bad_use("--report: there is a report with --fake or --model alone"));
    }
    let inputs = [
        ("--real", Some(&arguments.real)),
        ("--fake", arguments.fake.as_ref()),
        ("--weights", Some(&arguments.weights)),
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

/// Refuses an output, a folder of a run or a file, that would change one of those read: each with what names it.
pub(super) fn check_unchanged(
    output: &str,
    path: &Path,
    is_folder: bool,
    read: &[(&str, Option<&PathBuf>)],
) -> anyhow::Result<()> {
    let mut read = read.iter().filter_map(|(input, read)| Some((*input, (*read)?)));
    let Some((input, read)) = read.find(|(_, read)| changes(path, is_folder, read)) else { return Ok(()) };
    let is = if read.is_dir() { "is read, and this lies in it" } else { "is the same file" };
    Err(bad_use(format!("{output} {}: {input} {is}", path.display())))
}

/// Whether what is read is not the same once a place is written, which is a folder of pictures for a run.
fn changes(place: &Path, is_folder: bool, read: &Path) -> bool {
    let is = |file: &Path| is_within(place, file) && is_within(file, place);
    if !is_within(place, read) {
        return false;
    }
    let is_model = read.join(CONFIG).exists();
    if !read.is_dir() || is_model {
        return is(read) || is_model && [CONFIG, WEIGHTS].iter().any(|name| is(&read.join(name)));
    }
    // A store is closed; of a folder of pictures those are read alone.
    read.join(MANIFEST).exists() || is_folder || is_picture_name(place)
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
    network: &Inception,
    dims: Dims,
) -> anyhow::Result<()> {
    match real {
        Source::Pictures(pictures) if is_npz(path) && form == Form::Adm => {
            mgnt_eval::write_adm(path, reference, pictures, &Origin::of(network))?;
        }
        Source::Pictures(pictures) if !is_npz(path) => {
            mgnt_eval::save(path, reference, pictures, network, dims)?;
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
fn show(arguments: &Arguments, report: &Report, out: Option<&Path>) -> anyhow::Result<()> {
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let printed = match arguments.json {
        true => print_json(report),
        false => write!(std::io::stdout(), "{report}").context("standard output"),
    };
    let (json, markdown) = (json(report)?, markdown(report));
    let own = |out: &Path| {
        atomic::write_bytes(&out.join("report.json"), &json)?;
        atomic::write_bytes(&out.join("report.md"), markdown.as_bytes())
    };
    let own = out.map_or(Ok(()), own);
    let asked_for = arguments.report.as_ref().map_or(Ok(()), |path| {
        atomic::write_bytes(path, if ends_in(path, "md") { markdown.as_bytes() } else { &json })
    });
    printed?;
    own?;
    Ok(asked_for?)
}
