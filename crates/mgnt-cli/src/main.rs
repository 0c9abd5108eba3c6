//! The `mgnt` command: thin over the libraries, one file a command.

/// As `eprintln!`, which panics where nobody can be told any more (a reader that left, a full disk): the work goes on.
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

mod commands;
mod device;
mod failure;
mod memory;
mod model_kind;
mod output;

use std::io::IsTerminal;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Masked generative nested transformers: prepare data, train, generate, measure.
#[derive(Parser)]
#[command(name = "mgnt", version, arg_required_else_help = true)]
struct Arguments {
    /// Threads for the CPU's work (default: one a core).
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pack pictures with classes (folders, tars, WebDataset, Parquet) into a store of square pictures
    PrepareImagenet(commands::prepare::Arguments),
    /// Train the image tokenizer on a store
    TrainTokenizer(commands::train_tokenizer::Arguments),
    /// Turn a store into tokens
    Tokenize(commands::tokenize::Arguments),
    /// Turn tokens that another program made into a store of tokens
    ImportTokens(commands::import_tokens::Arguments),
    /// Recompute the checksums and ranges of a store of pictures or tokens
    Verify(commands::verify::Arguments),
    /// Train the nested transformer on tokens
    TrainImagenet(commands::train_imagenet::Arguments),
    /// Generate pictures under a schedule of sub-models
    Generate(commands::generate::Arguments),
    /// Paint a part of a photo anew, around what is kept
    Edit(commands::edit::Arguments),
    /// Frechet distance (FID) of generated pictures, or of a folder, from real ones
    EvalFid(commands::eval_fid::Arguments),
    /// Measure many strategies on one model, or search for the best under a compute budget
    Sweep(commands::sweep::Arguments),
    /// Time forwards, decodes and training steps of a model with random weights
    Bench(commands::bench::Arguments),
    /// Decodes beside a plain PyTorch one with the same weights
    BenchAgainstTorch(commands::bench_against_torch::Arguments),
    /// Time Inception features beside PyTorch's, and the Frechet distance beside SciPy's
    BenchEvaluation(commands::bench_evaluation::Arguments),
    /// Write a model of random weights
    Init(commands::init::Arguments),
    /// Turn a published checkpoint into a model directory
    Import(commands::import::Arguments),
    /// Write a model as one safetensors file for other programs
    Export(commands::export::Arguments),
    /// Run a checkpoint on tensors of a file and write what it says
    Probe(commands::probe::Arguments),
    /// Run the golden cases on a device, and hold it against the CPU
    Parity(commands::parity::Arguments),
    /// The devices that are there, and what each can compute in
    Devices(commands::devices::Arguments),
    /// One page of a run's curves, grids and recipe, to open in a browser
    Report(commands::report::Arguments),
    /// Lend a device of this machine to a training elsewhere
    ///
    /// Clients may compute whatever they like on the device. Where MGNT_DEVICE_TOKEN is set, they must set it to the same;
    /// without it everybody may who reaches the address. It travels unencrypted: serve on a network that is trusted.
    ServeDevice(commands::serve_device::Arguments),
    /// The whole path on drawn pictures, nothing downloaded: trains, decodes, leaves a page
    Demo(commands::demo::Arguments),
    /// Planned compute of a schedule, iteration by iteration; runs no model
    Flops(commands::flops::Arguments),
}

fn main() -> ExitCode {
    memory::keep_freed_memory();
    failure::take_limits_as_errors();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if mgnt_data::in_guarded_decoder() {
            return;
        }
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            usual(panic);
            return;
        }
        let place = panic.location().map_or_else(String::new, |place| format!(" ({place})"));
        let why = failure::one_line(failure::text_of(panic.payload()));
        // Whoever left, as `head` does, had enough.
        if failure::is_of_a_reader_that_left(&why) {
            return;
        }
        tell!("error: {why}{place}; RUST_BACKTRACE=1 tells more");
    }));
    let arguments = Arguments::parse();
    // What RUST_LOG asks for comes besides: a shell that has it for another program would keep our warnings from people.
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let filter = EnvFilter::builder().parse_lossy(format!("warn,mgnt=info,{asked}"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| output::screen::Above)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .with_target(false)
        // What cannot be written is not told of either.
        .log_internal_errors(false)
        .init();
    // Burn panics where a device fails. That is a failure like others: the hook above has told of it.
    match catch_unwind(AssertUnwindSafe(|| run(arguments))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            tell!("error: {error:#}");
            ExitCode::from(failure::exit_code(&error))
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    match arguments.command {
        Command::PrepareImagenet(arguments) => commands::prepare::run(arguments),
        Command::TrainTokenizer(arguments) => commands::train_tokenizer::run(arguments),
        Command::Tokenize(arguments) => commands::tokenize::run(arguments),
        Command::ImportTokens(arguments) => commands::import_tokens::run(arguments),
        Command::Verify(arguments) => commands::verify::run(arguments),
        Command::TrainImagenet(arguments) => commands::train_imagenet::run(arguments),
        Command::Generate(arguments) => commands::generate::run(arguments),
        Command::Edit(arguments) => commands::edit::run(arguments),
        Command::EvalFid(arguments) => commands::eval_fid::run(arguments),
        Command::Sweep(arguments) => commands::sweep::run(arguments),
        Command::Bench(arguments) => commands::bench::run(arguments),
        Command::BenchAgainstTorch(arguments) => commands::bench_against_torch::run(arguments),
        Command::BenchEvaluation(arguments) => commands::bench_evaluation::run(arguments),
        Command::Init(arguments) => commands::init::run(arguments),
        Command::Import(arguments) => commands::import::run(arguments),
        Command::Export(arguments) => commands::export::run(arguments),
        Command::Probe(arguments) => commands::probe::run(arguments),
        Command::Parity(arguments) => commands::parity::run(arguments),
        Command::Devices(arguments) => commands::devices::run(arguments),
        Command::Report(arguments) => commands::report::run(arguments),
        Command::ServeDevice(arguments) => commands::serve_device::run(arguments),
        Command::Demo(arguments) => commands::demo::run(arguments),
        Command::Flops(arguments) => commands::flops::run(arguments),
    }
}
