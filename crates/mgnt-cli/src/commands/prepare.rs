//! `mgnt prepare-imagenet`: a folder per class, or a tar of it, becomes a packed store.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mgnt_data::{Filter, PrepareOptions, prepare};

use super::watch::bar;

/// Arguments of `mgnt prepare-imagenet`.
#[derive(Args)]
pub struct Arguments {
    /// Folder or tar with `[split/]class/picture`
    #[arg(long, value_name = "PATH")]
    source: PathBuf,
    /// First level of the source, such as train
    #[arg(long)]
    split: Option<String>,
    /// Side of the square pictures in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256)]
    size: usize,
    /// How pictures are made smaller
    #[arg(long, value_enum, default_value_t = FilterWord::Lanczos)]
    filter: FilterWord,
    /// Share of files that may be rejected
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    max_rejected: f64,
    /// The store to write
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FilterWord {
    Lanczos,
    Area,
}

/// Packs the source.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let options = PrepareOptions {
        size: arguments.size,
        filter: match arguments.filter {
            FilterWord::Lanczos => Filter::Lanczos,
            FilterWord::Area => Filter::Area,
        },
        split: arguments.split,
        max_rejected: arguments.max_rejected,
        ..PrepareOptions::default()
    };
    let progress = bar(0, "pictures");
    let report = prepare(&arguments.source, &options, &arguments.out, &mut |done, total| {
        progress.set_length(total as u64);
        progress.set_position(done as u64);
    })?;
    progress.finish_and_clear();
    eprintln!(
        "{}: {} pictures of {} classes, {} files rejected",
        arguments.out.display(),
        report.pictures,
        report.classes,
        report.rejected.len()
    );
    Ok(())
}
