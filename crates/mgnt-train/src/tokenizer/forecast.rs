//! What a step of the tokenizer's training needs, by arithmetic: no tensor, no device.

use mgnt_tokenizer::ImageTokenizerConfig;

use super::{TokenizerRecipe, Trained};

/// Bytes of a number.
const F32: f64 = 4.0;
/// Maps that norm, swish and convolution leave for the backward, for each that they take. Fitted to peaks of three steps
/// on the CPU (docs/performance.md).
const KEPT: f64 = 6.8;
/// Copies of the distances of latents to codes that the nearest code and the entropy term leave: measured there.
const DISTANCES: f64 = 6.0;
/// Copies of the parameters at the fullest moment besides a step, when a checkpoint is written: measured there. Those that
/// last are weights, average and AdamW's two moments.
const WRITTEN: f64 = 8.0;

impl TokenizerRecipe {
    /// Bytes that the tokenizer's training takes, where so many parts of a step are computed at once: on a processor as many
    /// as it has cores, else one. The maps of a discriminator and of a perceptual network come on top, so that a device with
    /// less memory is too small in any case.
    pub fn step_bytes(&self, at_once: usize) -> u64 {
        let (batch, parts) = (self.optimization.batch, self.optimization.parts.max(1));
        let at_once = at_once.clamp(1, parts);
        let samples = (batch.div_ceil(parts) * at_once) as f64;
        let Maps { encoder, decoder, enlarged } = Maps::new(&self.tokenizer);
        let latents = self.tokenizer.grid().pow(2) as f64;
        let distances = DISTANCES * latents * self.tokenizer.codes as f64;
        let kept = match self.trained {
            Trained::Whole => KEPT * (encoder + decoder) + enlarged + distances,
            // Distances are gone when the decoder begins.
            Trained::Decoder => (KEPT * decoder + enlarged).max(distances),
        };
        // Beside those of the parts, their sum.
        let gradients = if parts > 1 { at_once + 1 } else { 1 };
        let parameters = self.parameters() as f64;
        let step = samples * kept + (4 + gradients) as f64 * parameters;
        (F32 * step.max(WRITTEN * parameters)) as u64
    }

    /// Number of parameters of tokenizer and discriminator.
    fn parameters(&self) -> usize {
        let judge = self.adversary.as_ref().map(|adversary| &adversary.discriminator);
        self.tokenizer.parameters() + judge.map_or(0, |judge| judge.parameters(self.tokenizer.size))
    }
}

/// Numbers of the maps of one picture.
struct Maps {
    /// Those that a norm of the encoder takes.
    encoder: f64,
    /// Those that a norm of the decoder takes.
    decoder: f64,
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
        let in_the_middle = blocks(last, deepest, deepest);
        // The last norm of each half.
        let mut encoder = in_the_middle + side(last) * side(last) * deepest;
        let mut decoder = in_the_middle + side(0) * side(0) * width(0);
        let mut enlarged = 0.0;
        for level in 0..levels {
            let before = if level == 0 { config.filters as f64 } else { width(level - 1) };
            let above = if level == last { deepest } else { width(level + 1) };
            encoder += blocks(level, before, width(level));
            decoder += blocks(level, above, width(level));
            if level > 0 {
                enlarged += side(level - 1) * side(level - 1) * width(level);
            }
        }
        Self { encoder, decoder, enlarged }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::parse_with_overrides;

    fn recipe() -> TokenizerRecipe {
        ron::from_str(include_str!("../../../../configs/image/debug-tokenizer.ron")).unwrap()
    }

    /// 64 px, widths 32, 32 and 64 at 64, 32 and 16 px.
    #[test]
    fn maps_by_hand() {
        let maps = Maps::new(&recipe().tokenizer);
        let [a, b, c] = [4096.0 * 32.0, 1024.0 * 32.0, 256.0 * 32.0];
        let encoder = 2.0 * a + 2.0 * b + (c + 2.0 * c) + 4.0 * c + 2.0 * c;
        let decoder = 4.0 * c + 4.0 * c + (2.0 * b + b) + 2.0 * a + a;
        assert_eq!((maps.encoder, maps.decoder, maps.enlarged), (encoder, decoder, 2.0 * b + a));
        let alone = TokenizerRecipe { trained: Trained::Decoder, ..recipe() };
        let saved = recipe().step_bytes(1) - alone.step_bytes(1);
        let expected = F32 * (KEPT * encoder + DISTANCES * 256.0 * 512.0) * 4.0;
        assert!((saved as f64 - expected).abs() < 2.0, "{saved} {expected}");
    }

    #[test]
    fn parts_that_are_computed_at_once_add_up() {
        let parameters = 4 * recipe().tokenizer.parameters() as u64;
        let of = |batch, parts, at_once, copies| {
            let mut recipe = recipe();
            (recipe.optimization.batch, recipe.optimization.parts) = (batch, parts);
            recipe.step_bytes(at_once) - copies * parameters
        };
        let one = of(8, 8, 1, 6);
        assert!((28 << 20..30 << 20).contains(&one), "{one}");
        let all = [(of(8, 8, 2, 7), 2), (of(8, 2, 1, 6), 4), (of(8, 2, 2, 7), 8), (of(8, 2, 4, 7), 8)];
        for (bytes, samples) in all.into_iter().chain([(of(8, 1, 2, 5), 8)]) {
            assert!(bytes.abs_diff(samples * one) < 16, "{bytes} for {samples} samples, {one} for one");
        }
    }

    /// Pictures of 16 px, peaks of three steps in MiB without the 40 of the process (docs/performance.md).
    #[test]
    fn codes_and_weights_take_what_was_measured() {
        let mut of_codes = recipe();
        (of_codes.tokenizer.size, of_codes.optimization.parts) = (16, 1);
        let mut of_weights = of_codes.clone();
        (of_codes.tokenizer.multipliers, of_codes.tokenizer.codes) = (vec![1], 65536);
        (of_weights.tokenizer.filters, of_weights.tokenizer.codes) = (512, 16);
        for (recipe, measured) in [(&of_codes, 3142.0), (&of_weights, 3350.0)] {
            let mebibytes = recipe.step_bytes(1) as f64 / f64::from(1 << 20);
            assert!((mebibytes / measured - 1.0).abs() < 0.05, "{mebibytes}");
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/image/imagenette64-tokenizer.ron");
        let judged: TokenizerRecipe = parse_with_overrides(Path::new(path), &[]).unwrap();
        let judge = judged.adversary.as_ref().unwrap().discriminator.parameters(64);
        assert_eq!(judged.parameters(), judged.tokenizer.parameters() + judge);
        // The widest that can be is a number, too.
        of_weights.tokenizer.filters = 1 << 16;
        of_weights.tokenizer.multipliers = vec![1; 3];
        assert!(of_weights.step_bytes(1) > 1 << 40);
    }
}
