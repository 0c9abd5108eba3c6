//! What the commands that measure pictures share: the reference and its options, the network, and what must stay as it is.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::tensor::Device;
use clap::Args;
use mgnt_data::manifest::MANIFEST;
use mgnt_data::{Picture, is_picture_name};
use mgnt_eval::{Activations, Dims, Inception, Measuring, Pictures, ReferenceCache, Resize, Source};
use mgnt_weights::directory::{CONFIG, WEIGHTS};

use super::output_folder::is_within;
use super::watch::Progress;
use crate::device::{Compute, DeviceWord};
use crate::failure::bad_use;

/// Changes whenever the samples of the same model, strategy and seed would.
pub const VERSION: u32 = 1;

/// The reference, and what it is measured by.
#[derive(Args)]
pub struct ReferenceArguments {
    /// The reference: a packed store, a folder of pictures, an .npz (mu and sigma of pytorch-fid or ADM, or pictures
    /// arr_0), or a .safetensors that `eval-fid --save-reference` wrote
    #[arg(long, value_name = "PATH")]
    pub real: PathBuf,
    /// Take at most this many real pictures, evenly over them [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    real_samples: Option<u32>,
    /// Weights of the Inception network: pt_inception-2015-12-05-6726825d.pth, or safetensors of the same names
    #[arg(long, value_name = "FILE")]
    pub weights: PathBuf,
    /// Dimensions of the features: 64, 192, 768 or 2048; fewer are a cheaper proxy
    #[arg(long, value_name = "N", default_value = "2048", value_parser = parse_dims)]
    dims: Dims,
    /// How pictures become the network's input: pytorch-fid or tf1 (as ADM's evaluator and torch-fidelity)
    #[arg(long, value_name = "WAY", default_value = "pytorch-fid")]
    resize: Resize,
    /// Folder that keeps the statistics of real pictures (default: the user's cache folder)
    #[arg(long, value_name = "DIR")]
    statistics: Option<PathBuf>,
}

impl ReferenceArguments {
    /// The network on a device. Refuses weights that do not reach the features.
    pub fn network(&self, compute: &Compute, device: &Device) -> anyhow::Result<Inception> {
        let network = network(&self.weights, self.resize, compute.device, device)?;
        network.require(self.dims)?;
        Ok(network)
    }

    /// By what pictures are measured, of batches of so many.
    pub fn measuring<'a>(&self, network: &'a Inception, batch: u16) -> Measuring<'a> {
        Measuring { network, dims: self.dims, batch: usize::from(batch).min(MEASURED_AT_ONCE) }
    }

    /// The reference: all pictures of a set, or some; or statistics.
    pub fn source(&self) -> anyhow::Result<Source> {
        let source = Source::open(&self.real)?;
        Ok(match self.real_samples {
            Some(samples) => source.thinned(samples as usize)?,
            None => source,
        })
    }

    /// Where statistics of real pictures are kept: in the folder that is named, or the user's cache folder.
    pub fn cache(&self) -> anyhow::Result<ReferenceCache> {
        let folder = match &self.statistics {
            Some(folder) => folder.clone(),
            None => {
                let cache = dirs::cache_dir().context("no cache folder is known; --statistics names one")?;
                cache.join("mgnt/statistics")
            }
        };
        Ok(ReferenceCache::new(folder))
    }
}

/// Dimensions as an option.
pub fn parse_dims(word: &str) -> Result<Dims, String> {
    let dims = word.parse().ok().and_then(Dims::from_count);
    dims.ok_or_else(|| "expected 64, 192, 768 or 2048".into())
}

/// The network on a device: on a processor, parts of a batch side by side; where products are rounded, exact ones, since
/// distances are to be the same everywhere.
pub fn network(
    weights: &Path,
    resize: Resize,
    word: DeviceWord,
    device: &Device,
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

/// What the network says of pictures, however many.
pub fn activations(measuring: &Measuring, pictures: &[Picture]) -> anyhow::Result<Activations> {
    let mut said = Activations::default();
    for part in pictures.chunks(measuring.batch) {
        said.extend(measuring.network.activations(part, measuring.dims)?);
    }
    Ok(said)
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

/// Refuses an output, a folder of a run or a file, that would change one of those read: each with what names it.
pub fn check_unchanged(
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
