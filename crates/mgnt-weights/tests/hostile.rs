//! Damaged and made-up checkpoints: whatever the bytes, the readers answer soon, without a panic and without taking
//! much more memory than the file.
//!
//! Each test runs for `MGNT_FUZZ_SECONDS` (1 if unset) from the seed `MGNT_FUZZ_SEED` (a fixed one if unset), so a
//! plain test run is short and a long one is `MGNT_FUZZ_SECONDS=600 cargo test -p mgnt-weights --test hostile`.
//! Bytes that break a promise are kept in a file that the failure names.

#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;

use std::io::{Cursor, Read, Write};
use std::path::Path;

use fuzzing::{Rng, Trial, damage};
use mgnt_weights::{Error, TensorMap, flax, npz, safetensors, torch};
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, ZipArchive};

/// What a reader may take at once, in times the file.
const PEAK_FACTOR: usize = 24;

/// A reader of this crate on bytes that are named like a file.
fn trial(
    format: &'static str,
    read: impl Fn(&[u8], &Path) -> Result<TensorMap, Error>,
) -> Trial<impl Fn(&[u8]) -> Result<(), Error>> {
    Trial::new(format, PEAK_FACTOR, move |bytes: &[u8]| read(bytes, Path::new("case")).map(drop))
}

fn pick<'a, T: ?Sized>(rng: &mut Rng, from: &[&'a T]) -> &'a T {
    from[rng.below(from.len())]
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A MessagePack value as Flax might write it, and might not.
fn message(depth: usize, out: &mut Vec<u8>, rng: &mut Rng) {
    const LEAVES: [&[u8]; 9] = [
        b"\xd8\x01\x93\x91\x01\xa7float32\xc4\x04\0\0\x80",
        b"\xc7\x11\x01\x93\x91\x01\xa7float32\xc4\x04\0\0\x80?",
        b"\xc7\x0c\x01\x93\x92\0\x03\xa5uint8\xc4\0",
        b"\xc7\x0c\x03\x93\x90\xa5uint8\xc4\x01\x07\0",
        b"\xc7\x0b\x03\x93\x90\xa5uint8\xc4\x01\x07",
        b"\xc0",
        b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xa3abc",
        b"\xd4\x02\0",
    ];
    const CHUNKED: &[u8] = b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x01\xa6chunks\x81\xa10";
    match rng.below(if depth > 80 { 1 } else { 8 }) {
        0..3 => out.extend(LEAVES[rng.below(LEAVES.len())]),
        3 => out.extend([CHUNKED, LEAVES[rng.below(LEAVES.len())]].concat()),
        4 => {
            let length = rng.below(4);
            out.push(0x90 | length as u8);
            for _ in 0..length {
                message(depth + 1, out, rng);
            }
        }
        _ => {
            let length = rng.below(5);
            out.push(0x80 | length as u8);
            for i in 0..length {
                out.extend([0xa2, b'a' + rng.below(3) as u8, b'0' + i as u8]);
                message(depth + 1, out, rng);
            }
        }
    }
}

#[test]
fn hostile_flax() {
    let seeds = [
        golden("flax/sample.msgpack"),
        golden("maskgit-vqgan/subset.msgpack")[..6000].to_vec(),
        golden("maskgit-vqgan/subset.msgpack"),
    ];
    trial("msgpack", flax::parse).run(|rng| {
        let mut bytes = match rng.below(32) {
            0 => seeds[2].clone(),
            1..4 => seeds[1].clone(),
            4..16 => {
                let mut bytes = Vec::new();
                message(0, &mut bytes, rng);
                bytes
            }
            16 => {
                let length = rng.small(8);
                (0..length).map(|_| rng.next() as u8).collect()
            }
            _ => seeds[0].clone(),
        };
        if rng.below(16) > 0 && !bytes.is_empty() {
            damage(&mut bytes, &seeds[..2], None, rng);
        }
        bytes
    });
}

/// Entries of an archive, to put others together.
fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = ZipArchive::new(Cursor::new(archive)).expect("a golden archive");
    (0..zip.len())
        .map(|i| {
            let mut entry = zip.by_index(i).expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("its content");
            (entry.name().expect("its name").into_owned(), content)
        })
        .collect()
}

fn archive(entries: &[(String, Vec<u8>)], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        zip.start_file(name, SimpleFileOptions::default().compression_method(method)).expect("memory");
        zip.write_all(content).expect("memory");
    }
    zip.finish().expect("memory").into_inner()
}

