//! Flax's msgpack checkpoints: what `flax.serialization.to_bytes` and `msgpack_serialize` write.
//!
//! A file is a MessagePack map of maps; its leaves are arrays (extension type 1) or numpy scalars (type 3), whose
//! payload is again MessagePack: `[shape, type name, bytes]`. Flax cuts an array above 1 GiB into pieces; they are put
//! together here. Names are the keys joined with `/`; the elements of a list are named by their number.
//! Leaves that are no arrays (a step counter, a text) are left out.
//!
//! The bytes are not trusted: every length is checked against what is left of the file, nesting is bounded, and
//! what is allocated stays within a small multiple of the file.

mod array;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rmp::Marker;
use rmp::decode::{self, RmpRead};

use crate::limits::{Budget, Found, MAX_RANK, Name, Reason, quoted};
use crate::{Error, TensorMap};
use array::Array;

const FORMAT: &str = "Flax msgpack";
/// The key by which Flax marks an array that is cut into pieces.
const CHUNKED: &str = "__msgpack_chunked_array__";
/// What bookkeeping a piece of a cut array costs.
const CHUNK_OVERHEAD: usize = 192;
/// Extension types of Flax.
const NDARRAY: i8 = 1;
const COMPLEX: i8 = 2;
const SCALAR: i8 = 3;

/// Reads all arrays of a file. The top level (often `params/`) is part of the names: see [`parameters`].
pub fn read(path: &Path) -> Result<TensorMap, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    parse(&bytes, path)
}

/// Reads all arrays of a file's bytes; `path` is for errors only.
pub fn parse(bytes: &[u8], path: &Path) -> Result<TensorMap, Error> {
    tensors(bytes).map_err(|reason| Error::Format { path: path.into(), format: FORMAT, reason })
}

/// The parameters of a checkpoint, without the levels above them.
///
/// Takes what lies below the first of `ema_params/`, `params/`, `target/params/`, `optimizer/target/params/`,
/// `optimizer/target/`, `g_params/`, `model/params/`, `target/` and `model/` that has any tensor, and drops the rest (the
/// optimizer's state, for one). An average of the weights, where there is one, is what published models are. A map that
/// has none of them is returned as it is.
pub fn parameters(map: TensorMap) -> TensorMap {
    const LEVELS: [&str; 9] = [
        "ema_params/",
        "params/",
        "target/params/",
        "optimizer/target/params/",
        "optimizer/target/",
        "g_params/",
        "model/params/",
        "target/",
        "model/",
    ];
    match LEVELS.iter().find(|level| map.iter().any(|(name, _)| name.starts_with(**level))) {
        Some(level) => map.below(level),
        None => map,
    }
}

fn tensors(bytes: &[u8]) -> Result<TensorMap, Reason> {
    let mut reader = Reader {
        rest: bytes,
        length: bytes.len(),
        budget: Budget::of_file(bytes.len()),
        found: Found::default(),
    };
    if !matches!(reader.peek()?, Marker::FixMap(_) | Marker::Map16 | Marker::Map32) {
        return Err("the top level is not a map".into());
    }
    reader.value(&mut Name::new('/'))?;
    match reader.rest.len() {
        0 => Ok(reader.found.into_map()),
        more => Err(format!("{more} bytes follow the end of the top level")),
    }
}

/// Reads from the front of `rest`.
struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
    budget: Budget,
    found: Found,
}

impl<'a> Reader<'a> {
    /// Any value: levels are gone into, arrays are kept, the rest is stepped over.
    fn value(&mut self, name: &mut Name) -> Result<(), Reason> {
        use Marker::*;
        match self.peek()? {
            FixMap(_) | Map16 | Map32 => self.map(name),
            FixArray(_) | Array16 | Array32 => self.list(name),
            FixExt1 | FixExt2 | FixExt4 | FixExt8 | FixExt16 | Ext8 | Ext16 | Ext32 => self.extension(name),
            _ => self.skip().map_err(|e| format!("{}: {e}", name.quoted())),
        }
    }

