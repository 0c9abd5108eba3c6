//! What a caller may mix up, told before a backend stumbles over it, or computes something else of it.

use burn::tensor::{Int, Tensor};

use super::NestedTransformer;
use crate::{KvCache, SubModel};

impl NestedTransformer {
    pub(super) fn check_length(&self, tokens: &Tensor<2, Int>) {
        let ([_, length], most) = (tokens.dims(), self.config.positions());
        let got = tokens.dims();
        assert!(length <= most, "tokens: expected shape [B, A] with A at most {most}, got {got:?}");
    }

    /// Of rows of the residual stream.
    pub(super) fn check_width<const D: usize>(&self, rows: [usize; D]) {
        let width = self.config.width;
        assert!(rows[D - 1] == width, "residual stream: expected width {width}, got shape {rows:?}");
    }

    pub(super) fn check_cached(
        &self,
        [tokens, positions]: [&Tensor<2, Int>; 2],
        cache: Option<&KvCache>,
        sub_model: SubModel,
    ) {
        let (shape, got) = (tokens.dims(), positions.dims());
        assert!(!shape.contains(&0), "tokens: expected shape [B, A], none of it 0, got {shape:?}");
        assert!(shape == got, "positions: expected shape {shape:?}, that of the tokens, got {got:?}");
        let Some(cache) = cache.filter(|cache| !cache.blocks.is_empty()) else { return };
        let (layers, of) = (self.blocks.len(), cache.blocks.len());
        assert!(layers == of, "cache: expected keys and values of {layers} blocks, got those of {of}");
        let expected = [shape[0], sub_model.heads(&self.config), self.config.head_width()];
        let [batch, heads, _, width] = cache.blocks[0].keys.dims();
        assert!(
            expected == [batch, heads, width],
            "cache: expected keys of {} samples, {} heads and head width {} ({sub_model}), got those of {batch}, {heads} and {width}",
            expected[0],
            expected[1],
            expected[2],
        );
    }
}