/// A pickle of opcodes that a state dictionary has, in an order that Python would not write.
fn program(rng: &mut Rng) -> Vec<u8> {
    const OPCODES: [&[u8]; 30] = [
        b"(",
        b"}",
        b"]",
        b")",
        b"t",
        b"\x85",
        b"\x86",
        b"\x87",
        b"R",
        b"s",
        b"u",
        b"a",
        b"e",
        b"b",
        b"Q",
        b"N",
        b"\x88",
        b"\x94",
        b"\x93",
        b"K\x01",
        b"K\x02",
        b"M\x10\0",
        b"J\xff\xff\xff\xff",
        b"\x8a\x04\0\0\0\x40",
        b"X\x01\0\0\0a",
        b"X\x01\0\0\0b",
        b"X\x07\0\0\0storage",
        b"X\x01\0\0\x000",
        b"X\x03\0\0\0cpu",
        b"G\0\0\0\0\0\0\0\0",
    ];
    const GLOBALS: [&[u8]; 8] = [
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch\nByteStorage\n",
        b"ctorch\nSize\n",
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
    ];
    const STORAGE: &[u8] = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x18tQ";
    const TENSORS: [&[u8]; 6] = [
        b"K\0K\x18\x85K\x01\x85\x89)tR",
        b"K\x02K\x02K\x03\x86K\x01K\x04\x86\x89)tR",
        b"K\0(tq\x05h\x05\x89)tR",
        b"K\0M\xff\xff\x85K\0\x85\x89)tR",
        b"K\0J\0\0\0\x04\x85K\0\x85\x89)tR",
        b"K\0(K\x18K\x18K\x18K\x18t(K\0K\0K\0K\0t\x89)tR",
    ];
    let mut out = b"\x80\x02}".to_vec();
    for _ in 0..rng.small(8) {
        match rng.below(16) {
            0 => out.extend(pick(rng, &GLOBALS)),
            1 => out.extend([b'q', rng.below(8) as u8]),
            2 | 3 => out.extend([b'h', rng.below(8) as u8]),
            4 => {
                let tensor =
                    [b"ctorch._utils\n_rebuild_tensor_v2\n(", STORAGE, pick::<[u8]>(rng, &TENSORS)].concat();
                out.extend([&b"X\x01\0\0\0"[..], &[b'a' + rng.below(26) as u8], &tensor[..], b"s"].concat());
            }
            5 => out.extend(STORAGE),
            // A dictionary in itself, or just one.
            6 if rng.below(16) == 0 => out.extend(b"X\x01\0\0\0c}q\x01X\x01\0\0\0dh\x01ss"),
            6 => out.extend(b"X\x01\0\0\0c}q\x01s"),
            _ => out.extend(pick(rng, &OPCODES)),
        }
    }
    out.push(b'.');
    out
}

#[test]
fn hostile_torch() {
    let archives = [
        golden("torch/every_kind_protocol2.pt"),
        golden("torch/every_kind_protocol4_deflated.pt"),
        golden("maskgit-vqgan/subset.bin"),
    ];
    let parts: Vec<_> = archives.iter().map(|bytes| entries(bytes)).collect();
    let pickles: Vec<Vec<u8>> = parts
        .iter()
        .flatten()
        .filter(|(name, _)| name.ends_with("data.pkl"))
        .map(|(_, p)| p.clone())
        .collect();
    let index = |rng: &mut Rng| if rng.below(16) == 0 { 2 } else { rng.below(2) };
    let old = golden("torch/legacy.pth");
    trial("pt", torch::parse).run(|rng| {
        let which = index(rng);
        // The old format, which has no archive around; its first pickle, by which it is known, is mostly left whole.
        if rng.below(4) == 0 {
            let kept = if rng.below(16) == 0 { 0 } else { 15 };
            let mut rest = old[kept..].to_vec();
            damage(&mut rest, &pickles, None, rng);
            return [&old[..kept], &rest].concat();
        }
        match rng.below(8) {
            // The archive itself, all of it or its index.
            kind @ 0..3 => {
                let mut bytes = archives[which].clone();
                damage(&mut bytes, &archives[..2], (kind == 2).then_some(1200), rng);
                bytes
            }
            // A damaged pickle, or one of our making, in an archive that is whole.
            kind => {
                let mut contents = parts[which].clone();
                let method =
                    if rng.below(2) == 0 { CompressionMethod::Stored } else { CompressionMethod::Deflated };
                for (name, content) in &mut contents {
                    if name.ends_with("data.pkl") {
                        if kind > 5 {
                            *content = program(rng);
                        }
                        if kind < 7 {
                            damage(content, &pickles, None, rng);
                        }
                    }
                }
                archive(&contents, method)
            }
        }
    });
}

