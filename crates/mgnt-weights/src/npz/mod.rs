//! NumPy's archives (`.npz`): a zip of arrays, each an `.npy` file.
//!
//! [`Archive`] opens one array at a time, whole or in pieces, so that no more is held than was asked for: a caller
//! says which shape it expects, and nothing is allocated before that is what the file has. [`Writer`] writes what
//! `numpy.savez` would. The bytes are not trusted: types are numbers only, and lengths are compared before values
//! are read.

mod header;
mod writer;

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config, ZipFile};

use crate::limits::{Reason, quoted, shown};
use crate::{DType, Error, NamedTensor};
use header::Header;
pub use writer::Writer;

const FORMAT: &str = "npz";
/// Bytes that deflate makes of one, at most (zlib, "Technical Details").
const MOST_INFLATED: u64 = 1032;

/// An archive, open for reading.
#[derive(Debug)]
pub struct Archive<R> {
    zip: ZipArchive<R>,
    path: PathBuf,
    /// Bytes of the whole archive.
    length: u64,
}

impl Archive<BufReader<File>> {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::new(BufReader::new(File::open(path).map_err(Error::io(path))?), path)
    }
}

impl<R: Read + Seek> Archive<R> {
    /// Opens what a reader gives; `path` is for errors only.
    pub fn new(mut reader: R, path: &Path) -> Result<Self, Error> {
        let length = reader.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        let config = Config { archive_offset: ArchiveOffset::Known(0) };
        let zip = ZipArchive::with_config(config, reader).map_err(|e| {
            refused(path, format!("not a zip archive that can be read: {}", shown(&e.to_string())))
        })?;
        if zip.has_duplicate_names() {
            return Err(refused(path, "two arrays have the same name".into()));
        }
        Ok(Self { zip, path: path.into(), length })
    }

    /// Whether there is an array of that name.
    pub fn has(&self, name: &str) -> bool {
        self.zip.index_for_name_raw(entry_name(name).as_bytes()).is_some()
    }

    /// The array of that name; its values are not read yet.
    pub fn array(&mut self, name: &str) -> Result<Array<'_, R>, Error> {
        let (path, length) = (self.path.clone(), self.length);
        let fail = |reason: Reason| refused(&path, format!("array {}: {reason}", quoted(name)));
        let index = self.zip.index_for_name_raw(entry_name(name).as_bytes());
        let index = index.ok_or_else(|| fail("the archive does not have it".into()))?;
        let mut entry = self.zip.by_index(index).map_err(|e| fail(shown(&e.to_string())))?;
        let header = Header::read(&mut entry).map_err(fail)?;
        let expected = header.bytes().map_err(fail)?;
        if header.length.checked_add(expected) != Some(entry.size()) {
            let got = entry.size().saturating_sub(header.length);
            let shape = &header.shape;
            return Err(fail(format!("shape {shape:?} needs {expected} bytes of values, got {got}")));
        }
        // Whoever makes room by the shape makes it for what may be there.
        let packed = entry.compressed_size().min(length);
        if entry.size() > packed.saturating_mul(MOST_INFLATED) {
            return Err(fail(format!(
                "shape {:?} needs {expected} bytes of values, of {packed} packed",
                header.shape
            )));
        }
        Ok(Array { entry, header, name: name.into(), left: expected, path })
    }
}

fn entry_name(name: &str) -> String {
    format!("{name}.npy")
}

fn refused(path: &Path, reason: Reason) -> Error {
    Error::Format { path: path.into(), format: FORMAT, reason }
}

/// An array of an archive, read from front to back.
pub struct Array<'a, R: Read> {
    entry: ZipFile<'a, R>,
    header: Header,
    name: String,
    left: u64,
    path: PathBuf,
}