    fn map(&mut self, name: &mut Name) -> Result<(), Reason> {
        let length = decode::read_map_len(&mut self.rest).map_err(|_| self.truncated())?;
        let length = self.counted(length, 2)?;
        for i in 0..length {
            let key = self.text()?;
            if key == CHUNKED {
                return match (i, length) {
                    (0, 3) => self.chunked(name).map_err(|e| format!("{}: {e}", name.quoted())),
                    _ => Err(format!("{}: a cut array has other keys beside its own", name.quoted())),
                };
            }
            let before = name.enter(key)?;
            self.value(name)?;
            name.leave(before);
        }
        Ok(())
    }

    fn list(&mut self, name: &mut Name) -> Result<(), Reason> {
        let length = decode::read_array_len(&mut self.rest).map_err(|_| self.truncated())?;
        for i in 0..self.counted(length, 1)? {
            let before = name.enter(&i.to_string())?;
            self.value(name)?;
            name.leave(before);
        }
        Ok(())
    }

    /// A leaf that Flax packs itself.
    fn extension(&mut self, name: &Name) -> Result<(), Reason> {
        let (kind, payload) = self.payload()?;
        match kind {
            NDARRAY | SCALAR => {
                let array = Array::parse(payload).map_err(|e| format!("tensor {}: {e}", name.quoted()))?;
                let Some(dtype) = array.dtype else { return Ok(()) };
                self.budget.take(array.bytes.len())?;
                self.found.add(&mut self.budget, name.text(), dtype, array.shape, array.bytes.to_vec())
            }
            COMPLEX => Ok(()),
            _ => Err(format!("{}: extension type {kind} is not one of Flax's", name.quoted())),
        }
    }

    /// The rest of a map that holds a cut array: its first key has been read.
    fn chunked(&mut self, name: &Name) -> Result<(), Reason> {
        if self.byte()? != Marker::True.to_u8() {
            return Err(format!("`{CHUNKED}` is not true"));
        }
        let (mut shape, mut chunks) = (None, None);
        for _ in 0..2 {
            match self.text()? {
                "shape" => shape = Some(self.numbered(Reader::dimension)?),
                "chunks" => chunks = Some(self.numbered(Reader::chunk)?),
                other => return Err(format!("a cut array has the key {}", quoted(other))),
            }
        }
        let (Some(shape), Some(chunks)) = (shape, chunks) else {
            return Err("a cut array lacks its shape or its pieces".into());
        };
        if shape.len() > MAX_RANK {
            return Err(format!("it has {} dimensions", shape.len()));
        }
        let Some(dtype) = chunks.first().map(|chunk| chunk.dtype) else {
            return Err("a cut array has no pieces".into());
        };
        if chunks.iter().any(|chunk| chunk.dtype != dtype) {
            return Err("the pieces of a cut array have different types".into());
        }
        let Some(dtype) = dtype else { return Ok(()) };
        self.budget.take(chunks.iter().map(|chunk| chunk.bytes.len()).sum())?;
        let bytes = chunks.iter().map(|chunk| chunk.bytes).collect::<Vec<_>>().concat();
        self.found.add(&mut self.budget, name.text(), dtype, shape, bytes)
    }

    fn dimension(&mut self) -> Result<usize, Reason> {
        decode::read_int(&mut self.rest).map_err(|_| "a dimension is not a length".into())
    }

