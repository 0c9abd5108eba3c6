//! Damaged stores and archives: whatever the bytes, the readers answer soon, without a panic and without taking much
//! more memory than the file.
//!
//! Each test runs for `MGNT_FUZZ_SECONDS` (1 if unset) from the seed `MGNT_FUZZ_SEED` (a fixed one if unset), so a
//! plain test run is short and a long one is `MGNT_FUZZ_SECONDS=600 cargo test -p mgnt-data --test hostile`.
//! Bytes that break a promise are kept in a file that the failure names.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../../tests/fuzzing.rs"]
mod fuzzing;

use std::fs;
use std::path::{Path, PathBuf};

use common::{tar_bytes, write_parquet};
use fuzzing::{Rng, Trial, damage};
use mgnt_data::manifest::sha256;
use mgnt_data::{
    Error, PictureStore, PrepareOptions, Source, SourceOptions, TokenStore, TokenStoreInfo, TokenWriter,
    prepare, synthetic, verify,
};
use parquet::basic::Compression;
use parquet::file::properties::{WriterProperties, WriterVersion};

/// What a reader may take at once, in times the file.
const PEAK_FACTOR: usize = 64;

/// Exchanges a number or a word of JSON for another, so that it stays JSON.
fn damage_json(text: &[u8], rng: &mut Rng) -> Vec<u8> {
    const VALUES: [&str; 16] = [
        "0",
        "1",
        "-1",
        "2",
        "65536",
        "4294967296",
        "18446744073709551615",
        "1e300",
        "null",
        "true",
        "\"\"",
        "[]",
        "{}",
        "\"../x\"",
        "\"/etc/passwd\"",
        "[0,18446744073709551615]",
    ];
    let text = String::from_utf8(text.to_vec()).unwrap();
    let marks: Vec<usize> = text.match_indices([':', ',', '[']).map(|(at, _)| at + 1).collect();
    let start = marks[rng.below(marks.len())];
    let end = start + text[start..].find([',', '\n', ']', '}']).unwrap_or(0);
    format!("{}{}{}", &text[..start], VALUES[rng.below(VALUES.len())], &text[end..]).into_bytes()
}

/// Makes cases until the time is over: `make` writes one into the folder it is given and returns its bytes, `read`
/// reads it.
fn run(
    what: &'static str,
    mut make: impl FnMut(&mut Rng, &Path) -> Vec<u8>,
    read: impl Fn(&Path) -> Result<usize, Error>,
) {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    Trial::new(what, PEAK_FACTOR, |_: &[u8]| read(folder).map(drop)).run(|rng| make(rng, folder));
}

/// Reads all that a source has, damaged as it may be.
fn read_source(path: &Path, options: &SourceOptions) -> Result<usize, Error> {
    let source = Source::open(path, options)?;
    let mut reader = source.reader();
    let read = reader.stream(0..source.len()).filter(|_| true).map(|item| source.bytes(item));
    let sound = read.filter(|bytes| bytes.is_ok()).count();
    assert_eq!(source.fingerprint().len(), 64);
    Ok(sound)
}

#[test]
fn hostile_tars() {
    let names =
        ["train/a/1.jpg", "train/b/1.jpg", "./train/b/2.jpg", "train/b/.hidden", "train/a/deep/2.jpg"];
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, name.as_bytes())).collect();
    let classes = tar_bytes(&members);
    let inner = tar_bytes(&[("n01_1.JPEG", b"one"), ("n01_2.JPEG", &[7; 700])]);
    let nested = tar_bytes(&[("n01.tar", &inner), ("n02.tar", &inner)]);
    let samples = tar_bytes(&[
        ("a/1.jpg", b"one"),
        ("a/1.cls", b"12"),
        ("a/2.png", b"two"),
        ("a/2.json", b"{\"label\": 3}"),
    ]);
    let seeds = [classes, nested, samples];
    run(
        "tar",
        |rng, folder| {
            let mut bytes = seeds[rng.below(3)].clone();
            // A header whose sum is right is read further.
            let again = rng.below(2) == 0;
            damage(&mut bytes, &[], None, rng);
            if again {
                for header in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
                    header[148..156].fill(b' ');
                    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
                    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
            fs::write(folder.join("x.tar"), &bytes).unwrap();
            bytes
        },
        |folder| read_source(&folder.join("x.tar"), &SourceOptions::default()),
    );
}

/// The Parquet library panics on some damaged files, which our reader makes an error of; to print each, and to
/// allocate for its backtrace, would drown what is measured.
fn hush_the_library() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|place| place.file().contains("mgnt-data")) {
            usual(panic);
        }
    }));
}

