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

use mgnt_weights::{Error as WeightsError, NamedTensor, TensorMap, flax};

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
fn rename(mut tensors: TensorMap, entries: &[Entry], from: Naming, to: Naming) -> Result<TensorMap, Error> {
    let mut renamed = TensorMap::new();
    let mut problems = Vec::new();
    for entry in entries {
        let (name, expected) = (entry.name(from), entry.shape(from));
        match tensors.remove(name) {
            None => problems.push(format!("  missing  {name} {expected:?}")),
            Some(tensor) if tensor.shape() != expected => {
                problems.push(format!("  shape    {name}: expected {expected:?}, got {:?}", tensor.shape()));
            }
            Some(tensor) if !tensor.dtype().is_float() => {
                let got = tensor.dtype();
                problems.push(format!("  type     {name}: expected a floating-point type, got {got:?}"));
            }
            Some(tensor) => {
                let (target, shape) = (entry.name(to), entry.shape(to));
                let reversed = entry.is_kernel() && from == Naming::Flax;
                let values = if reversed { outputs_first(&tensor) } else { tensor.to_f32() };
                renamed.insert_f32(target, &shape, &values)?;
            }
        }
    }
    problems.extend(tensors.iter().map(|(name, t)| format!("  extra    {name} {:?}", t.shape())));
    if problems.is_empty() { Ok(renamed) } else { Err(WeightsError::Mismatch(problems).into()) }
}

/// Values of a kernel `[.., inputs, outputs]` as `[outputs, inputs, ..]`.
fn outputs_first(kernel: &NamedTensor) -> Vec<f32> {
    let values = kernel.to_f32();
    let &[.., inputs, outputs] = kernel.shape() else { return values };
    let cells = values.len() / (inputs * outputs).max(1);
    let mut turned = Vec::with_capacity(values.len());
    for output in 0..outputs {
        for input in 0..inputs {
            turned.extend((0..cells).map(|cell| values[(cell * inputs + input) * outputs + output]));
        }
    }
    turned
}
