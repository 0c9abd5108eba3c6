//! Weights published elsewhere, and ours for others to read.
//!
//! Three ways to name and lay out the same tensors: MaskGIT's and MAGVIT's Flax checkpoints (names are tree paths
//! joined with `/`), and the PyTorch port `maskgit-vqgan` (names joined with `.`). Every size that shows in the
//! tensors is read off them; what does not is asked for. A tensor that is missing, left over or of another shape is
//! an error, which lists them all.
//!
//! Sources: google-research/maskgit, google-research/magvit, huggingface/open-muse.

mod names;
mod sizes;

use mgnt_weights::{Fitting, NamedTensor, TensorMap, flax};

use crate::{Error, ImageTokenizerConfig, Shortcut, VideoTokenizerConfig};
use names::{Entry, Naming, Sizes, entries};

/// Groups of every GroupNorm of the published models.
const GROUPS: usize = 32;

/// Sizes of a video tokenizer that do not show in its tensors. Default: MAGVIT's for UCF-101.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoShape {
    /// Frames of a video.
    pub frames: usize,
    /// Side of the square frames in pixels.
    pub size: usize,
    /// Whether each level but the last halves the number of frames too.
    pub temporal_downsample: Vec<bool>,
}

impl Default for VideoShape {
    fn default() -> Self {
        let VideoTokenizerConfig { frames, size, temporal_downsample, .. } =
            VideoTokenizerConfig::ucf101_base();
        Self { frames, size, temporal_downsample }
    }
}

/// Turns the tensors of MaskGIT's image tokenizer (Flax names, below `params/` or not) into ours, for
/// pictures of `size` pixels (published: 256 and 512).
pub fn image_from_flax(tensors: TensorMap, size: usize) -> Result<(ImageTokenizerConfig, TensorMap), Error> {
    let tensors = flax::parameters(tensors);
    let sizes = sizes::of_flax(&tensors, 2, Shortcut::Published)?;
    let config = image_config(&sizes, size)?;
    let tensors = rename(tensors, &entries(&sizes), Naming::Flax, Naming::Ours)?;
    Ok((config, tensors))
}

/// Turns the tensors of the PyTorch port `maskgit-vqgan` into ours, for pictures of `size` pixels.
pub fn image_from_port(tensors: TensorMap, size: usize) -> Result<(ImageTokenizerConfig, TensorMap), Error> {
    let sizes = sizes::of_port(&tensors)?;
    let config = image_config(&sizes, size)?;
    let tensors = rename(tensors, &entries(&sizes), Naming::Port, Naming::Ours)?;
    Ok((config, tensors))
}

/// Turns our tensors into those of the PyTorch port.
///
/// The port knows neither another number of groups than 32 nor [`Shortcut::Input`], and its weights do not say so:
/// a tokenizer that differs is refused.
pub fn image_to_port(config: &ImageTokenizerConfig, tensors: TensorMap) -> Result<TensorMap, Error> {
    config.validate()?;
    let unknown = |field, expected: &str, got: String| {
        let expected = format!("{expected}, all that the PyTorch port knows");
        Err(Error::Config { field, expected, got })
    };
    if config.groups != GROUPS {
        return unknown("groups", "32", config.groups.to_string());
    }
    if config.widens() && config.shortcut != Shortcut::Published {
        return unknown("shortcut", "published", "input".into());
    }
    let sizes = Sizes {
        axes: 2,
        filters: config.filters,
        multipliers: config.multipliers.clone(),
        encoder_blocks: config.residual_blocks,
        decoder_blocks: config.residual_blocks,
        embedding: config.embedding,
        codes: config.codes,
        shortcut: config.shortcut,
    };
    rename(tensors, &entries(&sizes), Naming::Ours, Naming::Port)
}

/// Turns the tensors of MAGVIT's video tokenizer (Flax names, below `params/` or not) into ours.
pub fn video_from_flax(
    tensors: TensorMap,
    shape: &VideoShape,
) -> Result<(VideoTokenizerConfig, TensorMap), Error> {
    let tensors = flax::parameters(tensors);
    let sizes = sizes::of_flax(&tensors, 3, Shortcut::Input)?;
    let config = VideoTokenizerConfig {
        frames: shape.frames,
        size: shape.size,
        filters: sizes.filters,
        multipliers: sizes.multipliers.clone(),
        temporal_downsample: shape.temporal_downsample.clone(),
        encoder_residual_blocks: sizes.encoder_blocks,
        decoder_residual_blocks: sizes.decoder_blocks,
        embedding: sizes.embedding,
        codes: sizes.codes,
        groups: GROUPS,
    };
    config.validate()?;
    let tensors = rename(tensors, &entries(&sizes), Naming::Flax, Naming::Ours)?;
    Ok((config, tensors))
}

fn image_config(sizes: &Sizes, size: usize) -> Result<ImageTokenizerConfig, Error> {
    if sizes.encoder_blocks != sizes.decoder_blocks {
        return Err(Error::Config {
            field: "residual_blocks",
            expected: format!("as many in the decoder as in the encoder, {}", sizes.encoder_blocks),
            got: sizes.decoder_blocks.to_string(),
        });
    }
    let config = ImageTokenizerConfig {
        size,
        filters: sizes.filters,
        multipliers: sizes.multipliers.clone(),
        residual_blocks: sizes.encoder_blocks,
        embedding: sizes.embedding,
        codes: sizes.codes,
        groups: GROUPS,
        shortcut: sizes.shortcut,
    };
    config.validate()?;
    Ok(config)
}

/// Gives every tensor its other name and layout, as `f32`; lists all that do not fit.
fn rename(tensors: TensorMap, entries: &[Entry], from: Naming, to: Naming) -> Result<TensorMap, Error> {
    let (mut tensors, mut renamed) = (Fitting::new(tensors), TensorMap::new());
    for entry in entries {
        let name = entry.name(from);
        let Some(mut tensor) = tensors.take(name, &entry.shape(from)) else { continue };
        if entry.is_kernel() && from == Naming::Flax {
            tensor = outputs_first(name, &tensor)?;
        }
        renamed.insert_f32(entry.name(to), &entry.shape(to), &tensor.to_f32())?;
    }
    tensors.end()?;
    Ok(renamed)
}

/// A kernel `[.., inputs, outputs]` as `[outputs, inputs, ..]`.
fn outputs_first(name: &str, kernel: &NamedTensor) -> Result<NamedTensor, Error> {
    let mut axes: Vec<usize> = (0..kernel.shape().len()).collect();
    axes.reverse();
    let walked = axes.len().min(2);
    axes[walked..].reverse();
    Ok(kernel.permuted(name, &axes)?)
}
