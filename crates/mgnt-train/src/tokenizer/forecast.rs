//! What a step of the tokenizer's training needs, by arithmetic: no tensor, no device.

use mgnt_tokenizer::ImageTokenizerConfig;

use super::TokenizerRecipe;

/// Bytes of a number.
const F32: f64 = 4.0;
/// Maps that norm, swish and convolution leave for the backward, for each that they take. Fitted to peaks of three steps
/// on the CPU, which it meets within 8 % (docs/performance.md).
const KEPT: f64 = 7.7;

impl TokenizerRecipe {
    /// Bytes of the maps that a step of the tokenizer leaves for the backward, where so many of its parts are computed at
    /// once: on a processor as many as it has cores, else one. Weights, a discriminator and a perceptual network come on
    /// top, so that a device with less memory is too small in any case.
    pub fn map_bytes(&self, at_once: usize) -> u64 {
        let optimization = &self.optimization;
        let samples =
            optimization.batch.div_ceil(optimization.parts.max(1)) * at_once.min(optimization.parts);
        let Maps { normed, enlarged } = Maps::new(&self.tokenizer);
        (samples as f64 * F32 * (KEPT * normed + enlarged)) as u64
    }
}

/// Numbers of the maps of one picture.
struct Maps {
    /// Those that a norm takes.
    normed: f64,
    /// Those at twice the resolution, which a convolution takes as they are.
    enlarged: f64,
}

impl Maps {
    fn new(config: &ImageTokenizerConfig) -> Self {
        let levels = config.multipliers.len();
        let side = |level: usize| (config.size >> level) as f64;
        let width = |level: usize| (config.filters * config.multipliers[level]) as f64;
        // Blocks that change the width first, then keep it: each norm takes what goes in, and what comes between.
        let blocks = |level: usize, from: f64, to: f64| {
            let all = from + (2 * config.residual_blocks - 1) as f64 * to;
            side(level) * side(level) * all
        };
        let last = levels - 1;
        let deepest = width(last);
        let mut normed = 2.0 * blocks(last, deepest, deepest);
        let mut enlarged = 0.0;
        for level in 0..levels {
            let before = if level == 0 { config.filters as f64 } else { width(level - 1) };
            let above = if level == last { deepest } else { width(level + 1) };
            normed += blocks(level, before, width(level)) + blocks(level, above, width(level));
            if level > 0 {
                enlarged += side(level - 1) * side(level - 1) * width(level);
            }
        }
        // The last norms of both halves.
        normed += side(last) * side(last) * deepest + side(0) * side(0) * width(0);
        Self { normed, enlarged }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> TokenizerRecipe {
        ron::from_str(include_str!("../../../../configs/image/debug-tokenizer.ron")).unwrap()
    }

    /// 64 px, widths 32, 32 and 64 at 64, 32 and 16 px.
    #[test]
    fn maps_by_hand() {
        let Maps { normed, enlarged } = Maps::new(&recipe().tokenizer);
        let [a, b, c] = [4096.0 * 32.0, 1024.0 * 32.0, 256.0 * 32.0];
        let encoder = 2.0 * a + 2.0 * b + (c + 2.0 * c) + 4.0 * c + 2.0 * c;
        let decoder = 4.0 * c + 4.0 * c + (2.0 * b + b) + 2.0 * a + a;
        assert_eq!((normed, enlarged), (encoder + decoder, 2.0 * b + a));
    }

    #[test]
    fn parts_that_are_computed_at_once_add_up() {
        let of = |batch, parts, at_once| {
            let mut recipe = recipe();
            (recipe.optimization.batch, recipe.optimization.parts) = (batch, parts);
            recipe.map_bytes(at_once)
        };
        let one = of(8, 8, 1);
        assert!((28 << 20..30 << 20).contains(&one), "{one}");
        for (bytes, samples) in [(of(8, 8, 2), 2), (of(8, 2, 1), 4), (of(8, 2, 2), 8), (of(8, 2, 4), 8)] {
            assert!(bytes.abs_diff(samples * one) < 16, "{bytes} for {samples} samples, {one} for one");
        }
    }
}
