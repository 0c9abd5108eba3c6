//! PyTorch's format before 1.6, which `pt_inception-2015-12-05-6726825d.pth` and its contemporaries are in.
//!
//! Five pickles after each other (a magic number, the version 1001, what machine wrote it, the dictionary, the keys of
//! the storages), then for each of those keys the number of its values as eight bytes and the values themselves.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::TensorMap;
use crate::limits::{Budget, Found, Reason, quoted};

use super::keep;
use super::pickle::{self, Outcome};
use super::program::Program;
use super::strided::Storage;
use super::tree::{Node, Value};

/// The first pickle behind its protocol: the number by which such a file is known.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const VERSION: i64 = 1001;
/// What a storage costs besides its values, which are not copied.
const STORAGE_COST: usize = 128;

fn next<'a>(what: &str, program: &mut Program<'a>, budget: &mut Budget) -> Result<Outcome<'a>, Reason> {
    pickle::run(program, budget).map_err(|e| format!("{what}, {e}"))
}

/// Whether these bytes start as such a file does.
pub(super) fn starts(bytes: &[u8]) -> bool {
    first_pickle(bytes).is_some()
}

/// Length of the first pickle, of protocols 2 to 5.
fn first_pickle(bytes: &[u8]) -> Option<usize> {
    let before = match bytes {
        // What follows is in a frame, of a length of eight bytes.
        [0x80, 4..=5, 0x95, ..] => 11,
        [0x80, 2..=5, ..] => 2,
        _ => return None,
    };
    bytes.get(before..)?.starts_with(MAGIC).then_some(before + MAGIC.len())
}

/// All tensors of such a file.
pub(super) fn tensors(bytes: &[u8]) -> Result<TensorMap, Reason> {
    let mut budget = Budget::of_file(bytes.len());
    let mut program = Program::new(bytes);
    program.take(first_pickle(bytes).unwrap_or(0))?;
    let version = next("the version", &mut program, &mut budget)?.root;
    if !matches!(version, Value::Integer(VERSION)) {
        return Err(format!("version {version:?} of the old format is not read"));
    }
    check_byte_order(&next("the machine", &mut program, &mut budget)?)?;
    let dictionary = next("the dictionary", &mut program, &mut budget)?;
    let keys = next("the keys", &mut program, &mut budget)?;
    let storages = storages(&mut program, &dictionary, &keys, &mut budget)?;

    let mut found = Found::default();
    for (name, tensor) in dictionary.tensors(&mut budget)? {
        let key = tensor.storage.key;
        let values = storages
            .get(key)
            .ok_or_else(|| format!("tensor {}: storage {} is not in the file", quoted(&name), quoted(key)))?;
        keep(&name, &tensor, Cow::Borrowed(values), &mut budget, &mut found)?;
    }
    Ok(found.into_map())
}

fn check_byte_order(machine: &Outcome<'_>) -> Result<(), Reason> {
    let Some(Node::Dictionary(entries)) = machine.tree.node(machine.root) else {
        return Err("what machine wrote it is no dictionary".into());
    };
    match entries.iter().find(|(key, _)| matches!(key, Value::Text("little_endian"))) {
        Some((_, Value::Truth(true))) => Ok(()),
        _ => Err("it was not written on a little-endian machine".into()),
    }
}