#[test]
fn hostile_parquet() {
    hush_the_library();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let pictures: Vec<Vec<u8>> = (0..6u8).map(|i| vec![i; 40 + 13 * usize::from(i)]).collect();
    let rows: Vec<(Option<&[u8]>, Option<i64>)> = pictures
        .iter()
        .enumerate()
        .map(|(i, p)| ((i != 3).then_some(&p[..]), (i != 4).then_some(i as i64 % 3)))
        .collect();
    let plain =
        WriterProperties::builder().set_dictionary_enabled(false).set_compression(Compression::UNCOMPRESSED);
    let small_pages = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_data_page_row_count_limit(2)
        .set_write_batch_size(1);
    let second = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::SNAPPY);
    let seeds =
        [plain.build(), small_pages.build(), second.build(), WriterProperties::default()].map(|properties| {
            write_parquet(&path, &[&rows[..4], &rows[4..]], properties);
            assert!(read_source(&path, &SourceOptions::default()).unwrap() >= 4);
            fs::read(&path).unwrap()
        });
    run(
        "parquet",
        |rng, folder| {
            let mut bytes = seeds[rng.below(seeds.len())].clone();
            let tail = match rng.below(3) {
                0 => Some(8),
                1 => Some(700),
                _ => None,
            };
            damage(&mut bytes, &[], tail, rng);
            fs::write(folder.join("x.parquet"), &bytes).unwrap();
            bytes
        },
        |folder| read_source(&folder.join("x.parquet"), &SourceOptions::default()),
    );
}

/// A small store of pictures or of tokens.
fn store(tokens: bool, folder: &Path) -> PathBuf {
    let out = folder.join("store");
    if tokens {
        fs::create_dir(&out).unwrap();
        let info = TokenStoreInfo {
            grid: [2, 3],
            codes: 10,
            classes: vec!["a".into(), "b".into()],
            tokenizer: sha256(b""),
            codes_sha256: None,
            source: "test".into(),
        };
        let mut writer = TokenWriter::new(&out, info);
        (0..5).for_each(|i| writer.push(&[i, 1, 2, 3, 4, 9], usize::from(i) % 2).unwrap());
        writer.finish().unwrap();
    } else {
        let source = folder.join("source");
        synthetic::write_folder(&source, 1, 16, 1).unwrap();
        fs::write(source.join("disc/none.png"), "none").unwrap();
        let options =
            PrepareOptions { size: 2, max_rejected: 1.0, shard_items: Some(5), ..PrepareOptions::default() };
        prepare(&source, &options, &out, &mut |_, _| {}).unwrap();
    }
    out
}

fn read_store(tokens: bool, folder: &Path) -> Result<usize, Error> {
    let verified = verify(folder);
    let items = if tokens {
        let store = TokenStore::open(folder)?;
        let sums = (0..store.len()).map(|i| store.tokens(i).len() + store.label(i));
        assert!(sums.sum::<usize>() < usize::MAX);
        store.len()
    } else {
        let store = PictureStore::open(folder)?;
        let sums = (0..store.len()).map(|i| store.picture(i).len() + store.label(i));
        assert!(sums.sum::<usize>() < usize::MAX);
        store.len()
    };
    // What is sound can be opened, not the other way round: opening does not compute sums.
    Ok(verified?.items.min(items))
}

/// Damages one file of a store and, now and then, its checksum to match.
fn hostile_store(what: &'static str, tokens: bool, damages_manifest: bool) {
    let own = tempfile::tempdir().unwrap();
    let sound = store(tokens, own.path());
    assert!(read_store(tokens, &sound).unwrap() > 0);
    let files: Vec<(String, Vec<u8>)> = fs::read_dir(&sound)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    let shards: Vec<usize> = (0..files.len()).filter(|&at| files[at].0 != "manifest.json").collect();
    let manifest = files.iter().position(|(name, _)| name == "manifest.json").unwrap();
    run(
        what,
        |rng, folder| {
            for (name, bytes) in &files {
                fs::write(folder.join(name), bytes).unwrap();
            }
            if damages_manifest {
                let mut bytes = files[manifest].1.clone();
                for _ in 0..1 + rng.below(2) {
                    bytes = damage_json(&bytes, rng);
                }
                if rng.below(4) == 0 {
                    damage(&mut bytes, &[], None, rng);
                }
                fs::write(folder.join("manifest.json"), &bytes).unwrap();
                return bytes;
            }
            let (name, sound) = &files[shards[rng.below(shards.len())]];
            let mut bytes = sound.clone();
            damage(&mut bytes, &[], None, rng);
            fs::write(folder.join(name), &bytes).unwrap();
            if rng.below(4) > 0 {
                let text = String::from_utf8(files[manifest].1.clone()).unwrap();
                fs::write(folder.join("manifest.json"), text.replace(&sha256(sound), &sha256(&bytes)))
                    .unwrap();
            }
            bytes
        },
        |folder| read_store(tokens, folder),
    );
}

#[test]
fn hostile_picture_manifests() {
    hostile_store("picture-manifest", false, true);
}

#[test]
fn hostile_picture_shards() {
    hostile_store("picture-shard", false, false);
}

#[test]
fn hostile_token_manifests() {
    hostile_store("token-manifest", true, true);
}

#[test]
fn hostile_token_shards() {
    hostile_store("token-shard", true, false);
}
