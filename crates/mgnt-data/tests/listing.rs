//! What a listing makes of deeper folders, of names that come again, and of what it cannot read.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{file_of, tar_bytes, tree, write_parquet};
use mgnt_data::{Format, HoldOut, Source, SourceOptions};
use parquet::file::properties::WriterProperties;
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

/// A member without bytes, that leads to another.
fn link(name: &str, to: &str, kind: EntryType) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_path(name).unwrap();
    header.set_link_name(to).unwrap();
    header.set_entry_type(kind);
    header.set_size(0);
    header.as_gnu_mut().unwrap().set_real_size(0);
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// As GNU tar writes what its command names twice.
#[test]
fn a_hard_link_to_itself_leaves_the_file_before_it() {
    let classes = tar_bytes(&[("a/1.jpg", b"one"), ("b/2.jpg", b"two")]);
    let with_link = |bytes: &[u8], name: &str, to: &str| {
        let at = bytes.len() - 1024;
        file_of(&[&bytes[..at], &link(name, to, EntryType::Link), &bytes[at..]].concat())
    };
    let source = with_link(&classes, "./a/1.jpg", "a/1.jpg");
    let source = open(source.path());
    expect(&source, &[("a/1.jpg", "one"), ("b/2.jpg", "two")]);
    assert!(reasons(&source).is_empty(), "{:?}", reasons(&source));

    let class = |text: &str| tar_bytes(&[("1.jpg", text.as_bytes())]);
    let nested = tar_bytes(&[("a.tar", &class("one")), ("b.tar", &class("two"))]);
    let source = with_link(&nested, "a.tar", "./a.tar");
    let source = open(source.path());
    expect(&source, &[("a/1.jpg", "one"), ("b/1.jpg", "two")]);
    assert!(reasons(&source).is_empty(), "{:?}", reasons(&source));

    // Without a file before it there is nothing of that name.
    let source = with_link(&classes, "b/3.jpg", "b/3.jpg");
    assert_eq!(reasons(&open(source.path())), [("b/3.jpg", "a hard link to itself")]);
}

/// Without it, the classes behind it would have other numbers.
#[test]
fn what_may_be_a_class_is_not_left_out_of_a_tar() {
    let class = tar_bytes(&[("1.jpg", b"one")]);
    let nested = tar_bytes(&[("b.tar", &class), ("c.tar", &class)]);
    let of = |name: &str, kind, rest: &[u8]| file_of(&[&link(name, "elsewhere", kind)[..], rest].concat());
    for (kind, what) in [
        (EntryType::Link, "a hard link, which is not followed"),
        (EntryType::Symlink, "a link, which is not followed"),
        (EntryType::GNUSparse, "a sparse file, which is not read"),
        (EntryType::Fifo, "not a regular file"),
    ] {
        let error = refusal(of("a.tar", kind, &nested).path());
        let told = format!(": `a.tar`: {what}; the tar of a class must be here as a plain file");
        assert!(error.ends_with(&told), "{error}");
    }
    let packed = refusal(of("a.tar.gz", EntryType::Symlink, &nested).path());
    assert!(
        packed.ends_with("`a.tar.gz`: unpack it to a file that ends in .tar, or take it away"),
        "{packed}"
    );
    let beside = of("notes", EntryType::Symlink, &nested);
    let beside = open(beside.path());
    assert_eq!((beside.len(), reasons(&beside)), (2, vec![("notes", "a link, which is not followed")]));

    let folders = tar_bytes(&[("train/b/1.jpg", b"b"), ("train/c/1.jpg", b"c")]);
    let split = SourceOptions { split: Some("train".into()), ..SourceOptions::default() };
    let of_split = |name: &str, kind| Source::open(of(name, kind, &folders).path(), &split);
    let error = of_split("train/a", EntryType::Symlink).unwrap_err().to_string();
    assert!(error.contains(": `train/a`: a link where a class folder may be"), "{error}");
    for (name, kind) in [("train/a.png", EntryType::Symlink), ("train/a", EntryType::Link)] {
        let source = of_split(name, kind).unwrap();
        assert_eq!((source.classes(), reasons(&source)[0].0), (&["b", "c"].map(String::from)[..], name));
    }
}