    fn chunk(&mut self) -> Result<Array<'a>, Reason> {
        match self.payload()? {
            (NDARRAY, payload) => Array::parse(payload),
            _ => Err("a piece of a cut array is not an array".into()),
        }
    }

    /// A map with the keys `0`, `1`, … in any order, as Flax writes a tuple.
    fn numbered<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, Reason>) -> Result<Vec<T>, Reason> {
        let length = decode::read_map_len(&mut self.rest).map_err(|_| self.truncated())?;
        let length = self.counted(length, 2)?;
        let mut items = BTreeMap::new();
        for _ in 0..length {
            let key = self.text()?;
            let index: usize = key.parse().map_err(|_| format!("{} is not a number", quoted(key)))?;
            self.budget.take(CHUNK_OVERHEAD)?;
            items.insert(index, read(self)?);
        }
        match items.keys().copied().eq(0..length) {
            true => Ok(items.into_values().collect()),
            false => Err("the parts of a cut array are not numbered 0, 1, …".into()),
        }
    }

    /// Type and content of an extension.
    fn payload(&mut self) -> Result<(i8, &'a [u8]), Reason> {
        let meta = decode::read_ext_meta(&mut self.rest).map_err(|_| self.truncated())?;
        Ok((meta.typeid, self.take(meta.size)?))
    }

    /// Steps over a value that is neither a level nor an extension.
    fn skip(&mut self) -> Result<(), Reason> {
        use Marker::*;
        match Marker::from_u8(self.byte()?) {
            Null | True | False | FixPos(_) | FixNeg(_) => Ok(()),
            U8 | I8 => self.take(1).map(drop),
            U16 | I16 => self.take(2).map(drop),
            U32 | I32 | F32 => self.take(4).map(drop),
            U64 | I64 | F64 => self.take(8).map(drop),
            FixStr(length) => self.take(length.into()).map(drop),
            Str8 | Bin8 => {
                let length = self.byte()?.into();
                self.take(length).map(drop)
            }
            Str16 | Bin16 => {
                let length = self.rest.read_data_u16().map_err(|_| self.truncated())?.into();
                self.take(length).map(drop)
            }
            Str32 | Bin32 => {
                let length = self.rest.read_data_u32().map_err(|_| self.truncated())?;
                self.take(length).map(drop)
            }
            marker => Err(format!("unexpected MessagePack marker {marker:?}")),
        }
    }

    fn peek(&self) -> Result<Marker, Reason> {
        self.rest.first().map(|&byte| Marker::from_u8(byte)).ok_or_else(|| self.truncated())
    }

    fn byte(&mut self) -> Result<u8, Reason> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn text(&mut self) -> Result<&'a str, Reason> {
        let at = self.length - self.rest.len();
        let length = decode::read_str_len(&mut self.rest)
            .map_err(|_| format!("the key at byte {at} is not a text"))?;
        std::str::from_utf8(self.take(length)?).map_err(|_| format!("the key at byte {at} is not UTF-8"))
    }

    fn take(&mut self, length: u32) -> Result<&'a [u8], Reason> {
        let (taken, rest) = self.rest.split_at_checked(length as usize).ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(taken)
    }

    /// A number of items, if as many can still follow.
    fn counted(&self, items: u32, least_bytes: usize) -> Result<usize, Reason> {
        match (items as usize).checked_mul(least_bytes) {
            Some(needed) if needed <= self.rest.len() => Ok(items as usize),
            _ => Err(format!(
                "at byte {}, {items} items are announced but {} bytes are left",
                self.length - self.rest.len(),
                self.rest.len()
            )),
        }
    }

    fn truncated(&self) -> Reason {
        format!("at byte {} of {}: cut short or damaged", self.length - self.rest.len(), self.length)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rmp::encode;

    use super::*;
    use crate::{DType, safetensors};

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
    }

    fn sample() -> Vec<u8> {
        fs::read(golden("flax/sample.msgpack")).unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        parse(bytes, Path::new("x.msgpack")).unwrap_err().to_string()
    }

    fn map(length: u32) -> Vec<u8> {
        let mut out = Vec::new();
        encode::write_map_len(&mut out, length).unwrap();
        out
    }

    fn text(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode::write_str(&mut out, text).unwrap();
        out
    }

    fn array(kind: i8, shape: &[u64], dtype: &str, values: &[u8]) -> Vec<u8> {
        let (mut payload, mut out) = (Vec::new(), Vec::new());
        encode::write_array_len(&mut payload, 3).unwrap();
        encode::write_array_len(&mut payload, shape.len() as u32).unwrap();
        for &length in shape {
            encode::write_uint(&mut payload, length).unwrap();
        }
        encode::write_str(&mut payload, dtype).unwrap();
        encode::write_bin(&mut payload, values).unwrap();
        encode::write_ext_meta(&mut out, payload.len() as u32, kind).unwrap();
        [out, payload].concat()
    }

    /// `{"a": {"b": value}}`
    fn at_a_b(value: &[u8]) -> Vec<u8> {
        [map(1), text("a"), map(1), text("b"), value.to_vec()].concat()
    }

    /// Flax wrote the one file, another program the other, from the same weights.
    #[test]
    fn a_transformer_is_the_same_in_safetensors() {
        let read = read(&golden("maskgit-transformer/checkpoint.msgpack")).unwrap();
        assert!(read.iter().all(|(name, _)| name.starts_with("params/")));
        let expected = safetensors::read(&golden("maskgit-transformer/weights.safetensors")).unwrap();
        assert!(parameters(read).iter().eq(expected.iter()));
    }

    /// Flax wrote this one with a limit of 64 bytes for an array in one piece.
    #[test]
    fn every_kind_of_leaf() {
        let all = parse(&sample(), Path::new("x")).unwrap();
        assert_eq!(all.integers("list/0").unwrap(), [9]);
        assert_eq!(all.integers("list/1/x").unwrap(), [8]);
        assert_eq!(all.len(), 13);
        let map = parameters(all);
        let typed = |name: &str, dtype: DType, shape: &[usize]| {
            let tensor = map.get(name).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (dtype, shape), "{name}");
            tensor.to_f64()
        };
        assert_eq!(typed("dense/kernel", DType::F32, &[2, 3]), [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]);
        assert_eq!(typed("dense/bias", DType::F16, &[3]), [1.5, -2.0, 65504.0]);
        assert_eq!(typed("b16", DType::Bf16, &[1, 2]), [1.0, -3.140625]);
        assert_eq!(typed("f64", DType::F64, &[2]), [std::f64::consts::PI, -1e300]);
        assert_eq!(typed("i32", DType::I32, &[2]), [-1.0, 2147483647.0]);
        assert_eq!(typed("u8", DType::U8, &[2]), [0.0, 255.0]);
        assert_eq!(typed("scalar", DType::F32, &[]), [7.25]);
        assert_eq!(typed("numpy_scalar", DType::F64, &[]), [-0.125]);
        assert_eq!(typed("empty", DType::F32, &[0, 3]), [0.0; 0]);
        assert_eq!(map.integers("i64").unwrap(), [i64::MIN, 5]);
        let pieces: Vec<f64> = (0..66).map(|i| f64::from(i) / 4.0).collect();
        assert_eq!(typed("big", DType::F32, &[3, 2, 11]), pieces);
        assert_eq!(map.len(), 11);
    }

    #[test]
    fn parameters_lie_below_known_levels() {
        let names = |names: &[&str]| {
            let mut map = TensorMap::new();
            for name in names {
                map.insert_u16(name, &[1], &[1]).unwrap();
            }
            parameters(map).iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&["opt_state/params/x", "params/x", "target/y"]), "x");
        assert_eq!(names(&["target/params/x", "target/step"]), "x");
        assert_eq!(names(&["model/x", "step"]), "x");
        assert_eq!(names(&["optimizer/target/x", "optimizer/state/x"]), "x");
        assert_eq!(names(&["ema_params/x", "g_params/y", "d_params/z"]), "x");
        assert_eq!(names(&["g_params/y", "d_params/z"]), "y");
        assert_eq!(names(&["x", "parameters/y"]), "parameters/y x");
    }

    #[test]
    fn what_does_not_fit_names_the_tensor() {
        let start = "x.msgpack: not a valid Flax msgpack file: ";
        for (value, reason) in [
            (array(1, &[2], "float32", &[0; 4]), "tensor `a/b`: shape [2] of F32 does not fit 4 bytes"),
            (array(1, &[1 << 40, 1 << 40], "uint8", &[]), "does not fit 0 bytes"),
            (array(1, &[1; 33], "uint8", &[0]), "tensor `a/b`: it has 33 dimensions"),
            (array(7, &[1], "uint8", &[0]), "`a/b`: extension type 7 is not one of Flax's"),
            (vec![0xc1], "`a/b`: unexpected MessagePack marker Reserved"),
            (vec![0xd4, 1, 0], "tensor `a/b`: it is not [shape, type, bytes]"),
        ] {
            let message = refused(&at_a_b(&value));
            assert!(message.starts_with(start) && message.contains(reason), "{message}");
        }
    }

    /// A training's state has more than weights: they are read beside it.
    #[test]
    fn arrays_that_no_weights_have_are_left_out() {
        let weights = array(1, &[1], "uint8", &[3]);
        let key = array(1, &[2], "uint32", &[0; 8]);
        let mask = array(1, &[2], "bool", &[0, 1]);
        let whole = [map(3), text("rng"), key, text("w"), weights, text("mask"), mask].concat();
        let read = parse(&whole, Path::new("x.msgpack")).unwrap();
        assert_eq!(read.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["mask", "w"]);
        assert_eq!(read.get("mask").unwrap().to_i64().unwrap(), [0, 1]);
    }

    #[test]
    fn structure_that_flax_does_not_write() {
        let value = array(1, &[1], "uint8", &[3]);
        assert!(refused(b"").contains("cut short"));
        assert!(refused(&value).contains("top level"));
        assert!(refused(&[at_a_b(&value), vec![0]].concat()).contains("1 bytes follow"));
        assert!(refused(&[map(1), vec![1], value.clone()].concat()).contains("not a text"));
        let twice = [map(2), text("x"), value.clone(), text("x"), value].concat();
        assert!(refused(&twice).contains("two tensors are named `x`"));
    }

    #[test]
    fn lengths_are_believed_only_if_the_bytes_are_there() {
        for head in [&b"\xdf\xff\xff\xff\xff"[..], b"\xde\xff\xff", b"\x81\xa1a\xdd\xff\xff\xff\xff"] {
            assert!(refused(head).contains("announced"), "{}", refused(head));
        }
        for head in [
            &b"\x81\xdb\xff\xff\xff\xff"[..],
            b"\x81\xa1a\xc6\xff\xff\xff\xff",
            b"\x81\xa1a\xc9\xff\xff\xff\xff\x01",
        ] {
            assert!(refused(head).contains("cut short"), "{}", refused(head));
        }
    }

    #[test]
    fn nesting_ends() {
        let maps = b"\x81\xa1a".repeat(100_000);
        assert!(refused(&maps).contains("levels"));
        let lists = [b"\x81\xa1a".as_slice(), &[0x91; 100_000]].concat();
        assert!(refused(&lists).contains("levels"));
        let long = [map(1), text(&"x".repeat(5000)), map(0)].concat();
        assert!(refused(&long).contains("longer than"));
    }

    #[test]
    fn pieces_must_belong_together() {
        let piece = array(1, &[1], "uint8", &[3]);
        let cut = |shape: &[u8], chunks: &[u8]| {
            let head = [map(3), text(CHUNKED), vec![0xc3]].concat();
            at_a_b(&[&head, &text("shape")[..], shape, &text("chunks"), chunks].concat())
        };
        let one = |key: &str, value: &[u8]| [&map(1), &text(key)[..], value].concat();
        assert!(parse(&cut(&one("0", &[1]), &one("0", &piece)), Path::new("x")).is_ok());
        let other =
            [map(2), text("0"), piece.clone(), text("1"), array(1, &[1], "float16", &[0; 2])].concat();
        for (shape, chunks, reason) in [
            (one("1", &[1]), one("0", &piece), "not numbered"),
            (one("0", &[1]), one("x", &piece), "`x` is not a number"),
            (one("0", &[2]), one("0", &piece), "needs 2 bytes, got 1"),
            (one("0", &[0xff]), one("0", &piece), "not a length"),
            (one("0", &[0]), map(0), "no pieces"),
            (one("0", &[3]), other, "different types"),
            (one("0", &[1]), one("0", &[0xd4, 2, 0]), "not an array"),
        ] {
            let message = refused(&cut(&shape, &chunks));
            assert!(message.contains("`a/b`: ") && message.contains(reason), "{message}");
        }
        let late = [map(2), text("x"), vec![0xc0], text(CHUNKED), vec![0xc3]].concat();
        assert!(refused(&at_a_b(&late)).contains("other keys"));
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length], Path::new("x")).is_err(), "{length}");
        }
    }
}
