//! The safetensors format, through the `safetensors` crate.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorView};

use crate::format::check_file;
use crate::limits::shown;
use crate::{DType, Error, NamedTensor, TensorMap, atomic};

const FORMAT: &str = "safetensors";

/// Reads all tensors of a file, one after the other: no more memory is held than the tensors need.
pub fn read(path: &Path) -> Result<TensorMap, Error> {
    check_file(path)?;
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (start, header) = {
        // SAFETY: only the header is looked at, and the map is dropped before anything else happens; as with every
        // memory map, whoever truncates the file in that moment brings the process down.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        header(&map, path)?
    };
    tensors(&header, path, |first, bytes| {
        file.seek(SeekFrom::Start((start + first) as u64))?;
        file.read_exact(bytes)
    })
}

/// Reads all tensors of a file's bytes; `path` is for errors only.
pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<TensorMap, Error> {
    let (start, header) = header(bytes, path)?;
    tensors(&header, path, |first, target| (&bytes[start + first..]).read_exact(target))
}

/// Where the data begins, and the header, which has been checked against the length of the whole.
fn header(bytes: &[u8], path: &Path) -> Result<(usize, Metadata), Error> {
    let invalid = |e: SafeTensorError| Error::Format {
        path: path.into(),
        format: FORMAT,
        reason: shown(&e.to_string()),
    };
    let (length, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
    Ok((size_of::<u64>() + length, header))
}

fn tensors(
    header: &Metadata,
    path: &Path,
    mut read: impl FnMut(usize, &mut [u8]) -> io::Result<()>,
) -> Result<TensorMap, Error> {
    let mut tensors = BTreeMap::new();
    for (name, info) in header.tensors() {
        let dtype = dtype_of(info.dtype).ok_or_else(|| Error::Unread {
            path: path.into(),
            name: shown(&name),
            got: format!("{:?}", info.dtype),
        })?;
        let (first, end) = info.data_offsets;
        let mut bytes = vec![0; end - first];
        read(first, &mut bytes).map_err(Error::io(path))?;
        let tensor = NamedTensor::new(&name, dtype, info.shape.clone(), bytes)?;
        tensors.insert(name, tensor);
    }
    let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
    Ok(TensorMap::from_parts(tensors, metadata))
}

/// Writes all tensors to a file, atomically. The same map gives the same bytes.
pub fn write(path: &Path, map: &TensorMap) -> Result<(), Error> {
    atomic::write_bytes(path, &to_bytes(map, path)?)
}

/// The bytes of a safetensors file; `path` is for errors only.
pub fn to_bytes(map: &TensorMap, path: &Path) -> Result<Vec<u8>, Error> {
    let invalid = |e: SafeTensorError| Error::Format {
        path: path.into(),
        format: FORMAT,
        reason: shown(&e.to_string()),
    };
    let views = map
        .iter()
        .map(|(name, t)| {
            TensorView::new(safetensors_dtype(t.dtype()), t.shape().to_vec(), t.bytes())
                .map(|view| (name, view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(invalid)?;
    let mut bytes = safetensors::serialize(views, None).map_err(invalid)?;
    if !map.metadata().is_empty() {
        let free = serde_json::to_string(map.metadata()).map_err(|e| Error::Format {
            path: path.into(),
            format: FORMAT,
            reason: e.to_string(),
        })?;
        add_metadata(&mut bytes, &free);
    }
    Ok(bytes)
}

/// Puts the free text into the header. The `safetensors` crate would write it in the order of a hash map, which is
/// another one in every process.
fn add_metadata(bytes: &mut Vec<u8>, free: &str) {
    let (length, rest) = bytes.split_at(size_of::<u64>());
    let length = length.iter().rev().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    let entries = rest[1..length].trim_ascii_end();
    let comma = if entries == b"}" { "" } else { "," };
    let mut header = [format!("{{\"__metadata__\":{free}{comma}").as_bytes(), entries].concat();
    // Data begins at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let start = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    bytes.splice(..size_of::<u64>() + length, start);
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        // A byte of 0 or 1, as in the other formats.
        Dtype::U8 | Dtype::BOOL => DType::U8,
        Dtype::U16 => DType::U16,
        Dtype::U32 => DType::U32,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        _ => return None,
    })
}

fn safetensors_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::U8 => Dtype::U8,
        DType::U16 => Dtype::U16,
        DType::U32 => Dtype::U32,
        DType::I8 => Dtype::I8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::I64 => Dtype::I64,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TensorMap {
        let mut map = TensorMap::new();
        map.insert_f32("a/b", &[2, 2], &[1.0, -2.0, 3.5, f32::MIN]).unwrap();
        map.insert_i32("tokens", &[3], &[-1, 0, 9]).unwrap();
        map.set_metadata("kind", "test");
        map
    }

    #[test]
    fn round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write(&path, &sample()).unwrap();
        assert_eq!(read(&path).unwrap(), sample());
    }

    #[test]
    fn free_text_is_in_order_and_data_begins_at_a_multiple_of_eight() {
        let path = Path::new("x");
        for mut map in [sample(), TensorMap::new()] {
            for (key, value) in [("z", "last"), ("a", "first \"quoted\""), ("m", "")] {
                map.set_metadata(key, value);
            }
            let bytes = to_bytes(&map, path).unwrap();
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(length.is_multiple_of(8));
            let text = String::from_utf8_lossy(&bytes[8..]);
            let at = |key: &str| text.find(&format!("\"{key}\":")).unwrap();
            assert!(at("a") < at("m") && at("m") < at("z"));
            assert_eq!(from_bytes(&bytes, path).unwrap(), map);
        }
    }

    #[test]
    fn integers_of_all_widths_are_read_and_other_types_are_named() {
        let file = |of: Dtype, bytes: &[u8]| {
            let view = TensorView::new(of, vec![2], bytes).unwrap();
            let bytes = safetensors::serialize([("x", view)], None).unwrap();
            from_bytes(&bytes, Path::new("f")).map(|map| {
                let x = map.get("x").unwrap();
                (x.dtype(), x.to_i64().unwrap())
            })
        };
        assert_eq!(file(Dtype::I8, &[5, 0xfe]).unwrap(), (DType::I8, vec![5, -2]));
        assert_eq!(file(Dtype::I16, &[0, 1, 0xff, 0xff]).unwrap(), (DType::I16, vec![256, -1]));
        assert_eq!(file(Dtype::U32, &[1, 0, 0, 0, 0, 0, 0, 0x80]).unwrap(), (DType::U32, vec![1, 1 << 31]));
        let error = file(Dtype::U64, &[0; 16]).unwrap_err().to_string();
        assert_eq!(error, "f: tensor `x` has the type U64, which is not read");
    }

    #[test]
    fn a_missing_file_and_a_folder_are_named() {
        let error = read(Path::new("no/such.safetensors")).unwrap_err().to_string();
        assert!(error.starts_with("no/such.safetensors: "), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with(": expected a file, which is read in places, got a folder"), "{error}");
    }
}
