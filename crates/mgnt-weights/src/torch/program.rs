//! The bytes of a pickle, front to back.

use crate::limits::Reason;

/// Bytes and how far they are read.
#[derive(Debug)]
pub(super) struct Program<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Program<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Number of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Length of the whole pickle.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The text up to the end of the line.
    pub(super) fn line(&mut self) -> Result<&'a str, Reason> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').ok_or("a name does not end")?;
        let line = std::str::from_utf8(&rest[..length]).map_err(|_| "a name is not UTF-8")?;
        self.at += length + 1;
        Ok(line)
    }

    /// The next byte.
    pub(super) fn byte(&mut self) -> Result<u8, Reason> {
        self.array().map(|[byte]| byte)
    }

    /// The next two bytes as a number.
    pub(super) fn u16(&mut self) -> Result<u16, Reason> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next four bytes as a length.
    pub(super) fn u32(&mut self) -> Result<usize, Reason> {
        self.array().map(|bytes| u32::from_le_bytes(bytes) as usize)
    }

    /// The next eight bytes as a length.
    pub(super) fn u64(&mut self) -> Result<usize, Reason> {
        usize::try_from(u64::from_le_bytes(self.array()?)).map_err(|_| "a length is too large".into())
    }

    /// An integer of up to 255 bytes behind its length; none if it has more than 64 bits.
    pub(super) fn long(&mut self) -> Result<Option<i64>, Reason> {
        let length = self.byte()?;
        let bytes = self.take(length.into())?;
        let mut wide = [if bytes.last().is_some_and(|&high| high >= 0x80) { 0xff } else { 0 }; 8];
        let Some(low) = wide.get_mut(..bytes.len()) else { return Ok(None) };
        low.copy_from_slice(bytes);
        Ok(Some(i64::from_le_bytes(wide)))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Reason> {
        self.take(N)?.try_into().map_err(|_| "cut short".into())
    }

    /// The next bytes, if there are as many.
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Reason> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or_else(|| format!("cut short: {} bytes are left", rest.len()))?;
        self.at += length;
        Ok(taken)
    }
}
