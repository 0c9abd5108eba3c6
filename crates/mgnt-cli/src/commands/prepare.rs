//! `mgnt prepare-imagenet`: picture files with classes become a packed store.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mgnt_data::{Crop, Error, Filter, Format, HoldOut, PrepareOptions, SourceOptions, prepare};

use super::watch::Progress;
use crate::failure::bad_use;

/// Arguments of `mgnt prepare-imagenet`.
#[derive(Args)]
pub struct Arguments {
    /// Folder, tar or Parquet file; or a folder of tars or of Parquet files
    #[arg(long, value_name = "PATH")]
    source: PathBuf,
    /// How the source is laid out; told from what is there if not given
    #[arg(long, value_enum)]
    format: Option<FormatWord>,
    /// Part of the source: a first level such as train, or a word in the names of WebDataset or Parquet files
    #[arg(long)]
    split: Option<String>,
    /// Only every Nth picture of each class: a held-out set, of a source without one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..), conflicts_with = "except_every")]
    every: Option<u32>,
    /// All pictures but every Nth of each class: what --every of the same number leaves to train on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    except_every: Option<u32>,
    /// Classes of flat pictures, one a line in order of their names, or `picture class` a line
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Names of the classes, one a line, where the source numbers them: Parquet and WebDataset from 0, flat pictures from 1; of these
    /// all classes
    #[arg(long, value_name = "FILE")]
    class_names: Option<PathBuf>,
    /// Side of the square pictures in pixels
    #[arg(long, value_name = "PIXELS", default_value_t = 256)]
    size: usize,
    /// Convention of cropping and resizing
    #[arg(long, value_enum, default_value_t = CropWord::Square)]
    crop: CropWord,
    /// How pictures are made smaller: lanczos if not given, bilinear for torchvision; adm has its own
    #[arg(long, value_enum)]
    filter: Option<FilterWord>,
    /// Turn pictures first as their metadata (EXIF) asks for, as viewers show photos; published data sets are made without
    #[arg(long)]
    upright: bool,
    /// Share of files that may be rejected
    #[arg(long, value_name = "SHARE", default_value_t = 0.01)]
    max_rejected: f64,
    /// Files a shard, of which memory holds up to three at a time (default: as many as make 64 MiB)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    shard_items: Option<u32>,
    /// The store to write; what a stopped preparation left in DIR.part is continued
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FormatWord {
    /// [split/]class/picture, in a folder or a tar
    Classes,
    /// ILSVRC2012_img_train.tar, or its class tars in a folder
    Ilsvrc,
    /// Pictures side by side, such as ILSVRC2012_img_val.tar, with --labels
    Flat,
    /// Tars with key.jpg and key.cls or key.json
    Webdataset,
    /// Parquet files with the columns image and label
    Parquet,
}

impl From<FormatWord> for Format {
    fn from(word: FormatWord) -> Self {
        match word {
            FormatWord::Classes => Self::Classes,
            FormatWord::Ilsvrc => Self::Ilsvrc,
            FormatWord::Flat => Self::Flat,
            FormatWord::Webdataset => Self::WebDataset,
            FormatWord::Parquet => Self::Parquet,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CropWord {
    /// The largest square in the middle, resized
    Square,
    /// ADM's centre crop: box halvings, bicubic, then the middle
    Adm,
    /// torchvision's Resize and CenterCrop
    Torchvision,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FilterWord {
    Lanczos,
    Bicubic,
    Bilinear,
    Area,
}

impl From<FilterWord> for Filter {
    fn from(word: FilterWord) -> Self {
        match word {
            FilterWord::Lanczos => Self::Lanczos,
            FilterWord::Bicubic => Self::Bicubic,
            FilterWord::Bilinear => Self::Bilinear,
            FilterWord::Area => Self::Area,
        }
    }
}

impl Arguments {
    fn hold_out(&self) -> Option<HoldOut> {
        let held_out = self.every.map(|every| HoldOut::Every(every as usize));
        held_out.or(self.except_every.map(|every| HoldOut::ExceptEvery(every as usize)))
    }

    fn crop(&self) -> anyhow::Result<Crop> {
        let filter = self.filter.map(Filter::from);
        match (self.crop, filter) {
            (CropWord::Adm, Some(_)) => Err(bad_use("--filter: --crop adm has filters of its own")),
            (CropWord::Adm, None) => Ok(Crop::Adm),
            (CropWord::Square, filter) => Ok(Crop::Square(filter.unwrap_or(Filter::Lanczos))),
            (CropWord::Torchvision, filter) => Ok(Crop::Torchvision(filter.unwrap_or(Filter::Bilinear))),
        }
    }
}

/// What an error says of an option is that option's.
pub fn of_options(error: Error) -> anyhow::Error {
    match error {
        Error::ShardItems { .. } => bad_use(format!("--shard-items: {error}")),
        Error::Field { .. } => bad_use(error.to_string()),
        other => other.into(),
    }
}

/// Packs the source.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let hold_out = arguments.hold_out();
    let options = PrepareOptions {
        crop: arguments.crop()?,
        source: SourceOptions {
            format: arguments.format.map(Format::from),
            split: arguments.split,
            labels: arguments.labels,
            names: arguments.class_names,
            hold_out,
        },
        upright: arguments.upright,
        size: arguments.size,
        max_rejected: arguments.max_rejected,
        shard_items: arguments.shard_items.map(|items| items as usize),
        ..PrepareOptions::default()
    };
    // A source of a million files is listed for a while before the first is read.
    tell!("listing {}", arguments.source.display());
    let mut progress: Option<Progress> = None;
    let report =
        prepare(&arguments.source, &options, &arguments.out, &mut |done, total| match &mut progress {
            Some(progress) => progress.set(done),
            None => progress.insert(Progress::new(total, "pictures")).skip(done),
        })
        .map_err(of_options)?;
    progress.into_iter().for_each(Progress::finish);
    if report.shards_resumed > 0 {
        tell!("{} shards were there already", report.shards_resumed);
    }
    tell!(
        "{}: {} pictures of {} classes, {} files rejected",
        arguments.out.display(),
        report.pictures,
        report.classes,
        report.rejected.len()
    );
    Ok(())
}