impl<R: Read> Array<'_, R> {
    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.header.dtype
    }

    /// Length of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.header.shape
    }

    /// The whole array, if it has this shape; one whose first index runs fastest is turned around.
    pub fn read(mut self, shape: &[usize]) -> Result<NamedTensor, Error> {
        if self.shape() != shape {
            let got = self.shape().to_vec();
            return Err(Error::Shape { name: self.name, expected: shape.to_vec(), got });
        }
        let length = usize::try_from(self.left).map_err(|_| self.fail("too large".into()))?;
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        let Self { header, name, .. } = self;
        if !header.fortran {
            return NamedTensor::new(&name, header.dtype, header.shape, bytes);
        }
        let reversed: Vec<usize> = header.shape.iter().rev().copied().collect();
        let axes: Vec<usize> = (0..reversed.len()).rev().collect();
        NamedTensor::new(&name, header.dtype, reversed, bytes)?.permuted(&name, &axes)
    }

    /// The next `bytes.len()` bytes of the values. An array whose first index runs fastest cannot be read in pieces.
    pub fn next(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        if self.header.fortran && self.shape().len() > 1 {
            return Err(
                self.fail("its first index runs fastest (Fortran order), which is not read in pieces".into())
            );
        }
        self.fill(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.left = (self.left.checked_sub(bytes.len() as u64))
            .ok_or_else(|| self.fail(format!("{} bytes are left, not {}", self.left, bytes.len())))?;
        self.entry.read_exact(bytes).map_err(|e| self.fail(shown(&e.to_string())))?;
        // At the end the checksum is compared.
        match self.left {
            0 => match self.entry.read(&mut [0]) {
                Ok(0) => Ok(()),
                Ok(_) => Err(self.fail("it has more values than its shape".into())),
                Err(e) => Err(self.fail(shown(&e.to_string()))),
            },
            _ => Ok(()),
        }
    }

    fn fail(&self, reason: Reason) -> Error {
        refused(&self.path, format!("array {}: {reason}", quoted(&self.name)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use zip::CompressionMethod;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/npz").join(name)
    }

    fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, content) in entries {
            let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
            zip.start_file(*name, stored).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap().into_inner()
    }

    fn refusal(bytes: &[u8], shape: &[usize]) -> String {
        let read = || Archive::new(Cursor::new(bytes), Path::new("x.npz"))?.array("a")?.read(shape);
        read().unwrap_err().to_string()
    }

    /// NumPy 2.4.6 wrote these two with `savez` and `savez_compressed`: the same arrays of every type and order.
    #[test]
    fn what_numpy_wrote() {
        for name in ["numpy.npz", "numpy_compressed.npz"] {
            let mut archive = Archive::open(&golden(name)).unwrap();
            let mut values = |name: &str, shape: &[usize]| {
                let tensor = archive.array(name).unwrap().read(shape).unwrap();
                (tensor.dtype(), tensor.to_f64())
            };
            assert_eq!(values("mu", &[3]), (DType::F64, vec![1.5, -2.0, 0.25]));
            let sigma = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].to_vec();
            assert_eq!(values("sigma", &[2, 3]), (DType::F64, sigma.clone()));
            assert_eq!(values("sigma_fortran", &[2, 3]), (DType::F64, sigma));
            assert_eq!(values("single", &[2]), (DType::F32, vec![0.5, 8.0]));
            assert_eq!(values("labels", &[2]), (DType::I64, vec![7.0, -1.0]));
            assert_eq!(values("scalar", &[]), (DType::F64, vec![9.0]));
            assert_eq!(values("arr_0", &[2, 1, 2, 3]), (DType::U8, (0..12).map(f64::from).collect()));
            assert!(archive.has("mu") && !archive.has("sigma_s"));
            assert!(archive.array("sigma_s").err().unwrap().to_string().contains("`sigma_s`"));
            let error = archive.array("mu").unwrap().read(&[4]).unwrap_err().to_string();
            assert!(error.contains("expected shape [4], got [3]"), "{error}");
        }
    }

    #[test]
    fn pieces_of_an_array() {
        let mut archive = Archive::open(&golden("numpy_compressed.npz")).unwrap();
        let mut array = archive.array("arr_0").unwrap();
        let mut picture = [0; 6];
        array.next(&mut picture).unwrap();
        array.next(&mut picture).unwrap();
        assert_eq!(picture, [6, 7, 8, 9, 10, 11]);
        assert!(array.next(&mut picture).unwrap_err().to_string().contains("0 bytes are left"));
        drop(array);
        assert!(archive.array("sigma_fortran").unwrap().next(&mut [0; 8]).is_err());
    }

    #[test]
    fn what_is_written_is_what_was_given() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(Cursor::new(&mut bytes), Path::new("x.npz"));
        writer.values("mu", &[2], &[1.0, 2.0]).unwrap();
        writer.start("arr_0", DType::U8, &[2, 1, 1, 3]).unwrap();
        writer.write(&[1, 2, 3]).unwrap();
        writer.write(&[4, 5, 6]).unwrap();
        writer.finish().unwrap();
        let mut archive = Archive::new(Cursor::new(&bytes), Path::new("x.npz")).unwrap();
        assert_eq!(archive.array("mu").unwrap().read(&[2]).unwrap().to_f64(), [1.0, 2.0]);
        assert_eq!(archive.array("arr_0").unwrap().read(&[2, 1, 1, 3]).unwrap().bytes(), [1, 2, 3, 4, 5, 6]);
        let mut short = Writer::new(Cursor::new(Vec::new()), Path::new("x.npz"));
        short.start("arr_0", DType::U8, &[2]).unwrap();
        short.write(&[1]).unwrap();
        assert!(short.finish().unwrap_err().to_string().contains("1 bytes"));
    }

    #[test]
    fn lengths_that_do_not_agree_are_refused_before_anything_is_read() {
        let header = |shape: &[usize]| Header::bytes_of(DType::F64, shape);
        let short = zipped(&[("a.npy", &[header(&[3]), vec![0; 16]].concat())]);
        assert!(refusal(&short, &[3]).contains("shape [3] needs 24 bytes of values, got 16"));
        let huge = zipped(&[("a.npy", &header(&[1 << 40, 1 << 40]))]);
        assert!(refusal(&huge, &[1 << 40, 1 << 40]).contains("too large"));
        assert!(refusal(&zipped(&[("a.npy", b"hello")]), &[1]).contains("ends before"));
        assert!(refusal(&zipped(&[("a", b"hello")]), &[1]).contains("does not have it"));
        assert!(refusal(b"hello", &[1]).contains("not a zip"));
        let mut damaged = zipped(&[("a.npy", &[header(&[1]), vec![7; 8]].concat())]);
        let at = damaged.windows(8).position(|w| w == [7; 8]).unwrap();
        damaged[at] = 6;
        assert!(refusal(&damaged, &[1]).to_lowercase().contains("checksum"), "{}", refusal(&damaged, &[1]));
    }
}