/// The values of each storage, as they lie in the file.
fn storages<'a>(
    program: &mut Program<'a>,
    dictionary: &Outcome<'a>,
    keys: &Outcome<'a>,
    budget: &mut Budget,
) -> Result<BTreeMap<&'a str, &'a [u8]>, Reason> {
    let mut named: BTreeMap<&str, Storage<'a>> = BTreeMap::new();
    for storage in dictionary.tree.storages() {
        budget.take(STORAGE_COST)?;
        let known = *named.entry(storage.key).or_insert(storage);
        if (known.dtype, known.count) != (storage.dtype, storage.count) {
            return Err(format!("storage {} is named with two types or lengths", quoted(storage.key)));
        }
    }
    let Some(Node::List(keys)) = keys.tree.node(keys.root) else {
        return Err("the keys of the storages are no list".into());
    };
    let mut values = BTreeMap::new();
    for key in keys {
        let Value::Text(key) = *key else { return Err("the key of a storage is no text".into()) };
        let storage =
            named.get(key).ok_or_else(|| format!("storage {} is not in the dictionary", quoted(key)))?;
        let named = |e: Reason| format!("storage {}: {e}", quoted(key));
        let count = program.u64().map_err(named)?;
        if count != storage.count {
            return Err(named(format!("it has {count} values, not the {} of the dictionary", storage.count)));
        }
        let length = storage.dtype.bytes_of(&[count]).ok_or_else(|| named("too large".into()))?;
        budget.take(STORAGE_COST)?;
        if values.insert(key, program.take(length).map_err(named)?).is_some() {
            return Err(named("it is there twice".into()));
        }
    }
    match program.length() - program.at() {
        0 => Ok(values),
        left => Err(format!("{left} bytes are left after the last storage")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::super::{parse, read};
    use crate::DType;

    fn golden(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/torch").join(name)
    }

    fn bytes() -> Vec<u8> {
        fs::read(golden("legacy.pth")).unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        parse(bytes, Path::new("x.pth")).unwrap_err().to_string()
    }

    /// PyTorch 2.15 wrote these two of one state dictionary, one with `_use_new_zipfile_serialization=False`.
    #[test]
    fn the_same_tensors_in_both_formats() {
        let map = read(&golden("legacy.pth")).unwrap();
        assert_eq!(map, read(&golden("legacy_as_zip.pt")).unwrap());
        let names: Vec<&str> = map.iter().map(|(name, _)| name).collect();
        let expected =
            ["bn.num_batches_tracked", "bn.running_mean", "conv.weight", "half", "part", "transposed"];
        assert_eq!(names, expected);
        assert_eq!(map.get("conv.weight").unwrap().shape(), [2, 3, 1, 1]);
        assert_eq!(map.get("conv.weight").unwrap().to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(map.get("transposed").unwrap().to_f32(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        assert_eq!(map.get("part").unwrap().to_f32(), [4.0, 5.0]);
        assert_eq!(
            (map.get("half").unwrap().dtype(), map.get("half").unwrap().to_f32()),
            (DType::F16, vec![1.5])
        );
        assert_eq!(map.integers("bn.num_batches_tracked").unwrap(), [7]);
    }

    /// PyTorch 2.11 wrote these, asked for pickles of other protocols than its own.
    #[test]
    fn other_protocols_of_pickles_are_read() {
        let map = read(&golden("legacy_protocol4.pth")).unwrap();
        assert_eq!(map, read(&golden("legacy_protocol3.pth")).unwrap());
        assert_eq!(map.get("w").unwrap().to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(map.get("i").unwrap().to_i64().unwrap(), [5, -2]);
        assert_eq!(map.get("t").unwrap().to_f32(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
        let mut of_later = bytes();
        of_later[1] = 6;
        assert!(refused(&of_later).contains("neither a zip"));
    }

    #[test]
    fn a_file_cut_anywhere_or_longer_is_refused() {
        let bytes = bytes();
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length], Path::new("x")).is_err(), "{length}");
        }
        assert!(refused(&[&bytes[..], &[0]].concat()).contains("1 bytes are left"));
    }

    #[test]
    fn other_machines_versions_and_functions_are_refused() {
        let with = |from: &[u8], to: &[u8]| {
            let mut bytes = bytes();
            let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
            bytes.splice(at..at + from.len(), to.iter().copied());
            refused(&bytes)
        };
        assert!(with(b"\x80\x02M\xe9\x03.", b"\x80\x02M\xe8\x03.").contains("1000"));
        assert!(with(b"little_endianq\x02\x88", b"little_endianq\x02\x89").contains("little-endian"));
        assert!(with(b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n").contains("`os.system`"));
        // The first storage's number of values.
        let mut other = bytes();
        let end = other.windows(2).rposition(|w| w == b"e.").unwrap() + 2;
        other[end] ^= 64;
        assert!(refused(&other).contains("values, not the"), "{}", refused(&other));
    }
}