/// A safetensors file as a careless or a hostile program might write it.
fn header(rng: &mut Rng) -> Vec<u8> {
    const TYPES: [&str; 8] = ["F32", "F16", "BF16", "I64", "U8", "BOOL", "F4", "f32"];
    const NUMBERS: [&str; 9] =
        ["0", "1", "4", "16", "-1", "1e3", "4294967296", "9223372036854775807", "18446744073709551615"];
    let mut entries = Vec::new();
    let mut end = 0;
    for i in 0..rng.small(7) {
        let count = rng.below(5);
        let (first, last) = (end, end + 4 * count);
        end = last;
        let odd = |right: usize, rng: &mut Rng| {
            if rng.below(6) == 0 { pick(rng, &NUMBERS).to_string() } else { right.to_string() }
        };
        let kind = if rng.below(4) == 0 { pick(rng, &TYPES) } else { TYPES[0] };
        let shape = match rng.below(5) {
            0 => format!("{},{},{}", odd(1, rng), odd(count, rng), odd(1, rng)),
            1 if count == 1 => String::new(),
            _ => odd(count, rng),
        };
        let name = if rng.below(8) == 0 {
            "a\\u0000/..".to_owned()
        } else {
            format!("t{}", i - rng.below(i + 1) % 2)
        };
        let (first, last) = (odd(first, rng), odd(last, rng));
        entries.push(format!(
            r#""{name}":{{"dtype":"{kind}","shape":[{shape}],"data_offsets":[{first},{last}]}}"#
        ));
    }
    if rng.below(4) == 0 {
        entries.push(r#""__metadata__":{"format":"pt"}"#.to_owned());
    }
    let text = format!("{{{}}}", entries.join(","));
    let length = if rng.below(8) == 0 { rng.next() } else { text.len() as u64 };
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(text.bytes());
    bytes.resize(bytes.len() + end, 7);
    bytes
}

#[test]
fn hostile_safetensors() {
    let mut small = TensorMap::new();
    small.insert_f32("a", &[2, 3], &[1.0; 6]).expect("its shape");
    small.insert_f32("b", &[], &[1.0]).expect("its shape");
    let small = safetensors::to_bytes(&small, Path::new("small")).expect("its bytes");
    let seeds = [small, golden("maskgit-vqgan/case.safetensors")];
    trial("safetensors", safetensors::from_bytes).run(|rng| {
        let mut bytes = match rng.below(16) {
            0 => seeds[1].clone(),
            1..6 => seeds[0].clone(),
            _ => header(rng),
        };
        if rng.below(3) > 0 {
            damage(&mut bytes, &seeds[..1], None, rng);
        }
        bytes
    });
}

/// Reads what an evaluation would: statistics of the shapes that it expects, and pictures piece by piece.
fn statistics(bytes: &[u8], path: &Path) -> Result<TensorMap, Error> {
    let mut archive = npz::Archive::new(Cursor::new(bytes), path)?;
    let mut map = TensorMap::new();
    let expected = [
        ("mu", &[3][..]),
        ("sigma", &[2, 3]),
        ("sigma_fortran", &[2, 3]),
        ("single", &[2]),
        ("labels", &[2]),
        ("scalar", &[]),
        ("arr_0", &[2, 1, 2, 3]),
    ];
    for (name, shape) in expected {
        if let Ok(tensor) = archive.array(name).and_then(|array| array.read(shape)) {
            assert_eq!(tensor.shape(), shape);
            map.insert(name, tensor);
        }
    }
    let mut pictures = archive.array("arr_0")?;
    let mut piece = [0; 6];
    for _ in 0..64 {
        if pictures.next(&mut piece).is_err() {
            break;
        }
    }
    Ok(map)
}

#[test]
fn hostile_npz() {
    let archives = [golden("npz/numpy.npz"), golden("npz/numpy_compressed.npz")];
    let parts: Vec<_> = archives.iter().map(|bytes| entries(bytes)).collect();
    let arrays: Vec<Vec<u8>> = parts[0].iter().map(|(_, array)| array.clone()).collect();
    const WORDS: [&[u8]; 12] = [
        b"'descr'",
        b"'shape'",
        b"'fortran_order'",
        b"True",
        b"False",
        b"(",
        b")",
        b", ",
        b"'<f8'",
        b"'|u1'",
        b"18446744073709551615",
        b"4294967296",
    ];
    trial("npz", statistics).run(|rng| {
        let which = rng.below(2);
        match rng.below(8) {
            // The archive itself, all of it or its index.
            kind @ 0..3 => {
                let mut bytes = archives[which].clone();
                damage(&mut bytes, &archives, (kind == 2).then_some(700), rng);
                bytes
            }
            // Damaged arrays, or headers of our making, in an archive that is whole.
            kind => {
                let mut contents = parts[which].clone();
                let method =
                    if rng.below(2) == 0 { CompressionMethod::Stored } else { CompressionMethod::Deflated };
                for (_, array) in &mut contents {
                    if kind > 5 {
                        let mut text = b"{".to_vec();
                        (0..rng.small(6)).for_each(|_| text.extend(pick(rng, &WORDS)));
                        text.push(b'}');
                        let end = array.len().min(128);
                        let length = (text.len() as u16).to_le_bytes();
                        array.splice(..end, [&b"\x93NUMPY\x01\0"[..], &length, &text].concat());
                    } else if rng.below(2) == 0 {
                        damage(array, &arrays, None, rng);
                    }
                }
                archive(&contents, method)
            }
        }
    });
}

/// An archive of a few hundred bytes that claims to hold three billion: whoever makes room for what its array has would not get it.
#[test]
fn an_archive_that_claims_more_than_it_can_hold() {
    let text = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1, 1, 3), }\n";
    let array = [&b"\x93NUMPY\x01\0"[..], &(text.len() as u16).to_le_bytes(), text, &[7; 3]].concat();
    let claimed = (array.len() as u32 - 3) + 3_000_000_000;
    let mut bytes = archive(&[("arr_0.npy".into(), array)], CompressionMethod::Deflated);
    let read = |bytes: &[u8]| {
        let mut archive = npz::Archive::new(Cursor::new(bytes), Path::new("a.npz")).unwrap();
        archive.array("arr_0").map(|array| array.shape().to_vec()).unwrap_err().to_string()
    };
    assert!(read(&bytes).contains("needs 3000000000 bytes of values, got 3"), "{}", read(&bytes));
    // The size before it was packed, of the entry and in the index.
    for (signature, at) in [(b"PK\x03\x04", 22), (b"PK\x01\x02", 24)] {
        let start = bytes.windows(4).position(|window| window == signature).unwrap() + at;
        bytes[start..start + 4].copy_from_slice(&claimed.to_le_bytes());
    }
    assert!(read(&bytes).contains("needs 3000000000 bytes of values, of "), "{}", read(&bytes));
}

