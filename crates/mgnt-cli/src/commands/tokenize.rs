//! `mgnt tokenize`: a packed store becomes a token store.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use mgnt_data::manifest::sha256_of_file;
use mgnt_data::picture::mirrored;
use mgnt_data::{PictureStore, TokenJob, TokenStoreInfo};
use mgnt_tokenizer::codes_sha256;
use mgnt_weights::directory::{self, ModelDirectory};

use super::generation::AsRead;
use super::prepare::of_options;
use super::watch::Progress;
use crate::device::{Compute, DeviceWord, Dtype};
use crate::failure::bad_use;

/// Arguments of `mgnt tokenize`.
#[derive(Args)]
pub struct Arguments {
    /// The store of pictures
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The tokenizer's model directory
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Pictures at a time
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Write the tokens of all pictures mirrored as a second half
    #[arg(long)]
    flips: bool,
    /// Pictures a shard: as much work as is lost when the command is killed
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    shard_items: u32,
    /// The token store to write; what a stopped run left in DIR.part is continued
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Device to compute on
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    device: DeviceWord,
}

/// Tokenizes the store.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let device = arguments.device.open()?;
    let store = PictureStore::open(&arguments.data)?;
    let options = TokenizeOptions {
        batch: arguments.batch.into(),
        flips: arguments.flips,
        shard_items: Some(arguments.shard_items as usize),
    };
    // Tokens are made once and for every device.
    let compute = Compute { device: arguments.device, dtype: Dtype::F32 };
    tokenize(&store, &arguments.tokenizer, &options, &arguments.out, (&compute, &device))?;
    let mirrored = if arguments.flips { ", and of each mirrored" } else { "" };
    tell!("{}: tokens of {} pictures{mirrored}", arguments.out.display(), store.len());
    Ok(())
}

/// How a store is tokenized.
pub struct TokenizeOptions {
    /// Pictures at a time.
    pub batch: usize,
    /// Whether mirrored pictures follow as a second half.
    pub flips: bool,
    /// Pictures a shard.
    pub shard_items: Option<usize>,
}

/// Writes the tokens of every picture of a store; shards that are there from a stopped run stay.
pub fn tokenize(
    store: &PictureStore,
    tokenizer_folder: &Path,
    options: &TokenizeOptions,
    out: &Path,
    (compute, device): (&Compute, &Device),
) -> anyhow::Result<()> {
    let as_read = AsRead::new(&[tokenizer_folder]);
    let tokenizer = compute.image_tokenizer(tokenizer_folder, device)?;
    let config = tokenizer.config();
    if config.size != store.size() {
        return Err(bad_use(format!(
            "the tokenizer takes {} px, the store has {} px",
            config.size,
            store.size()
        )));
    }
    let info = TokenStoreInfo {
        grid: [config.grid(); 2],
        codes: config.codes,
        classes: store.classes().to_vec(),
        tokenizer: sha256_of_file(&tokenizer_folder.join(directory::WEIGHTS))?,
        codes_sha256: Some(codes_sha256(&ModelDirectory::new(tokenizer_folder))?),
        source: store.manifest().source.clone(),
    };
    as_read.check()?;
    let job = TokenJob::open(out, store, info, options.flips, options.shard_items).map_err(of_options)?;
    let pending = job.pending();
    let left: usize = pending.iter().map(|shard| shard.pictures().len()).sum();
    let mut progress = Progress::new(job.len(), "tokens of pictures");
    progress.skip(job.len() - left);
    for shard in pending {
        let mut tokens = Vec::with_capacity(shard.pictures().len());
        let items: Vec<usize> = shard.pictures().collect();
        for chunk in items.chunks(options.batch) {
            let pictures: Vec<Cow<[u8]>> = chunk
                .iter()
                .map(|&item| {
                    let picture = store.picture(item);
                    if shard.is_flipped() { mirrored(picture, store.size()).into() } else { picture.into() }
                })
                .collect();
            let pictures: Vec<&[u8]> = pictures.iter().map(|picture| &**picture).collect();
            tokens.extend(tokenizer.tokens(&pictures, device)?);
            progress.add(chunk.len());
        }
        let labels: Vec<u16> = items.iter().map(|&item| store.label(item) as u16).collect();
        job.write(&shard, &tokens, &labels)?;
    }
    job.publish()?;
    progress.finish();
    Ok(())
}
