use serde::{Deserialize, Serialize};

use crate::Error;

/// Sizes and options of an image tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageTokenizerConfig {
    /// Side of the square pictures in pixels.
    pub size: usize,
    /// Base width of the convolutions.
    pub filters: usize,
    /// Width of each level as a multiple of the base; each level but the last halves the resolution.
    pub multipliers: Vec<usize>,
    /// Residual blocks a level.
    pub residual_blocks: usize,
    /// Width of a code.
    pub embedding: usize,
    /// Number of codes.
    pub codes: usize,
    /// Groups of every GroupNorm.
    #[serde(default = "published_groups")]
    pub groups: usize,
    /// What stands beside a residual block that changes the width.
    #[serde(default)]
    pub shortcut: Shortcut,
}

fn published_groups() -> usize {
    32
}

/// What stands beside a residual block that changes the width.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// A 1x1 convolution of the block's own output; the input is dropped. A quirk of the published MaskGIT code,
    /// and of its checkpoints.
    #[default]
    Published,
    /// A 1x1 convolution of the block's input, as usual.
    Input,
}

impl ImageTokenizerConfig {
    /// MaskGIT's published tokenizer for 256 px: 16 x 16 tokens of 1024 codes.
    pub fn maskgit() -> Self {
        Self {
            size: 256,
            filters: 128,
            multipliers: vec![1, 1, 2, 2, 4],
            residual_blocks: 2,
            embedding: 256,
            codes: 1024,
            groups: published_groups(),
            shortcut: Shortcut::Published,
        }
    }

    /// Checks every size; the error names the field.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |field, expected: String, got: String| Err(Error::Config { field, expected, got });
        let fields = [
            ("size", self.size),
            ("filters", self.filters),
            ("residual_blocks", self.residual_blocks),
            ("embedding", self.embedding),
            ("codes", self.codes),
            ("groups", self.groups),
        ];
        check_sizes(&fields, &self.multipliers, self.filters)?;
        if !self.filters.is_multiple_of(self.groups) {
            return wrong(
                "filters",
                format!("a multiple of the {} groups", self.groups),
                self.filters.to_string(),
            );
        }
        if !self.size.is_multiple_of(self.factor()) {
            return wrong("size", format!("a multiple of {}", self.factor()), self.size.to_string());
        }
        Ok(())
    }

    /// Pixels a token covers on each side.
    pub fn factor(&self) -> usize {
        1 << self.multipliers.len().saturating_sub(1)
    }

    /// Whether a residual block changes the width, and so has a [`Shortcut`].
    pub fn widens(&self) -> bool {
        self.multipliers.first() != Some(&1) || self.multipliers.windows(2).any(|pair| pair[0] != pair[1])
    }

    /// Rows (and columns) of the token grid.
    pub fn grid(&self) -> usize {
        self.size / self.factor()
    }

    /// Number of parameters of encoder, codebook and decoder.
    pub fn parameters(&self) -> usize {
        let (base, deepest, code) = (self.filters, self.last_width(), self.embedding);
        let block = |from: usize, to: usize| {
            let shortcut = match self.shortcut {
                _ if from == to => 0,
                Shortcut::Published => to * to,
                Shortcut::Input => from * to,
            };
            2 * from + 9 * from * to + 2 * to + 9 * to * to + shortcut
        };
        let blocks = |from, to| block(from, to) + (self.residual_blocks - 1) * block(to, to);
        let levels = 0..self.multipliers.len();
        let below = |level: usize| if level == 0 { base } else { self.width(level - 1) };
        let above = |level: usize| if level + 1 < levels.end { self.width(level + 1) } else { deepest };
        let down: usize = levels.clone().map(|level| blocks(below(level), self.width(level))).sum();
        let up: usize = levels.clone().map(|level| blocks(above(level), self.width(level))).sum();
        let enlarged: usize =
            levels.skip(1).map(|level| self.width(level)).map(|width| 9 * width * width + width).sum();
        let middle = blocks(deepest, deepest);
        let encoder = 9 * 3 * base + down + middle + 2 * deepest + deepest * code + code;
        let first = 9 * code * deepest + deepest;
        let last = 2 * self.width(0) + 9 * self.width(0) * 3 + 3;
        encoder + self.codes * code + first + middle + up + enlarged + last
    }

    pub(super) fn width(&self, level: usize) -> usize {
        self.filters * self.multipliers[level]
    }

    pub(super) fn last_width(&self) -> usize {
        self.width(self.multipliers.len() - 1)
    }
}

/// Checks counts by their names, and that a level of each multiplier has a width that can be.
pub(crate) fn check_sizes(
    counts: &[(&'static str, usize)],
    multipliers: &[usize],
    filters: usize,
) -> Result<(), Error> {
    for &(field, value) in counts {
        // A residual block is many objects before any weight is read.
        let most = if field.ends_with("residual_blocks") { 64 } else { 1 << 16 };
        if value == 0 || value > most {
            return Err(Error::Config { field, expected: format!("1 to {most}"), got: value.to_string() });
        }
    }
    let fits = |&by: &usize| filters.checked_mul(by).is_some_and(|width| (1..=1 << 16).contains(&width));
    if (1..=8).contains(&multipliers.len()) && multipliers.iter().all(fits) {
        return Ok(());
    }
    let expected = format!("1 to 8 numbers above 0, that make at most 65536 of {filters} filters");
    Err(Error::Config { field: "multipliers", expected, got: format!("{multipliers:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let base = ImageTokenizerConfig::maskgit();
        assert!(base.validate().is_ok());
        assert_eq!((base.factor(), base.grid()), (16, 16));
        let cases = [
            (ImageTokenizerConfig { size: 250, ..base.clone() }, "size"),
            (ImageTokenizerConfig { filters: 40, ..base.clone() }, "filters"),
            (ImageTokenizerConfig { multipliers: vec![], ..base.clone() }, "multipliers"),
            (ImageTokenizerConfig { multipliers: vec![1, 0], ..base.clone() }, "multipliers"),
            (ImageTokenizerConfig { multipliers: vec![1, usize::MAX], ..base.clone() }, "multipliers"),
            (ImageTokenizerConfig { multipliers: vec![1_000_000], ..base.clone() }, "multipliers"),
            (ImageTokenizerConfig { residual_blocks: 65, ..base.clone() }, "residual_blocks"),
            (ImageTokenizerConfig { codes: 0, ..base.clone() }, "codes"),
        ];
        for (config, field) in cases {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{error}");
        }
    }
}