/// Files of one thing many times over, which is what makes small files large in memory.
#[test]
fn wide_files_stay_small() {
    let mut torch = trial("wide.pt", torch::parse);
    let pickle = |start: &[u8], unit: &[u8]| {
        let program = [b"\x80\x02", start, &unit.repeat(400_000 / unit.len()), b"."].concat();
        archive(&[("m/data.pkl".into(), program)], CompressionMethod::Stored)
    };
    for unit in [
        &b"N"[..],
        b"(",
        b"}",
        b"]",
        b")",
        b"\x94",
        b"\x85",
        b"NNs",
        b"Na",
        b"h\0a",
        b"h\0h\0s",
        b"K\x01a",
        b"q\x01",
        b"]a",
        b"X\0\0\0\0}s",
        b"(NNNNu",
        b"(NNNNe",
        b"ccollections\nOrderedDict\n)RNs",
    ] {
        torch.check(&pickle(b"}q\0", unit));
        torch.check(&pickle(b"]q\0", unit));
        torch.check(&pickle(&b"}".repeat(1000), unit));
    }
    // Numbers that skip ahead.
    torch.check(&pickle(b"}r\xff\xff\x05\0", b"r\xff\xff\x05\0"));
    let empty: Vec<_> = (0..60_000).map(|i| (format!("{i:x}"), Vec::new())).collect();
    torch.check(&archive(&empty, CompressionMethod::Stored));

    torch.tell();

    let mut flax = trial("wide.msgpack", flax::parse);
    for unit in
        [&b"\xc7\x0b\x01\x93\x90\xa5uint8\xc4\x01\x07"[..], b"\xc0", b"\x90", b"\x80", b"\x81\xa0\xc0"]
    {
        let count = 400_000 / unit.len();
        let mut bytes = vec![0x81, 0xa1, b'a', 0xdd];
        bytes.extend((count as u32).to_be_bytes());
        bytes.extend(unit.repeat(count));
        flax.check(&bytes);
    }
    flax.tell();
}
