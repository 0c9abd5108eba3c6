//! The header of an `.npy` array: a magic, a version, and a Python dictionary of three entries.

use std::io::Read;

use crate::DType;
use crate::limits::{MAX_RANK, Reason, shown};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy pads a header to a multiple of this.
const ALIGNMENT: usize = 64;
/// Longer than any header of numbers is.
const MAX_HEADER: usize = 4096;

/// What an array is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// The first index runs fastest.
    pub(super) fortran: bool,
    /// Bytes of the header itself.
    pub(super) length: u64,
}

impl Header {
    /// Number of bytes of the values.
    pub(super) fn bytes(&self) -> Result<u64, Reason> {
        let size = self.dtype.size() as u64;
        let bytes = self.shape.iter().try_fold(size, |n, &d| n.checked_mul(d as u64));
        bytes.ok_or_else(|| format!("shape {:?} is too large", self.shape))
    }

    /// Reads a header; what follows are the values.
    pub(super) fn read(reader: &mut impl Read) -> Result<Self, Reason> {
        let cut = |_| Reason::from("it ends before its header does");
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(cut)?;
        if !start.starts_with(MAGIC) {
            return Err("it does not start as a NumPy array does".into());
        }
        let (length, prefix) = match start[6] {
            1 => {
                let mut bytes = [0; 2];
                reader.read_exact(&mut bytes).map_err(cut)?;
                (usize::from(u16::from_le_bytes(bytes)), 10)
            }
            2 | 3 => {
                let mut bytes = [0; 4];
                reader.read_exact(&mut bytes).map_err(cut)?;
                (u32::from_le_bytes(bytes) as usize, 12)
            }
            version => return Err(format!("version {version} of the NumPy format is not read")),
        };
        if length > MAX_HEADER {
            return Err(format!("a header of {length} bytes is none of an array of numbers"));
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text).map_err(cut)?;
        let text = std::str::from_utf8(&text).map_err(|_| "its header is no text")?;
        let fields = Fields::parse(text)
            .ok_or_else(|| format!("its header is not that of an array of numbers: {}", shown(text)))?;
        let dtype = dtype_of(&fields.descr)
            .ok_or_else(|| format!("values of the type `{}` are not read", shown(&fields.descr)))?;
        if fields.shape.len() > MAX_RANK {
            return Err(format!("it has {} dimensions", fields.shape.len()));
        }
        Ok(Self { dtype, shape: fields.shape, fortran: fields.fortran, length: (prefix + length) as u64 })
    }

    /// The bytes that NumPy writes before the values of such an array, the last index fastest.
    pub(super) fn bytes_of(dtype: DType, shape: &[usize]) -> Vec<u8> {
        let mut sizes: String = shape.iter().map(|d| format!("{d}, ")).collect();
        if shape.len() > 1 {
            sizes.truncate(sizes.len() - 2);
        } else {
            sizes.truncate(sizes.trim_end().len());
        }
        let descr = descr_of(dtype);
        let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
        let unpadded = MAGIC.len() + 4 + text.len() + 1;
        text.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(ALIGNMENT) - unpadded));
        text.push('\n');
        [&MAGIC[..], &[1, 0], &(text.len() as u16).to_le_bytes(), text.as_bytes()].concat()
    }
}

fn dtype_of(descr: &str) -> Option<DType> {
    Some(match descr {
        // A byte of 0 or 1, as in the other formats.
        "|u1" | "|b1" => DType::U8,
        "<u2" => DType::U16,
        "<u4" => DType::U32,
        "|i1" => DType::I8,
        "<i2" => DType::I16,
        "<i4" => DType::I32,
        "<i8" => DType::I64,
        "<f2" => DType::F16,
        "<f4" => DType::F32,
        "<f8" => DType::F64,
        _ => return None,
    })
}

