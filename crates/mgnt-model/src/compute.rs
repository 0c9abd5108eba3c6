//! What a forward costs, by arithmetic: no tensor, no device.
//!
//! FLOPs are twice the multiply-adds of matrix products, and nothing else is counted.

use crate::{ModelConfig, SubModel};

/// Sizes of one forward of one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Positions processed, A.
    pub active: usize,
    /// Positions attended over: cached and active, S.
    pub context: usize,
    /// Positions whose logits over the codes are computed, M.
    pub logits: usize,
}

/// FLOPs of one forward of one sample:
/// `L (2 A D 3D/p + 4 A S D/p + 2 A D D/p + 4 A D F/p) + 2 M (D^2 + D V)`; where sub-models nest in the features too,
/// the projections' D is D/p. Where that is more than 64 bits hold, it is `u64::MAX`.
pub fn forward_flops(config: &ModelConfig, sub_model: SubModel, forward: Forward) -> u64 {
    let [active, context, logits, layers, width, codes] =
        [forward.active, forward.context, forward.logits, config.layers, config.width, config.codes]
            .map(|n| n as u128);
    let attention = sub_model.attention_width(config) as u128;
    let hidden = sub_model.hidden(config) as u128;
    let features = sub_model.features(config) as u128;
    let block = 2 * active * features * 3 * attention
        + 4 * active * context * attention
        + 2 * active * features * attention
        + 4 * active * features * hidden;
    let flops = layers * block + 2 * logits * (width * width + width * codes);
    u64::try_from(flops).unwrap_or(u64::MAX)
}

/// Bytes of the keys and values of `positions` positions of one sample, at `value_bytes` a number.
pub fn cache_bytes(config: &ModelConfig, sub_model: SubModel, positions: usize, value_bytes: usize) -> u64 {
    (2 * config.layers * positions * sub_model.attention_width(config) * value_bytes) as u64
}

/// Positions that an accelerator's rows of scores, and its buffers of keys and values, have for a context of so many: its
/// kernels take sixteen at once, vectors of eight halves or rows of a matrix.
pub fn whole_rows(positions: usize) -> usize {
    positions.next_multiple_of(16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    #[test]
    fn iterations_of_scale_l() {
        let config = ModelConfig::preset(Preset::L);
        let gigaflops = |p, active, logits| {
            let sub_model = config.sub_model(p).unwrap();
            forward_flops(&config, sub_model, Forward { active, context: 257, logits }) as f64 / 1e9
        };
        let rows = [
            (8, 257, 256, 21.2882),
            (8, 256, 253, 21.1970),
            (4, 221, 203, 35.6172),
            (2, 257, 181, 81.6170),
            (1, 257, 97, 162.1225),
            (1, 66, 33, 41.6685),
        ];
        for (p, active, logits, expected) in rows {
            assert!((gigaflops(p, active, logits) - expected).abs() < 5e-5, "{p} {active} {logits}");
        }
    }

    #[test]
    fn the_largest_sizes_do_not_wrap() {
        let most = 1 << 20;
        let config = ModelConfig {
            layers: 1024,
            width: most,
            hidden: most,
            tokens: most,
            ..ModelConfig::preset(Preset::L)
        };
        config.validate().unwrap();
        let forward = Forward { active: most, context: most, logits: most };
        assert_eq!(forward_flops(&config, config.full(), forward), u64::MAX);
    }

    #[test]
    fn cache_of_the_full_model() {
        let config = ModelConfig::preset(Preset::L);
        assert_eq!(cache_bytes(&config, config.full(), 257, 4), 2 * 24 * 257 * 1024 * 4);
        assert_eq!(cache_bytes(&config, config.sub_model(8).unwrap(), 100, 2), 2 * 24 * 100 * 128 * 2);
    }
}
