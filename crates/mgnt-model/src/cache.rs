use crate::attention::KeysValues;

/// Keys and values of a growing prefix of positions, for every block.
///
/// It holds no policy: what to keep and when to drop it is the caller's.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(crate) blocks: Vec<KeysValues>,
    pub(crate) length: usize,
}

impl KvCache {
    /// Positions held, the class token among them.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of the keys and values held, by the shapes and type of their tensors.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(KeysValues::bytes).sum()
    }

    pub(crate) fn block(&self, index: usize) -> &KeysValues {
        &self.blocks[index]
    }
}
