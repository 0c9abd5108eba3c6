use serde::{Deserialize, Serialize};

use crate::Error;
use crate::image::config::check_sizes;

/// Sizes of a video tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoTokenizerConfig {
    /// Frames of a video.
    pub frames: usize,
    /// Side of the square frames in pixels.
    pub size: usize,
    /// Base width of the convolutions.
    pub filters: usize,
    /// Width of each level as a multiple of the base; each level but the last halves the resolution.
    pub multipliers: Vec<usize>,
    /// Whether each level but the last halves the number of frames too.
    pub temporal_downsample: Vec<bool>,
    /// Residual blocks a level of the encoder.
    pub encoder_residual_blocks: usize,
    /// Residual blocks a level of the decoder.
    pub decoder_residual_blocks: usize,
    /// Width of a code.
    pub embedding: usize,
    /// Number of codes.
    pub codes: usize,
    /// Groups of every GroupNorm.
    #[serde(default = "published_groups")]
    pub groups: usize,
}

fn published_groups() -> usize {
    32
}

impl VideoTokenizerConfig {
    /// MAGVIT's base tokenizer for UCF-101, 16 frames of 128 px to 4 x 16 x 16 tokens: 40.6 M parameters.
    pub fn ucf101_base() -> Self {
        Self {
            frames: 16,
            size: 128,
            filters: 64,
            multipliers: vec![1, 2, 2, 4],
            temporal_downsample: vec![true, true, false],
            encoder_residual_blocks: 2,
            decoder_residual_blocks: 2,
            embedding: 256,
            codes: 1024,
            groups: published_groups(),
        }
    }

    /// MAGVIT's large tokenizer for UCF-101: 157.8 M parameters.
    pub fn ucf101_large() -> Self {
        Self { filters: 128, ..Self::ucf101_base() }
    }

    /// Checks every size; the error names the field.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |field, expected: String, got: String| Err(Error::Config { field, expected, got });
        let fields = [
            ("frames", self.frames),
            ("size", self.size),
            ("filters", self.filters),
            ("encoder_residual_blocks", self.encoder_residual_blocks),
            ("decoder_residual_blocks", self.decoder_residual_blocks),
            ("embedding", self.embedding),
            ("codes", self.codes),
            ("groups", self.groups),
        ];
        check_sizes(&fields, &self.multipliers, self.filters)?;
        if self.temporal_downsample.len() + 1 != self.multipliers.len() {
            return wrong(
                "temporal_downsample",
                format!("one for each of the {} levels but the last", self.multipliers.len()),
                format!("{:?}", self.temporal_downsample),
            );
        }
        let divisors = [
            ("filters", self.filters, self.groups),
            ("size", self.size, self.factor()),
            ("frames", self.frames, self.temporal_factor()),
        ];
        for (field, value, divisor) in divisors {
            if !value.is_multiple_of(divisor) {
                return wrong(field, format!("a multiple of {divisor}"), value.to_string());
            }
        }
        Ok(())
    }

    /// Pixels a token covers on each side.
    pub fn factor(&self) -> usize {
        1 << self.temporal_downsample.len()
    }

    /// Frames a token covers.
    pub fn temporal_factor(&self) -> usize {
        1 << self.temporal_downsample.iter().filter(|&&halved| halved).count()
    }

    /// Layers, rows and columns of the token grid.
    pub fn grid(&self) -> [usize; 3] {
        let side = self.size / self.factor();
        [self.frames / self.temporal_factor(), side, side]
    }

    pub(super) fn width(&self, level: usize) -> usize {
        self.filters * self.multipliers[level]
    }

    pub(super) fn last_width(&self) -> usize {
        self.width(self.multipliers.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let base = VideoTokenizerConfig::ucf101_base();
        assert!(base.validate().is_ok());
        assert_eq!((base.factor(), base.temporal_factor(), base.grid()), (8, 4, [4, 16, 16]));
        let cases = [
            (VideoTokenizerConfig { frames: 18, ..base.clone() }, "frames"),
            (VideoTokenizerConfig { size: 100, ..base.clone() }, "size"),
            (VideoTokenizerConfig { filters: 40, ..base.clone() }, "filters"),
            (VideoTokenizerConfig { multipliers: vec![], ..base.clone() }, "multipliers"),
            (VideoTokenizerConfig { multipliers: vec![usize::MAX; 4], ..base.clone() }, "multipliers"),
            (VideoTokenizerConfig { encoder_residual_blocks: 65, ..base.clone() }, "encoder_residual_blocks"),
            (VideoTokenizerConfig { temporal_downsample: vec![true], ..base.clone() }, "temporal_downsample"),
            (VideoTokenizerConfig { decoder_residual_blocks: 0, ..base.clone() }, "decoder_residual_blocks"),
            (VideoTokenizerConfig { codes: 0, ..base.clone() }, "codes"),
        ];
        for (config, field) in cases {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
    }
}
