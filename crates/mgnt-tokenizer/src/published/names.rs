//! Every tensor of a tokenizer, by each of its names.

use crate::Shortcut;

/// Who names the tensors, and how a kernel lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Paths in our modules joined with `.`; kernels `[outputs, inputs, ..]`.
    Ours,
    /// Flax tree paths joined with `/`; kernels `[.., inputs, outputs]`.
    Flax,
    /// The PyTorch port; kernels `[outputs, inputs, ..]`.
    Port,
}

/// What the tensors of a tokenizer follow from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Axes of a kernel: 2 for pictures, 3 for videos.
    pub axes: usize,
    pub filters: usize,
    pub multipliers: Vec<usize>,
    pub encoder_blocks: usize,
    pub decoder_blocks: usize,
    pub embedding: usize,
    pub codes: usize,
    pub shortcut: Shortcut,
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Entry {
    ours: String,
    flax: String,
    port: String,
    /// As we and the port have it.
    shape: Vec<usize>,
}

impl Entry {
    pub fn name(&self, naming: Naming) -> &str {
        match naming {
            Naming::Ours => &self.ours,
            Naming::Flax => &self.flax,
            Naming::Port => &self.port,
        }
    }

    pub fn shape(&self, naming: Naming) -> Vec<usize> {
        match (naming, self.shape.as_slice()) {
            (Naming::Flax, [outputs, inputs, kernel @ ..]) if self.is_kernel() => {
                [kernel, &[*inputs, *outputs]].concat()
            }
            (_, shape) => shape.to_vec(),
        }
    }

    pub fn is_kernel(&self) -> bool {
        self.shape.len() > 2
    }
}

/// The tensors of a tokenizer. Flax numbers modules in the order of their use, over all levels.
pub(super) fn entries(sizes: &Sizes) -> Vec<Entry> {
    let mut list = List { axes: sizes.axes, shortcut: sizes.shortcut, entries: Vec::new() };
    let levels = sizes.multipliers.len();
    let width = |level: usize| sizes.filters * sizes.multipliers[level];
    let deepest = width(levels - 1);

    list.conv(["encoder.conv_in", "encoder/Conv_0", "encoder.conv_in"], [3, sizes.filters], 3, false);
    let (mut number, mut last) = (0, sizes.filters);
    for level in 0..levels {
        for i in 0..sizes.encoder_blocks {
            let port = format!("encoder.down.{level}.block.{i}");
            list.block(
                format!("encoder.levels.{level}.{i}"),
                flax_block("encoder", number),
                port,
                [last, width(level)],
            );
            (number, last) = (number + 1, width(level));
        }
    }
    for i in 0..sizes.encoder_blocks {
        let names =
            (format!("encoder.middle.{i}"), flax_block("encoder", number + i), format!("encoder.mid.{i}"));
        list.block(names.0, names.1, names.2, [deepest, deepest]);
    }
    list.norm(["encoder.norm_out", "encoder/GroupNorm_0", "encoder.norm_out"], deepest);
    list.conv(
        ["encoder.conv_out", "encoder/Conv_1", "encoder.conv_out"],
        [deepest, sizes.embedding],
        1,
        true,
    );

    list.conv(["decoder.conv_in", "decoder/Conv_0", "decoder.conv_in"], [sizes.embedding, deepest], 3, true);
    for i in 0..sizes.decoder_blocks {
        let names = (format!("decoder.middle.{i}"), flax_block("decoder", i), format!("decoder.mid.{i}"));
        list.block(names.0, names.1, names.2, [deepest, deepest]);
    }
    let (mut number, mut last) = (sizes.decoder_blocks, deepest);
    for level in (0..levels).rev() {
        for i in 0..sizes.decoder_blocks {
            let port = format!("decoder.up.{level}.block.{i}");
            list.block(
                format!("decoder.levels.{level}.{i}"),
                flax_block("decoder", number),
                port,
                [last, width(level)],
            );
            (number, last) = (number + 1, width(level));
        }
        if level > 0 {
            let names = [
                &format!("decoder.upsampled.{}", level - 1),
                &format!("decoder/Conv_{}", levels - level),
                &format!("decoder.up.{level}.upsample_conv"),
            ];
            list.conv(names.map(String::as_str), [last, last], 3, true);
        }
    }
    list.norm(["decoder.norm_out", "decoder/GroupNorm_0", "decoder.norm_out"], last);
    list.conv(
        ["decoder.conv_out", &format!("decoder/Conv_{levels}"), "decoder.conv_out"],
        [last, 3],
        3,
        true,
    );

    let codebook = ["quantizer.codebook", "quantizer/codebook", "quantize.embedding.weight"];
    list.tensor(codebook, &[sizes.codes, sizes.embedding]);
    list.entries
}

fn flax_block(part: &str, number: usize) -> String {
    format!("{part}/ResBlock_{number}")
}

struct List {
    axes: usize,
    shortcut: Shortcut,
    entries: Vec<Entry>,
}

impl List {
    /// Names are ours, Flax's, the port's.
    fn tensor(&mut self, [ours, flax, port]: [&str; 3], shape: &[usize]) {
        let (ours, flax, port) = (ours.to_owned(), flax.to_owned(), port.to_owned());
        self.entries.push(Entry { ours, flax, port, shape: shape.to_vec() });
    }

    fn part(&mut self, [ours, flax, port]: [&str; 3], parts: [&str; 3], shape: &[usize]) {
        let (ours, flax) = (format!("{ours}.{}", parts[0]), format!("{flax}/{}", parts[1]));
        self.tensor([&ours, &flax, &format!("{port}.{}", parts[2])], shape);
    }

    fn conv(&mut self, names: [&str; 3], [inputs, outputs]: [usize; 2], kernel: usize, bias: bool) {
        let shape = [vec![outputs, inputs], vec![kernel; self.axes]].concat();
        self.part(names, ["weight", "kernel", "weight"], &shape);
        if bias {
            self.part(names, ["bias"; 3], &[outputs]);
        }
    }

    fn norm(&mut self, names: [&str; 3], width: usize) {
        self.part(names, ["gamma", "scale", "weight"], &[width]);
        self.part(names, ["beta", "bias", "bias"], &[width]);
    }

    fn block(&mut self, ours: String, flax: String, port: String, [inputs, outputs]: [usize; 2]) {
        let within = |parts: [&str; 3]| {
            [format!("{ours}.{}", parts[0]), format!("{flax}/{}", parts[1]), format!("{port}.{}", parts[2])]
        };
        let norm1 = within(["norm1", "GroupNorm_0", "norm1"]);
        self.norm(norm1.each_ref().map(String::as_str), inputs);
        let conv1 = within(["conv1", "Conv_0", "conv1"]);
        self.conv(conv1.each_ref().map(String::as_str), [inputs, outputs], 3, false);
        let norm2 = within(["norm2", "GroupNorm_1", "norm2"]);
        self.norm(norm2.each_ref().map(String::as_str), outputs);
        let conv2 = within(["conv2", "Conv_1", "conv2"]);
        self.conv(conv2.each_ref().map(String::as_str), [outputs, outputs], 3, false);
        if inputs != outputs {
            let inputs = match self.shortcut {
                Shortcut::Published => outputs,
                Shortcut::Input => inputs,
            };
            let shortcut = within(["shortcut", "Conv_2", "nin_shortcut"]);
            self.conv(shortcut.each_ref().map(String::as_str), [inputs, outputs], 1, false);
        }
    }
}
