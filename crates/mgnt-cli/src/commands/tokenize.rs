//! `mgnt tokenize`: a packed store becomes a token store.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use mgnt_data::manifest::sha256_of_file;
use mgnt_data::{PictureStore, TokenStoreInfo, TokenWriter};
use mgnt_tokenizer::ImageTokenizer;
use mgnt_weights::{atomic, directory};

use super::watch::bar;
use crate::device::DeviceWord;
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
    /// The token store to write
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
    tokenize(&store, &arguments.tokenizer, arguments.batch.into(), &arguments.out, &device)?;
    eprintln!("{}: tokens of {} pictures", arguments.out.display(), store.len());
    Ok(())
}

/// Writes the tokens of every picture of a store.
pub fn tokenize(
    store: &PictureStore,
    tokenizer_folder: &Path,
    batch: usize,
    out: &Path,
    device: &Device,
) -> anyhow::Result<()> {
    let tokenizer = ImageTokenizer::load(tokenizer_folder, device)?;
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
        source: store.manifest().source.clone(),
    };
    let progress = bar(store.len(), "tokens");
    atomic::write_folder(out, |folder| {
        let mut writer = TokenWriter::new(folder, info);
        let items: Vec<usize> = (0..store.len()).collect();
        for chunk in items.chunks(batch) {
            let pictures: Vec<&[u8]> = chunk.iter().map(|&i| store.picture(i)).collect();
            for (tokens, &item) in tokenizer.tokens(&pictures, device)?.iter().zip(chunk) {
                writer.push(tokens, store.label(item))?;
            }
            progress.inc(chunk.len() as u64);
        }
        Ok::<_, anyhow::Error>(writer.finish()?)
    })?;
    progress.finish_and_clear();
    Ok(())
}