/// NumPy has no brain floats: their values are written as `f32`, which holds them exactly.
fn descr_of(dtype: DType) -> &'static str {
    match dtype {
        DType::U8 => "|u1",
        DType::U16 => "<u2",
        DType::U32 => "<u4",
        DType::I8 => "|i1",
        DType::I16 => "<i2",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::F16 => "<f2",
        DType::F32 | DType::Bf16 => "<f4",
        DType::F64 => "<f8",
    }
}

struct Fields {
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

impl Fields {
    /// `{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }`, in any order of the entries.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.trim().strip_prefix('{')?.trim_start();
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        while !rest.starts_with('}') {
            let (key, after) = quoted(rest)?;
            rest = after.trim_start().strip_prefix(':')?.trim_start();
            rest = match key {
                "descr" => {
                    let (value, after) = quoted(rest)?;
                    descr = Some(value.to_owned());
                    after
                }
                "fortran_order" => {
                    let (value, after) = truth(rest)?;
                    fortran = Some(value);
                    after
                }
                "shape" => {
                    let (inside, after) = rest.strip_prefix('(')?.split_once(')')?;
                    let numbers = inside.split(',').map(str::trim).filter(|number| !number.is_empty());
                    shape = Some(numbers.map(|number| number.parse().ok()).collect::<Option<Vec<usize>>>()?);
                    after
                }
                _ => return None,
            };
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(after) => after.trim_start(),
                None if rest.starts_with('}') => rest,
                None => return None,
            };
        }
        (rest == "}").then_some(())?;
        Some(Self { descr: descr?, fortran: fortran?, shape: shape? })
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

fn truth(text: &str) -> Option<(bool, &str)> {
    match text.strip_prefix("True") {
        Some(after) => Some((true, after)),
        None => Some((false, text.strip_prefix("False")?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Header, Reason> {
        let mut bytes = b"\x93NUMPY\x01\0".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        Header::read(&mut bytes.as_slice())
    }

    #[test]
    fn what_is_written_is_read() {
        for shape in [&[][..], &[7], &[2, 3], &[50_000, 64, 64, 3]] {
            let bytes = Header::bytes_of(DType::F64, shape);
            assert_eq!(bytes.len() % ALIGNMENT, 0);
            let header = Header::read(&mut bytes.as_slice()).unwrap();
            let length = bytes.len() as u64;
            assert_eq!(header, Header { dtype: DType::F64, shape: shape.to_vec(), fortran: false, length });
        }
    }

    #[test]
    fn entries_in_any_order_and_spacing() {
        let header = of("{\"shape\":(3,),'fortran_order' : True ,'descr':'<f4'}\n").unwrap();
        assert_eq!((header.shape, header.fortran, header.dtype), (vec![3], true, DType::F32));
        assert_eq!(of("{'descr': '|u1', 'fortran_order': False, 'shape': ()}").unwrap().shape, [0; 0]);
        for (descr, dtype) in [
            ("|b1", DType::U8),
            ("|i1", DType::I8),
            ("<i2", DType::I16),
            ("<u4", DType::U32),
            ("<i8", DType::I64),
        ] {
            let header =
                of(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (2,)}}")).unwrap();
            assert_eq!(header.dtype, dtype, "{descr}");
        }
    }

    #[test]
    fn other_headers_are_refused() {
        for (text, reason) in [
            ("{'descr': '>f8', 'fortran_order': False, 'shape': (3,), }", "`>f8`"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", "`|O`"),
            ("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,), }", "not that of an array"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (-3,), }", "not that of an array"),
            ("{'descr': '<f8', 'fortran_order': False, }", "not that of an array"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), } x", "not that of an array"),
            ("((((((", "not that of an array"),
        ] {
            let error = of(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(
            Header::read(&mut &b"\x93NUMPY\x02\0\xff\xff\xff\xff"[..]).unwrap_err().contains("4294967295")
        );
        let huge =
            of("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }").unwrap();
        assert!(huge.bytes().is_err());
    }
}