/// They may be of two splits, or of two sets.
#[test]
fn two_tars_of_one_class_in_one_archive_are_refused() {
    let class = tar_bytes(&[("1.jpg", b"one")]);
    let members = [("train/a.tar", &class[..]), ("train/b.tar", &class), ("val/a.tar", &class)];
    let error = refusal(file_of(&tar_bytes(&members)).path());
    assert!(error.ends_with(": `train/a.tar` and `val/a.tar` are both tars of the class `a`"), "{error}");
    // In a hidden folder it is none.
    let hidden = [("train/a.tar", &class[..]), (".old/a.tar", &class)];
    expect(&open(file_of(&tar_bytes(&hidden)).path()), &[("a/1.jpg", "one")]);
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

/// Whoever put them there may think that they are used; a list of classes or a licence is none of them.
#[test]
fn pictures_beside_the_classes_are_told_of() {
    const REASON: &str = "beside the class folders, so without a class";
    let files =
        ["train/a/1.jpg", "train/b/2.jpg", "train/3.PNG", "train/classes.txt", "train/.4.jpg", "5.jpg"];
    let split = SourceOptions { split: Some("train".into()), ..SourceOptions::default() };
    let members: Vec<(&str, &[u8])> = files.iter().map(|name| (*name, name.as_bytes())).collect();
    let (folder, tar) = (tree(&files), file_of(&tar_bytes(&members)));
    for path in [folder.path(), tar.path()] {
        let source = Source::open(path, &split).unwrap();
        expect(&source, &[("train/a/1.jpg", "train/a/1.jpg"), ("train/b/2.jpg", "train/b/2.jpg")]);
        assert_eq!(reasons(&source), [("train/3.PNG", REASON)]);
    }
}

/// A class of fewer files than that is trained on as a whole, and classes keep their numbers in both parts.
#[test]
fn every_nth_of_each_class_is_held_out() {
    let names: Vec<String> = (0..7).flat_map(|n| [format!("a/{n}.jpg"), format!("c/{n}.jpg")]).collect();
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.extend(["b/0.jpg", "b/1.jpg"]);
    let folder = tree(&names);
    let listed = |hold_out| {
        let source = Source::open(folder.path(), &SourceOptions { hold_out, ..SourceOptions::default() });
        let source = source.unwrap();
        assert_eq!(source.classes(), ["a", "b", "c"]);
        let keys = (0..source.len()).map(|index| (source.key(index).to_owned(), source.label(index)));
        (keys.collect::<Vec<_>>(), source.fingerprint())
    };
    let (held_out, one) = listed(Some(HoldOut::Every(3)));
    let (rest, other) = listed(Some(HoldOut::ExceptEvery(3)));
    let (mut whole, all) = listed(None);
    let expected = [("a/2.jpg", 0), ("a/5.jpg", 0), ("c/2.jpg", 2), ("c/5.jpg", 2)];
    assert_eq!(held_out, expected.map(|(key, label)| (key.to_owned(), label)));
    assert_eq!(rest.len(), 12);
    assert!(one != other && one != all && other != all);
    let mut both = [held_out, rest].concat();
    both.sort();
    whole.sort();
    assert_eq!(both, whole);

    for (hold_out, text) in [
        (HoldOut::Every(8), "no class has as many files as to take every 8"),
        (HoldOut::Every(1), "every: expected at least 2, got 1"),
        (HoldOut::ExceptEvery(0), "except every: expected at least 2, got 0"),
    ] {
        let options = SourceOptions { hold_out: Some(hold_out), ..SourceOptions::default() };
        let error = Source::open(folder.path(), &options).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }
}

/// What was skipped has no class: a like share of it is told of in each part.
#[test]
fn of_what_is_skipped_each_part_has_its_share() {
    let names: Vec<String> =
        (0..6).flat_map(|n| [format!("a/{n}.jpg"), format!("a/deep{n}/x.jpg")]).collect();
    let folder = tree(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let skipped = |hold_out| {
        let options = SourceOptions { hold_out: Some(hold_out), ..SourceOptions::default() };
        let source = Source::open(folder.path(), &options).unwrap();
        (source.len(), source.skipped().len())
    };
    assert_eq!(skipped(HoldOut::Every(3)), (2, 2));
    assert_eq!(skipped(HoldOut::ExceptEvery(3)), (4, 4));
}

#[test]
fn rows_and_members_of_archives_are_held_out_alike() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<[u8; 1]> = (0..9).map(|n| [n]).collect();
    let rows: Vec<(Option<&[u8]>, Option<i64>)> =
        bytes.iter().enumerate().map(|(n, bytes)| (Some(&bytes[..]), Some(n as i64 % 2))).collect();
    let path = folder.path().join("all.parquet");
    write_parquet(&path, &[&rows[..4], &rows[4..]], WriterProperties::default());
    let held_out = |path: &Path, hold_out| {
        let options = SourceOptions { hold_out: Some(hold_out), ..SourceOptions::default() };
        let source = Source::open(path, &options).unwrap();
        let mut reader = source.reader();
        let items: Vec<_> = reader.stream(0..source.len()).collect();
        items.into_iter().map(|item| source.bytes(item).unwrap()[0]).collect::<Vec<_>>()
    };
    // Class 0 has rows 0, 2, 4, 6, 8, class 1 has 1, 3, 5, 7.
    assert_eq!(held_out(&path, HoldOut::Every(2)), [2, 3, 6, 7]);
    assert_eq!(held_out(&path, HoldOut::ExceptEvery(2)), [0, 1, 4, 5, 8]);

    let members: Vec<(String, Vec<u8>)> = (0..9).map(|n| (format!("{}/{n}.jpg", n % 2), vec![n])).collect();
    let members: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let tar = file_of(&tar_bytes(&members));
    assert_eq!(held_out(tar.path(), HoldOut::Every(2)), [2, 6, 3, 7]);
}
