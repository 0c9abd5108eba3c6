//! The sizes of a tokenizer, read off the shapes of its tensors.

use mgnt_weights::{Sizing, TensorMap};

use super::names::Sizes;
use crate::{Error, Shortcut};

/// Sizes of a Flax tokenizer for pictures (`axes` 2) or videos (3).
pub(super) fn of_flax(tensors: &TensorMap, axes: usize, shortcut: Shortcut) -> Result<Sizes, Error> {
    let mut reader = Reader(Sizing::new(tensors));
    let rank = axes + 2;
    // One convolution at either end of the decoder, and one for each level but the first.
    let levels = reader.numbered("decoder/Conv_").saturating_sub(1);
    let encoder_blocks = reader.blocks("encoder/ResBlock_", levels);
    let decoder_blocks = reader.blocks("decoder/ResBlock_", levels);
    let filters = reader.length("encoder/Conv_0/kernel", rank, rank - 1);
    let multipliers = (0..levels)
        .map(|level| {
            let name = format!("encoder/ResBlock_{}/Conv_0/kernel", level * encoder_blocks);
            reader.multiplier(&name, rank, rank - 1, filters)
        })
        .collect();
    let embedding = reader.length("encoder/Conv_1/kernel", rank, rank - 1);
    let codes = reader.length("quantizer/codebook", 2, 0);
    reader.end(Sizes {
        axes,
        filters,
        multipliers,
        encoder_blocks,
        decoder_blocks,
        embedding,
        codes,
        shortcut,
    })
}

/// Sizes of the PyTorch port's tokenizer.
pub(super) fn of_port(tensors: &TensorMap) -> Result<Sizes, Error> {
    let mut reader = Reader(Sizing::new(tensors));
    let levels = reader.numbered("decoder.up.");
    let encoder_blocks = reader.blocks("encoder.mid.", 0);
    let decoder_blocks = reader.blocks("decoder.mid.", 0);
    let filters = reader.length("encoder.conv_in.weight", 4, 0);
    let multipliers = (0..levels)
        .map(|level| reader.multiplier(&format!("encoder.down.{level}.block.0.conv1.weight"), 4, 0, filters))
        .collect();
    let embedding = reader.length("encoder.conv_out.weight", 4, 0);
    let codes = reader.length("quantize.embedding.weight", 2, 0);
    let shortcut = Shortcut::Published;
    reader.end(Sizes {
        axes: 2,
        filters,
        multipliers,
        encoder_blocks,
        decoder_blocks,
        embedding,
        codes,
        shortcut,
    })
}

struct Reader<'a>(Sizing<'a>);

impl Reader<'_> {
    /// One more than the highest number that follows `prefix` in a name; no more than there are tensors.
    fn numbered(&self, prefix: &str) -> usize {
        let numbers = self.0.tensors().iter().filter_map(|(name, _)| {
            let rest = name.strip_prefix(prefix)?;
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            rest[..digits].parse::<usize>().ok()
        });
        numbers.filter(|&number| number < self.0.tensors().len()).max().map_or(0, |number| number + 1)
    }

    /// Blocks a level, of blocks numbered over `levels` and the middle.
    fn blocks(&mut self, prefix: &str, levels: usize) -> usize {
        let (blocks, parts) = (self.numbered(prefix), levels + 1);
        if blocks == 0 || !blocks.is_multiple_of(parts) {
            let expected = if parts == 1 { "one at least".into() } else { format!("a multiple of {parts}") };
            self.0.problem(format!("  missing  {prefix}*: expected {expected}, got {blocks}"));
        }
        blocks / parts
    }

    fn length(&mut self, name: &str, rank: usize, axis: usize) -> usize {
        self.0.shape(name, rank)[axis]
    }

    fn multiplier(&mut self, name: &str, rank: usize, axis: usize, filters: usize) -> usize {
        let width = self.length(name, rank, axis);
        if filters == 0 || width.is_multiple_of(filters) {
            return width / filters.max(1);
        }
        self.0.problem(format!("  shape    {name}: expected a multiple of {filters} filters, got {width}"));
        0
    }

    fn end(self, sizes: Sizes) -> Result<Sizes, Error> {
        self.0.end()?;
        Ok(sizes)
    }
}
