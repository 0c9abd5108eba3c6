//! Writes pickles for tests.

/// A pickle that grows.
pub(super) struct Assembler {
    bytes: Vec<u8>,
}

impl Assembler {
    pub(super) fn new() -> Self {
        Self { bytes: b"\x80\x02".to_vec() }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn op(&mut self, opcodes: &[u8]) -> &mut Self {
        self.bytes.extend(opcodes);
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }

    pub(super) fn integer(&mut self, value: i64) -> &mut Self {
        self.op(b"\x8a\x08").op(&value.to_le_bytes())
    }

    fn integers(&mut self, values: &[i64]) -> &mut Self {
        self.op(b"(");
        for &value in values {
            self.integer(value);
        }
        self.op(b"t")
    }

    fn storage(&mut self, key: &str, count: i64) -> &mut Self {
        self.op(b"(")
            .text("storage")
            .op(b"ctorch\nFloatStorage\n")
            .text(key)
            .text("cpu")
            .integer(count)
            .op(b"tQ")
    }

    /// A tensor of f32 as `torch.save` writes it.
    pub(super) fn tensor(
        &mut self,
        key: &str,
        count: i64,
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> &mut Self {
        self.op(b"ctorch._utils\n_rebuild_tensor_v2\n(").storage(key, count).integer(offset);
        self.integers(shape).integers(strides).op(b"\x89ccollections\nOrderedDict\n)RtR")
    }

    /// A tensor whose sizes and strides are what these opcodes make.
    pub(super) fn tensor_of_sizes(&mut self, key: &str, sizes: &[u8]) -> &mut Self {
        self.op(b"ctorch._utils\n_rebuild_tensor_v2\n(").storage(key, 1).integer(0);
        self.op(sizes).op(sizes).op(b"\x89ccollections\nOrderedDict\n)RtR")
    }
}
