use crate::attention::KeysValues;

/// Keys and values of a growing prefix of positions, for every block.
///
/// It holds no policy: what to keep and when to drop it is the caller's.
#[derive(Debug, Clone)]
pub struct KvCache {
    blocks: Vec<KeysValues>,
    length: usize,
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

    pub(crate) fn block(&self, index: usize) -> &KeysValues {
        &self.blocks[index]
    }
}

/// Keys and values of a whole context, as one forward leaves them: cached positions first, then the active ones
/// in the order in which they were given.
#[derive(Debug)]
pub struct Fresh {
    pub(crate) blocks: Vec<KeysValues>,
    pub(crate) length: usize,
}

impl Fresh {
    /// Positions of the context.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the context is empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Keeps the first `length` positions of the context (at most all) and drops the rest.
    pub fn keep(self, length: usize) -> KvCache {
        let length = length.min(self.length);
        KvCache { blocks: self.blocks.iter().map(|block| block.prefix(length)).collect(), length }
    }
}
