use burn::tensor::{DType, Device, Tensor, s};

/// Keys and values of one block, each `[B, heads, positions, head width]`.
#[derive(Debug, Clone)]
pub(crate) struct KeysValues {
    pub keys: Tensor<4>,
    pub values: Tensor<4>,
}

impl KeysValues {
    /// Buffers that nothing was written to.
    pub fn zeros(shape: [usize; 4], device: &Device, dtype: DType) -> Self {
        let zeros = || Tensor::zeros(shape, (device, dtype));
        Self { keys: zeros(), values: zeros() }
    }

    /// Buffers that hold anything.
    pub fn unwritten(shape: [usize; 4], device: &Device, dtype: DType) -> Self {
        let empty = || Tensor::empty(shape, (device, dtype));
        Self { keys: empty(), values: empty() }
    }

    /// Bytes of both.
    fn bytes(&self) -> u64 {
        let bytes = |t: &Tensor<4>| (t.shape().num_elements() * t.dtype().size()) as u64;
        bytes(&self.keys) + bytes(&self.values)
    }
}

/// Buffers of a block, and how much of them is valid.
pub(crate) struct Cached {
    pub buffer: KeysValues,
    /// Positions of the buffer that are valid: the first ones.
    pub length: usize,
}

impl Cached {
    /// The valid positions, then those of `fresh`, then `beyond` others that are finite.
    ///
    /// Where all of them fill the buffer, as in every iteration of a decode, the fresh ones are written into it, and
    /// nothing else is copied.
    pub fn followed_by(self, fresh: KeysValues, beyond: usize) -> KeysValues {
        let length = self.length;
        let join = |buffer: Tensor<4>, fresh: Tensor<4>| {
            let ([_, _, room, _], [batch, heads, new, width]) = (buffer.dims(), fresh.dims());
            let end = length + new;
            if end + beyond == room {
                return buffer.slice_assign(s![.., .., length..end, ..], fresh);
            }
            let (device, dtype) = (fresh.device(), fresh.dtype());
            let mut all = vec![buffer.slice(s![.., .., ..length, ..]), fresh];
            if beyond > 0 {
                all.push(Tensor::zeros([batch, heads, beyond, width], (&device, dtype)));
            }
            Tensor::cat(all, 2)
        };
        KeysValues {
            keys: join(self.buffer.keys, fresh.keys),
            values: join(self.buffer.values, fresh.values),
        }
    }
}

/// Keys and values of a growing prefix of positions, for every block.
///
/// Its buffers are those of the whole context of the forward that made it (on accelerators in whole rows,
/// [`whole_rows`](crate::compute::whole_rows)), of which the prefix is valid. The next
/// forward takes it by value and writes the rest anew: a decode that processes all that is not cached has one buffer a
/// block for as long as the size of the sub-model stays.
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

    /// Bytes of its buffers, by the shapes and type of their tensors.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(KeysValues::bytes).sum()
    }

    /// The parts of the blocks, in their order.
    pub(crate) fn into_blocks(self) -> impl Iterator<Item = Cached> {
        let length = self.length;
        self.blocks.into_iter().map(move |buffer| Cached { buffer, length })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn positions(numbers: &[f32]) -> KeysValues {
        let keys = Tensor::<1>::from_floats(numbers, &Device::flex()).reshape([1, 1, numbers.len(), 1]);
        KeysValues { values: keys.clone() * 10.0, keys }
    }

    #[test]
    fn fresh_positions_follow_the_valid_ones_whatever_the_buffer_holds() {
        for (fresh, beyond, all) in [
            (&[7.0, 8.0][..], 0, &[1.0, 2.0, 7.0, 8.0][..]),
            (&[7.0], 0, &[1.0, 2.0, 7.0]),
            (&[7.0, 8.0, 9.0], 0, &[1.0, 2.0, 7.0, 8.0, 9.0]),
            (&[7.0], 1, &[1.0, 2.0, 7.0, 4.0]),
            (&[7.0], 2, &[1.0, 2.0, 7.0, 0.0, 0.0]),
        ] {
            let cached = Cached { buffer: positions(&[1.0, 2.0, 3.0, 4.0]), length: 2 };
            let KeysValues { keys, values } = cached.followed_by(positions(fresh), beyond);
            let expected = positions(all);
            keys.into_data().assert_eq(&expected.keys.into_data(), true);
            values.into_data().assert_eq(&expected.values.into_data(), true);
        }
    }
}
