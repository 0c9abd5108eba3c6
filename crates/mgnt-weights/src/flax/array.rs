//! One array of a Flax checkpoint: the payload of its extension.

use rmp::decode;

use crate::DType;
use crate::limits::{MAX_RANK, Reason};

/// An array as it lies in the file.
pub(super) struct Array<'a> {
    /// `None` where it is one that no weights have, such as a random generator's key.
    pub(super) dtype: Option<DType>,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// The content of an extension: `[shape, type name, bytes]`.
    pub(super) fn parse(mut payload: &'a [u8]) -> Result<Self, Reason> {
        if decode::read_array_len(&mut payload).ok() != Some(3) {
            return Err("it is not [shape, type, bytes]".into());
        }
        let rank = decode::read_array_len(&mut payload).ok().ok_or("its shape cannot be read")? as usize;
        if rank > MAX_RANK {
            return Err(format!("it has {rank} dimensions"));
        }
        let shape = (0..rank)
            .map(|_| decode::read_int(&mut payload).ok().ok_or("its shape cannot be read"))
            .collect::<Result<Vec<usize>, _>>()?;
        let length = decode::read_str_len(&mut payload).ok().ok_or("its type cannot be read")?;
        let (dtype, mut payload) =
            payload.split_at_checked(length as usize).ok_or("its type cannot be read")?;
        let dtype = dtype_of(dtype);
        let length = decode::read_bin_len(&mut payload).ok().ok_or("its values cannot be read")? as usize;
        if length != payload.len() {
            return Err(format!("{length} bytes of values are announced, {} are there", payload.len()));
        }
        if let Some(dtype) = dtype {
            let needed = dtype.bytes_of(&shape);
            if needed != Some(length) {
                return Err(format!("shape {shape:?} of {dtype:?} does not fit {length} bytes"));
            }
        }
        Ok(Self { dtype, shape, bytes: payload })
    }
}

fn dtype_of(name: &[u8]) -> Option<DType> {
    Some(match name {
        b"float32" => DType::F32,
        b"float64" => DType::F64,
        b"float16" => DType::F16,
        b"bfloat16" => DType::Bf16,
        b"int32" => DType::I32,
        b"int64" => DType::I64,
        b"uint8" | b"bool" => DType::U8,
        b"uint16" => DType::U16,
        _ => return None,
    })
}
