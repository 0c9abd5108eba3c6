//! What a listing makes of deeper folders, of names that come again, and of what it cannot read.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{file_of, tar_bytes, tree};
use mgnt_data::{Format, Source, SourceOptions};
use tar::{EntryType, Header};

fn open(path: &Path) -> Source {
    Source::open(path, &SourceOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(path: &Path) -> String {
    Source::open(path, &SourceOptions::default()).unwrap_err().to_string()
}

/// Keys and contents.
fn items(source: &Source) -> Vec<(&str, String)> {
    let text = |item| String::from_utf8(source.bytes(item).unwrap()).unwrap();
    source.reader().stream(0..source.len()).map(|item| (source.key(item.index), text(item))).collect()
}

fn expect(source: &Source, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
    assert_eq!(items(source), expected);
}

fn reasons(source: &Source) -> Vec<(&str, &str)> {
    source.skipped().iter().map(|skipped| (skipped.key.as_str(), skipped.reason.as_str())).collect()
}

const DEEPER: &str = "a folder within a class, which is not read";

#[test]
fn a_folder_within_a_class_is_listed_once() {
    let files =
        ["a/1.jpg", "a/more/2.jpg", "a/more/3.jpg", "a/more/still/4.jpg", "a/.cache/5.jpg", "b/6.jpg"];
    let members: Vec<(&str, &[u8])> = files.iter().map(|file| (*file, file.as_bytes())).collect();
    let (folder, archive) = (tree(&files), file_of(&tar_bytes(&members)));
    for path in [folder.path(), archive.path()] {
        let source = open(path);
        expect(&source, &[("a/1.jpg", "a/1.jpg"), ("b/6.jpg", "b/6.jpg")]);
        assert_eq!(reasons(&source), [("a/more", DEEPER)]);
    }
    let labels = file_of(b"x y");
    let flat = SourceOptions { labels: Some(labels.path().into()), ..SourceOptions::default() };
    let folder = tree(&["x", "more/2.jpg", ".cache/3.jpg"]);
    let source = Source::open(folder.path(), &flat).unwrap();
    assert_eq!(reasons(&source), [("more", "a folder, which is not read")]);
}

#[test]
fn a_class_of_which_nothing_is_read_has_the_reason() {
    let files = ["train/n01/1.jpg", "val/n01/2.jpg"];
    let archive = file_of(&tar_bytes(&files.map(|file| (file, &b"x"[..]))));
    let folder = tree(&files);
    for path in [folder.path(), archive.path()] {
        let hint = "(name `train` as the split if its folders are the classes)";
        let told = format!("class `train` has no files; train/n01: {DEEPER} {hint}");
        assert!(refusal(path).ends_with(&told), "{}", refusal(path));
        let split = SourceOptions { split: Some("train".into()), ..SourceOptions::default() };
        assert_eq!(Source::open(path, &split).unwrap().classes(), ["n01"]);
    }
    let with_empty = tree(&["a/1.jpg"]);
    fs::create_dir(with_empty.path().join("b")).unwrap();
    assert!(refusal(with_empty.path()).ends_with("class `b` has no files"));
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("../a/1.jpg", with_empty.path().join("b/2.jpg")).unwrap();
        let error = refusal(with_empty.path());
        assert!(error.ends_with("class `b` has no files; b/2.jpg: a link, which is not followed"), "{error}");
    }
}

/// As `tar --append` and `tar --update` write it.
#[test]
fn the_last_of_a_name_counts() {
    let archive = |members: &[(&str, &str)]| {
        tar_bytes(&members.iter().map(|(name, text)| (*name, text.as_bytes())).collect::<Vec<_>>())
    };
    let classes =
        archive(&[("a/1", "old"), ("b/1", "b"), ("./a/1", "older"), ("a/2", "two"), ("a/1", "new")]);
    expect(&open(file_of(&classes).path()), &[("a/1", "new"), ("a/2", "two"), ("b/1", "b")]);

    let mut link = Header::new_ustar();
    link.set_path("a/2").unwrap();
    link.set_entry_type(EntryType::Symlink);
    link.set_size(0);
    link.set_cksum();
    // Before the two blocks at the end.
    let at = classes.len() - 1024;
    let source = file_of(&[&classes[..at], link.as_bytes(), &classes[at..]].concat());
    let source = open(source.path());
    expect(&source, &[("a/1", "new"), ("b/1", "b")]);
    assert_eq!(reasons(&source), [("a/2", "a link, which is not followed")]);

    let class = archive(&[("1", "old"), ("1", "new")]);
    let nested = file_of(&tar_bytes(&[("n01.tar", &archive(&[("2", "old")])), ("n01.tar", &class)]));
    expect(&open(nested.path()), &[("n01/1", "new")]);
    let labels = file_of(b"n01\n");
    let flat = SourceOptions { labels: Some(labels.path().into()), ..SourceOptions::default() };
    expect(&Source::open(file_of(&class).path(), &flat).unwrap(), &[("1", "new")]);

    // The picture alone came again: it is still beside its label.
    let shard =
        archive(&[("1.jpg", "old"), ("1.cls", "0"), ("2.jpg", "2"), ("2.cls", "0"), ("1.jpg", "new")]);
    let shard = file_of(&shard);
    let source = open(shard.path());
    assert_eq!((source.format(), source.skipped()), (Format::WebDataset, &[][..]));
    let texts: Vec<_> = items(&source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["new", "2"]);
}

#[test]
fn a_compressed_archive_is_told_to_be_one() {
    let cases: [(&[u8], &str); 5] = [
        (b"\x1f\x8b\x08\x00", "compressed with gzip"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"\xfd7zXZ\x00", "compressed with xz"),
    ];
    for (magic, what) in cases {
        for bytes in [[magic, &[0xa5; 2000]].concat(), magic.to_vec()] {
            let told = format!("{what}, which is not read; unpack it to a tar or a folder first");
            let error = refusal(file_of(&bytes).path());
            assert!(error.ends_with(&format!(": {told}")), "{error}");
            let error = refusal(file_of(&tar_bytes(&[("n01.tar", &bytes)])).path());
            assert!(error.ends_with(&format!("n01.tar within it: {told}")), "{error}");
        }
    }
    // It is what begins so and is no tar.
    expect(&open(file_of(&tar_bytes(&[("BZh/1", b"x")])).path()), &[("BZh/1", "x")]);
}
