//! Which format a file of tensors has.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use crate::{Error, TensorMap, flax, safetensors, torch};

/// What a file's first bytes tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// A header in JSON, then the tensors.
    Safetensors,
    /// PyTorch's `torch.save`.
    Torch,
    /// MessagePack as Flax writes it.
    Flax,
    /// JSON alone, which is no checkpoint.
    Json,
}

impl Format {
    /// The bytes at the start of a file that [`Format::of`] looks at.
    const START: usize = 9;

    /// What is no other format is taken for PyTorch's, whose reader then says what is wrong.
    fn of(start: &[u8]) -> Self {
        match start {
            // A zip begins with its first file, or with its end if it has none; two letters may be the length of a header.
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Self::Torch,
            // Eight bytes of length, which is below 2^32, then an object. In a map of MessagePack that byte may be a number.
            [_, _, _, _, 0, 0, 0, 0, b'{', ..] => Self::Safetensors,
            // A pickle begins with its protocol, which as MessagePack would be an empty map and a number.
            [0x80, 2..=5, ..] => Self::Torch,
            // The maps of MessagePack.
            [0x80..=0x8f | 0xde | 0xdf, ..] => Self::Flax,
            [b'{', ..] => Self::Json,
            _ => Self::Torch,
        }
    }
}

/// Fails where there is something else than a file, which would give its bytes once, or none.
pub(crate) fn check_file(path: &Path) -> Result<(), Error> {
    let there = fs::metadata(path).map_err(Error::io(path))?;
    if there.is_file() {
        return Ok(());
    }
    let got = if there.is_dir() { "a folder" } else { "a pipe or a device" };
    Err(Error::Place { path: path.into(), expected: "a file, which is read in places", got: got.into() })
}

/// What is said of JSON in the place of tensors.
pub(crate) fn of_several_files(path: &Path) -> Error {
    let reason = "it is JSON, as the index of a checkpoint in several files is \
                  (model.safetensors.index.json); only a file that holds all tensors itself is read";
    Error::Format { path: path.into(), format: "safetensors", reason: reason.into() }
}

/// Reads all tensors of a checkpoint: safetensors, what PyTorch's `torch.save` writes, or Flax's MessagePack, told by the
/// file's first bytes. Arrays of NumPy are not one:
/// [`npz::Archive`](crate::npz::Archive) reads those.
pub fn read(path: &Path) -> Result<TensorMap, Error> {
    check_file(path)?;
    let mut start = Vec::with_capacity(Format::START);
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(Format::START as u64).read_to_end(&mut start).map_err(Error::io(path))?;
    match Format::of(&start) {
        Format::Safetensors => safetensors::read(path),
        Format::Torch => torch::read(path),
        Format::Flax => flax::read(path),
        Format::Json => Err(of_several_files(path)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn first_bytes_tell_the_format() {
        for (start, format) in [
            (&b"PK\x03\x04"[..], Format::Torch),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9", Format::Torch),
            (b"PK\x05\x06", Format::Torch),
            (b"\x88\0\0\0\0\0\0\0{\"a\"", Format::Safetensors),
            // A header of 0x4b50 bytes.
            (b"PK\0\0\0\0\0\0{\"a\"", Format::Safetensors),
            (b"\x81\xa6params", Format::Flax),
            (b"\xde\0\x10\xa1a", Format::Flax),
            // Its first entry is the step, 379.
            (b"\x82\xa4step\xcd\x01\x7b\xa6params", Format::Flax),
            (b"", Format::Torch),
        ] {
            assert_eq!(Format::of(start), format, "{start:?}");
        }
    }

    #[test]
    fn every_format_is_read() {
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/maskgit-vqgan");
        for file in ["subset.bin", "subset.msgpack", "case.safetensors"] {
            assert!(!read(&golden.join(file)).unwrap().is_empty(), "{file}");
        }
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("notes.txt");
        fs::write(&text, "no tensors").unwrap();
        assert!(read(&text).unwrap_err().to_string().contains("notes.txt"));
        let index = folder.path().join("model.safetensors.index.json");
        fs::write(&index, "{\n  \"metadata\": {\"total_size\": 8},\n  \"weight_map\": {}\n}\n").unwrap();
        let error = read(&index).unwrap_err().to_string();
        assert!(error.contains("index.json") && error.contains("several files"), "{error}");
        let arrays = folder.path().join("statistics.npz");
        let mut writer = crate::npz::Writer::new(File::create(&arrays).unwrap(), &arrays);
        writer.values("mu", &[2], &[0.0, 1.0]).unwrap();
        writer.finish().unwrap();
        let error = read(&arrays).unwrap_err().to_string();
        assert!(error.contains("statistics.npz") && error.contains("NumPy's arrays"), "{error}");
        assert!(read(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
    }
}
