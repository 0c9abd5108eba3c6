//! Tensors as PyTorch keeps them: a view of a storage with an offset and strides.

use std::borrow::Cow;

use crate::DType;
use crate::limits::Reason;

/// A run of values in the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// The entry `data/<key>` that has it.
    pub(super) key: &'a str,
    pub(super) dtype: DType,
    /// Number of values.
    pub(super) count: usize,
}

/// A view of a storage; offset and strides count values.
#[derive(Debug, Clone)]
pub(super) struct StridedTensor<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

impl StridedTensor<'_> {
    /// Number of bytes of the contiguous tensor, if every value lies inside the storage.
    pub(super) fn bytes(&self) -> Result<usize, Reason> {
        let Self { storage, offset, shape, strides } = self;
        if shape.len() != strides.len() {
            return Err(format!("shape {shape:?} and strides {strides:?} differ in length"));
        }
        let outside = || {
            format!(
                "shape {shape:?}, strides {strides:?} and offset {offset} reach outside its storage of {} values",
                storage.count
            )
        };
        let bytes = storage.dtype.bytes_of(shape).ok_or_else(outside)?;
        if bytes == 0 {
            return Ok(0);
        }
        let last = shape
            .iter()
            .zip(strides)
            .try_fold(*offset, |last, (&length, &stride)| last.checked_add(stride.checked_mul(length - 1)?));
        match last {
            Some(last) if last < storage.count => Ok(bytes),
            _ => Err(outside()),
        }
    }

    /// The contiguous values, from those of the storage; an owned storage is kept where it is the tensor.
    pub(super) fn contiguous(&self, storage: Cow<'_, [u8]>) -> Result<Vec<u8>, Reason> {
        let length = self.checked_against(&storage)?;
        if length == 0 {
            return Ok(Vec::new());
        }
        if self.is_contiguous() {
            // The whole storage has just as many bytes, so it starts at 0 too.
            if length == storage.len() {
                return Ok(storage.into_owned());
            }
            let start = self.offset * self.storage.dtype.size();
            return Ok(storage[start..start + length].to_vec());
        }
        let mut out = Vec::with_capacity(length);
        self.gather(0, self.offset, &storage, &mut out);
        Ok(out)
    }

    fn checked_against(&self, storage: &[u8]) -> Result<usize, Reason> {
        let length = self.bytes()?;
        match self.storage.dtype.bytes_of(&[self.storage.count]) {
            Some(needed) if needed == storage.len() => Ok(length),
            _ => Err(format!(
                "its storage should have {} values of {:?} but has {} bytes",
                self.storage.count,
                self.storage.dtype,
                storage.len()
            )),
        }
    }

    /// Whether the values follow each other; asked of tensors that have any.
    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&length, &stride)| {
            let fits = length == 1 || stride == expected;
            // Cannot overflow: the product of all was checked with the number of bytes.
            expected *= length;
            fits
        })
    }

    fn gather(&self, dimension: usize, at: usize, storage: &[u8], out: &mut Vec<u8>) {
        let Some(&length) = self.shape.get(dimension) else {
            let size = self.storage.dtype.size();
            out.extend_from_slice(&storage[at * size..(at + 1) * size]);
            return;
        };
        for i in 0..length {
            self.gather(dimension + 1, at + i * self.strides[dimension], storage, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(count: usize, offset: usize, shape: &[usize], strides: &[usize]) -> StridedTensor<'static> {
        let storage = Storage { key: "0", dtype: DType::U8, count };
        StridedTensor { storage, offset, shape: shape.to_vec(), strides: strides.to_vec() }
    }

    #[test]
    fn strides_are_followed() {
        let storage: Vec<u8> = (0..12).collect();
        let copy = |offset, shape: &[usize], strides: &[usize]| {
            tensor(12, offset, shape, strides).contiguous(Cow::Borrowed(&storage)).unwrap()
        };
        assert_eq!(copy(0, &[3, 4], &[4, 1]), storage);
        assert_eq!(copy(0, &[4, 3], &[1, 4]), [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]);
        assert_eq!(copy(2, &[2, 2], &[4, 1]), [2, 3, 6, 7]);
        assert_eq!(copy(5, &[3, 2], &[0, 1]), [5, 6, 5, 6, 5, 6]);
        assert_eq!(copy(4, &[1, 2, 1], &[99, 1, 77]), [4, 5]);
        assert_eq!(copy(11, &[], &[]), [11]);
        assert_eq!(copy(500, &[0, 3], &[3, 1]), [0; 0]);
        assert_eq!(tensor(12, 0, &[12], &[1]).contiguous(storage.clone().into()).unwrap(), storage);
        assert_eq!(tensor(12, 1, &[11], &[1]).contiguous(storage.clone().into()).unwrap(), storage[1..]);
        assert_eq!(copy(0, &[0, usize::MAX, usize::MAX], &[1, 1, 1]), [0; 0]);
    }

    #[test]
    fn values_outside_the_storage_are_refused() {
        let storage = [0; 12];
        for (offset, shape, strides) in [
            (1, &[3, 4][..], &[4, 1][..]),
            (12, &[], &[]),
            (0, &[2], &[12]),
            (0, &[2], &[usize::MAX]),
            (usize::MAX, &[2], &[1]),
            (0, &[usize::MAX, 2], &[0, 0]),
            (0, &[3], &[1, 1]),
        ] {
            let tensor = tensor(12, offset, shape, strides);
            assert!(tensor.contiguous(Cow::Borrowed(&storage)).is_err(), "{tensor:?}");
        }
        assert!(
            tensor(13, 0, &[1], &[1]).contiguous(Cow::Borrowed(&storage)).unwrap_err().contains("12 bytes")
        );
    }
}
