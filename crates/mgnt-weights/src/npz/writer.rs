use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

use zip::CompressionMethod;
use zip::write::{SimpleFileOptions, ZipWriter};

use super::header::Header;
use super::{entry_name, refused};
use crate::limits::quoted;
use crate::{DType, Error};

/// Writes arrays one after the other, not compressed, as `numpy.savez` does. The same arrays give the same bytes.
pub struct Writer<W: Write + Seek> {
    zip: ZipWriter<W>,
    path: PathBuf,
    /// Name of the array at hand, and bytes that it still lacks.
    open: Option<(String, u64)>,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts an archive; `path` is for errors only.
    pub fn new(writer: W, path: &Path) -> Self {
        Self { zip: ZipWriter::new(writer), path: path.into(), open: None }
    }

    /// Starts an array, whose values [`Self::write`] then gets, row by row: for brain floats, which NumPy does not have,
    /// those of `f32`.
    pub fn start(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<(), Error> {
        self.check_whole()?;
        let header = Header::bytes_of(dtype, shape);
        let values = Header::read(&mut header.as_slice())
            .and_then(|header| header.bytes())
            .map_err(|reason| refused(&self.path, format!("array {}: {reason}", quoted(name))))?;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(values + header.len() as u64 >= u64::from(u32::MAX));
        self.zip.start_file(entry_name(name), options).map_err(|e| refused(&self.path, e.to_string()))?;
        self.zip.write_all(&header).map_err(Error::io(&self.path))?;
        self.open = Some((name.into(), values));
        Ok(())
    }

    /// Adds values to the array at hand: little-endian bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let left = self.open.as_mut().map(|(_, left)| left);
        match left.and_then(|left| Some((left.checked_sub(bytes.len() as u64)?, left))) {
            Some((rest, left)) => *left = rest,
            None => return Err(refused(&self.path, "more values than the shape has".into())),
        }
        self.zip.write_all(bytes).map_err(Error::io(&self.path))
    }

    /// A whole array of doubles.
    pub fn values(&mut self, name: &str, shape: &[usize], values: &[f64]) -> Result<(), Error> {
        self.start(name, DType::F64, shape)?;
        values.chunks(1 << 13).try_for_each(|part| {
            let bytes: Vec<u8> = part.iter().flat_map(|value| value.to_le_bytes()).collect();
            self.write(&bytes)
        })
    }

    /// Writes the index.
    pub fn finish(self) -> Result<(), Error> {
        self.check_whole()?;
        let mut writer = self.zip.finish().map_err(|e| refused(&self.path, e.to_string()))?;
        writer.flush().map_err(Error::io(&self.path))
    }

    fn check_whole(&self) -> Result<(), Error> {
        match &self.open {
            Some((name, left)) if *left > 0 => {
                Err(refused(&self.path, format!("array {} still lacks {left} bytes", quoted(name))))
            }
            _ => Ok(()),
        }
    }
}
