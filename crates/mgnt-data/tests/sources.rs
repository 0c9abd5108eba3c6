//! Every kind of source: what is listed, in which order, with which classes, and what is refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;

use common::{Groups, file_of, tar_bytes, tree, write_parquet};
use mgnt_data::{Error, Format, Source, SourceOptions};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use tempfile::NamedTempFile;

/// An archive of files, each of which contains its own name.
fn tar_of(names: &[&str]) -> NamedTempFile {
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (*name, name.as_bytes())).collect();
    file_of(&tar_bytes(&members))
}

fn split(split: &str) -> SourceOptions {
    SourceOptions { split: Some(split.into()), ..SourceOptions::default() }
}

fn with_labels(labels: &NamedTempFile) -> SourceOptions {
    SourceOptions { labels: Some(labels.path().into()), ..SourceOptions::default() }
}

fn with_names(labels: &NamedTempFile, names: &NamedTempFile) -> SourceOptions {
    SourceOptions { names: Some(names.path().into()), ..with_labels(labels) }
}

fn open(path: &Path, options: &SourceOptions) -> Source {
    Source::open(path, options).unwrap_or_else(|e| panic!("{e}"))
}

fn open_any(path: &Path) -> Source {
    open(path, &SourceOptions::default())
}

fn refusal(path: &Path, options: &SourceOptions) -> String {
    Source::open(path, options).unwrap_err().to_string()
}

/// Keys, classes and contents.
fn items(source: &Source) -> Vec<(String, String, String)> {
    source
        .reader()
        .stream(0..source.len())
        .map(|item| {
            let index = item.index;
            let text = String::from_utf8(source.bytes(item).unwrap()).unwrap();
            (source.key(index).to_owned(), source.classes()[source.label(index)].clone(), text)
        })
        .collect()
}

fn expect(source: &Source, expected: &[(&str, &str, &str)]) {
    let expected: Vec<_> =
        expected.iter().map(|(a, b, c)| (a.to_string(), b.to_string(), c.to_string())).collect();
    assert_eq!(items(source), expected);
}

fn reasons(source: &Source) -> Vec<(&str, &str)> {
    source.skipped().iter().map(|skipped| (skipped.key.as_str(), skipped.reason.as_str())).collect()
}

#[test]
fn a_folder_and_its_tar_are_the_same() {
    let files = ["train/b/2.jpg", "train/a/1.jpg", "train/b/1.jpg", "val/c/1.jpg"];
    let folder = tree(&files);
    let archive = tar_of(&files);
    let a = open(folder.path(), &split("train"));
    let b = open(archive.path(), &split("train"));
    assert_eq!((a.format(), a.classes()), (Format::Classes, &["a".to_owned(), "b".to_owned()][..]));
    expect(
        &a,
        &[
            ("train/a/1.jpg", "a", "train/a/1.jpg"),
            ("train/b/1.jpg", "b", "train/b/1.jpg"),
            ("train/b/2.jpg", "b", "train/b/2.jpg"),
        ],
    );
    assert_eq!(items(&a), items(&b));
    assert_eq!((a.label(0), a.label(2)), (0, 1));
    // A part of it is that part of the whole.
    let part: Vec<_> = b.reader().stream(1..3).map(|item| b.key(item.index).to_owned()).collect();
    assert_eq!(part, ["train/b/1.jpg", "train/b/2.jpg"]);
}

/// What editors and systems leave beside data is no class, and no picture, in a folder as in a tar of it.
#[test]
fn hidden_files_and_folders_are_passed_over() {
    let files = [".thumbs/t.png", "a/.DS_Store", "a/1.jpg", "a/.cache/2.jpg", "b/1.jpg"];
    let (folder, archive) = (tree(&files), tar_of(&files));
    fs::create_dir(folder.path().join(".ipynb_checkpoints")).unwrap();
    let (a, b) = (open_any(folder.path()), open_any(archive.path()));
    expect(&a, &[("a/1.jpg", "a", "a/1.jpg"), ("b/1.jpg", "b", "b/1.jpg")]);
    assert_eq!(items(&a), items(&b));
    assert_eq!((a.classes(), reasons(&a)), (b.classes(), reasons(&b)));
    assert_eq!(a.classes().len(), 2);
}

/// Links, too, in the formats whose files are not by folder.
#[cfg(unix)]
#[test]
fn hidden_links_are_passed_over() {
    use std::os::unix::fs::symlink;
    let flat = tree(&["v_1.JPEG", ".v_0.JPEG"]);
    symlink("v_1.JPEG", flat.path().join(".link.JPEG")).unwrap();
    let labels = file_of(b"n01\n");
    let options = with_labels(&labels);
    let mut hidden = tar::Header::new_ustar();
    hidden.set_path(".link.JPEG").unwrap();
    hidden.set_link_name("v_1.JPEG").unwrap();
    hidden.set_size(0);
    hidden.set_entry_type(tar::EntryType::Symlink);
    hidden.set_cksum();
    let archive = file_of(&[hidden.as_bytes(), &tar_bytes(&[("v_1.JPEG", b"v_1.JPEG")])[..]].concat());
    for path in [flat.path(), archive.path()] {
        let source = open(path, &options);
        expect(&source, &[("v_1.JPEG", "n01", "v_1.JPEG")]);
        assert!(reasons(&source).is_empty(), "{:?}", reasons(&source));
    }
    let class = [hidden.as_bytes(), &tar_bytes(&[("n01_1.JPEG", b"one")])[..]].concat();
    let nested = file_of(&tar_bytes(&[("n01.tar", &class)]));
    let source = open_any(nested.path());
    expect(&source, &[("n01/n01_1.JPEG", "n01", "one")]);
    assert!(reasons(&source).is_empty(), "{:?}", reasons(&source));
}

#[test]
fn what_is_not_a_folder_per_class() {
    let any = SourceOptions::default();
    assert!(refusal(Path::new("no/such"), &any).starts_with("no/such: "));
    assert!(refusal(tree(&["a.jpg"]).path(), &any).contains("no class folders"));
    assert!(refusal(tree(&["train/a/1.jpg"]).path(), &split("val")).contains("val"));
    for outside in ["", "..", "train/..", "/", "/etc", "train/"] {
        assert!(
            refusal(tree(&["train/a/1.jpg"]).path(), &split(outside)).contains("a folder within the source")
        );
    }
    assert!(refusal(file_of(&[b'x'; 2048]).path(), &any).contains("tar archive"));
    // A member beside the split is named, too.
    let outside = "../a/x.jpg";
    assert!(refusal(tar_of(&["train/a/1.jpg", outside]).path(), &split("train")).contains(outside));
}

#[cfg(unix)]
#[test]
fn links_are_listed_and_not_followed() {
    use std::os::unix::fs::symlink;
    let outside = tree(&["secret.jpg"]);
    let folder = tree(&["a/1.jpg", "c/1.jpg"]);
    symlink(outside.path().join("secret.jpg"), folder.path().join("a/2.jpg")).unwrap();
    symlink(outside.path().join("secret.jpg"), folder.path().join("notes")).unwrap();
    let source = open_any(folder.path());
    expect(&source, &[("a/1.jpg", "a", "a/1.jpg"), ("c/1.jpg", "c", "c/1.jpg")]);
    let reason = "a link, which is not followed";
    assert_eq!(reasons(&source), [("a/2.jpg", reason), ("notes", reason)]);
    // Without it, `c` would have another number.
    for target in [outside.path(), Path::new("nowhere")] {
        symlink(target, folder.path().join("b")).unwrap();
        let error = refusal(folder.path(), &SourceOptions::default());
        assert!(error.contains("/b: a link where a class folder may be"), "{error}");
        fs::remove_file(folder.path().join("b")).unwrap();
    }
    let mut bytes = tar_bytes(&[("a", b"")]);
    bytes[156] = b'2';
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|&byte| u32::from(byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let error = refusal(file_of(&bytes).path(), &SourceOptions::default());
    assert!(error.contains("`a`: a link where a class folder may be"), "{error}");
}

/// The Hub's cache is all links, and large class tars often lie on another disk.
#[cfg(unix)]
#[test]
fn shards_and_class_tars_may_be_links() {
    use std::os::unix::fs::symlink;
    let blobs = tempfile::tempdir().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (blob, link) = (|name: &str| blobs.path().join(name), |name: &str| folder.path().join(name));
    let groups: Groups = &[&[(Some(b"p0"), Some(0)), (Some(b"p1"), Some(1))]];
    write_parquet(&blob("3f7a"), groups, WriterProperties::default());
    symlink(blob("3f7a"), link("train-0.parquet")).unwrap();
    let source = open_any(folder.path());
    assert_eq!((source.format(), source.len()), (Format::Parquet, 2));
    // Not both at once.
    symlink(blob("3f7a"), link("validation-0.parquet")).unwrap();
    let error = refusal(folder.path(), &SourceOptions::default());
    assert!(error.contains("shards of `train` and of `validation`"), "{error}");
    let options = SourceOptions { split: Some("validation".into()), ..SourceOptions::default() };
    assert_eq!(open(folder.path(), &options).len(), 2);
    fs::remove_file(link("validation-0.parquet")).unwrap();
    fs::remove_file(link("train-0.parquet")).unwrap();

    for class in ["n01", "n02"] {
        fs::write(blob(class), tar_bytes(&[("1.JPEG", class.as_bytes())])).unwrap();
    }
    fs::copy(blob("n01"), link("n01.tar")).unwrap();
    symlink(blob("n02"), link("n02.tar")).unwrap();
    expect(&open_any(folder.path()), &[("n01/1.JPEG", "n01", "n01"), ("n02/1.JPEG", "n02", "n02")]);
    fs::remove_file(blob("n02")).unwrap();
    assert!(refusal(folder.path(), &SourceOptions::default()).contains("n02.tar: "), "a link to nothing");
}

#[test]
fn folders_and_tars_side_by_side_are_not_guessed_at() {
    let folder = tree(&["n01/1.jpg", "n02/1.jpg"]);
    fs::write(folder.path().join("n03.tar"), tar_bytes(&[("1.jpg", b"x")])).unwrap();
    let error = refusal(folder.path(), &SourceOptions::default());
    assert!(
        error.contains("`n01`") && error.contains("`n03.tar`") && error.contains("a format must be named"),
        "{error}"
    );
    for (format, classes) in [(Format::Classes, &["n01", "n02"][..]), (Format::Ilsvrc, &["n03"])] {
        let options = SourceOptions { format: Some(format), ..SourceOptions::default() };
        assert_eq!(open(folder.path(), &options).classes(), classes);
    }
    for other in ["n01", "n02", "n03.tar"] {
        fs::write(folder.path().join("0.parquet"), b"PAR1").unwrap();
        let error = refusal(folder.path(), &SourceOptions::default());
        assert!(error.contains(&format!("`{other}` and the archive `0.parquet`")), "{error}");
        let _ = fs::remove_dir_all(folder.path().join(other));
    }
}

/// ILSVRC2012 as it is handed out is the same as a folder per class.
#[test]
fn nested_tars_and_a_folder_of_tars_are_a_folder_per_class() {
    let names = ["n02/n02_1.JPEG", "n02/n02_0.JPEG", "n01/n01_7.JPEG"];
    let folder = tree(&names);
    let class = |class: &str| {
        let of_class: Vec<(&str, &[u8])> = names
            .iter()
            .filter_map(|name| Some((name.strip_prefix(class)?.strip_prefix('/')?, name.as_bytes())))
            .collect();
        tar_bytes(&of_class)
    };
    let (one, two) = (class("n01"), class("n02"));
    let nested = file_of(&tar_bytes(&[("n02.tar", &two), ("n01.tar", &one)]));
    let tars = tempfile::tempdir().unwrap();
    fs::write(tars.path().join("n01.tar"), &one).unwrap();
    fs::write(tars.path().join("n02.tar"), &two).unwrap();
    let plain = open_any(folder.path());
    for path in [nested.path(), tars.path()] {
        let source = open_any(path);
        assert_eq!(source.format(), Format::Ilsvrc);
        assert_eq!(items(&source), items(&plain));
        assert_eq!(source.classes(), plain.classes());
    }

    // A class that would be left out without a word, and the numbers of those behind it with it.
    for (other, what) in [
        ("n015.tar.gz", "unpack it to a file"),
        ("n015.TAR", "rename it to one"),
        ("n015.tbz2", "unpack it to a file"),
    ] {
        let told = format!("`{other}`: {what} that ends in .tar, or take it away");
        fs::write(tars.path().join(other), b"").unwrap();
        let error = refusal(tars.path(), &SourceOptions::default());
        assert!(error.ends_with(&told), "{error}");
        fs::remove_file(tars.path().join(other)).unwrap();
        // Within a tar, beside class folders, and with nothing beside it.
        let within = file_of(&tar_bytes(&[("n01.tar", &one), (other, b""), ("n02.tar", &two)]));
        let error = refusal(within.path(), &SourceOptions::default());
        assert!(error.ends_with(&told), "{error}");
        let mixed = tree(&["n01/a.png", "n02/b.png"]);
        fs::write(mixed.path().join(other), b"").unwrap();
        let error = refusal(mixed.path(), &SourceOptions::default());
        assert!(
            error.contains("the folder `n01`") && error.contains(&format!("the archive `{other}`")),
            "{error}"
        );
        let alone = tempfile::tempdir().unwrap();
        fs::write(alone.path().join(other), b"").unwrap();
        let error = refusal(alone.path(), &SourceOptions::default());
        assert!(error.ends_with(&told), "{error}");
    }

    // The folder that it was downloaded to, beside another.
    let downloads = tempfile::tempdir().unwrap();
    fs::copy(nested.path(), downloads.path().join("ILSVRC2012_img_train.tar")).unwrap();
    let error = refusal(downloads.path(), &SourceOptions::default());
    assert!(error.contains("img_train.tar: holds `n02.tar`"), "{error}");

    let cut = file_of(&tar_bytes(&[("n01.tar", &one), ("n02.tar", &two[..1100])]));
    let error = refusal(cut.path(), &SourceOptions::default());
    assert!(error.contains("n02.tar within it") && error.contains("tar archive"), "{error}");
    let evil = tar_bytes(&[("../../x.JPEG", b"x")]);
    let error = refusal(file_of(&tar_bytes(&[("n01.tar", &evil)])).path(), &SourceOptions::default());
    assert!(error.contains("outside"), "{error}");
}

#[test]
fn flat_pictures_have_their_classes_from_a_file() {
    let archive = tar_of(&["v_2.JPEG", "v_1.JPEG", "v_3.JPEG"]);
    let folder = tree(&["v_2.JPEG", "v_1.JPEG", "v_3.JPEG"]);
    let expected =
        [("v_1.JPEG", "n02", "v_1.JPEG"), ("v_2.JPEG", "n01", "v_2.JPEG"), ("v_3.JPEG", "n02", "v_3.JPEG")];
    let synsets = "n02\nn01\nn02\n";
    let by_name = "v_3 n02\nv_2 n01\nv_1.JPEG n02";
    let solution =
        "ImageId,PredictionString\nv_1,n02 1 2 3 4 \nv_3,n02 1 1 1 1\nv_2,n01 9 9 9 9 n01 8 8 8 8\n";
    for text in [synsets, by_name, solution] {
        let labels = file_of(text.as_bytes());
        for path in [archive.path(), folder.path()] {
            expect(&open(path, &with_labels(&labels)), &expected);
        }
    }
    // The ground truth of ILSVRC numbers its classes from 1, in an order of its own.
    let numbers = file_of(b"2\n1\n2\n");
    assert!(refusal(archive.path(), &with_labels(&numbers)).contains("classes' names"));
    let synsets = file_of(b"n01\nn02\n");
    let source = open(archive.path(), &with_names(&numbers, &synsets));
    expect(&source, &expected);
    assert_eq!(source.classes(), ["n01", "n02"]);

    // A number that is also the name of another class may be either.
    let either = file_of(b"1\n10\n2\n");
    let error = refusal(archive.path(), &with_names(&numbers, &either));
    assert!(error.contains("the number of `10`") && error.contains("the name of number 3"), "{error}");
    let same = file_of(b"1\n2\n10\n");
    assert_eq!(open(archive.path(), &with_names(&numbers, &same)).classes(), ["1", "10", "2"]);

    let refuse = |text: &str| refusal(archive.path(), &with_labels(&file_of(text.as_bytes())));
    assert!(refuse("n01\nn02\n").contains("2 labels for 3 pictures"));
    assert!(refuse("v_1 n01\nv_2 n01\n").contains("no label for `v_3.JPEG`"));
    assert!(refuse("n01\nv_2 n01\nn01\n").contains("columns"));
    assert!(refuse("v_1,n01,0.9\nv_2,n01,0.8\nv_3,n01,0.9\n").contains("more columns"));
    assert!(refuse("-1\n2\n1\n").contains("class -1 is a number"));
    assert!(refuse("1.0\n2.0\n1.0\n").contains("class 1.0 is a number"));
    assert!(refuse("v_1 n01\nv_2 n01\nv_3 n01\nv_1 n02\n").contains("`v_1` has two classes"));
    let (numbers, twice) = (file_of(b"1\n2\n3\n"), file_of(b"crane\ndog\ncrane\n"));
    let error = refusal(archive.path(), &with_names(&numbers, &twice));
    assert!(error.contains("two classes are called `crane`"), "{error}");
    assert!(error.starts_with(twice.path().to_str().unwrap()), "{error}");
    let cases = [
        ("0\n1\n1", "class 0"),
        ("1\n2\n3\n", "class 3"),
        ("-1\n2\n1\n", "class -1"),
        ("1.5\n2\n1\n", "class 1.5"),
        ("n01\nn03\nn01\n", "class `n03` is not in"),
    ];
    for (text, part) in cases {
        let labels = file_of(text.as_bytes());
        assert!(refusal(archive.path(), &with_names(&labels, &synsets)).contains(part));
    }
}

#[test]
fn a_class_a_line_may_have_spaces_where_the_names_are_known() {
    let folder = tree(&["v_1.JPEG", "v_2.JPEG", "v_3.JPEG"]);
    let file = |text: &str| file_of(text.as_bytes());
    for text in ["golden fish\ngolden dog\ngolden fish\n", "tench\ngolden dog\ntench\n"] {
        let labels = file(text);
        let error = refusal(folder.path(), &with_labels(&labels));
        assert!(
            error.ends_with("picture's name and a tab before them, or a list of the classes' names"),
            "{error}"
        );
        let (fish, misspelt) =
            (file("golden fish\ngolden dog\ngolden dog\n"), file("tench\ngolden dog\ngolden fsh\n"));
        let error = refusal(folder.path(), &with_names(&fish, &misspelt));
        let told = format!("as a class alone, `golden fish` is not in {}", misspelt.path().display());
        assert!(error.contains(&told), "{error}");
        let names = file("tench\ngolden dog\ngolden fish\n");
        let source = open(folder.path(), &with_names(&labels, &names));
        assert_eq!(source.classes(), ["golden dog", "golden fish", "tench"]);
        assert_eq!([source.label(1), source.label(0)], [0, if text.starts_with('t') { 2 } else { 1 }]);
        assert_eq!(source.label(0), source.label(2));
    }
}

#[test]
fn classes_of_flat_pictures_may_have_spaces() {
    let folder = tree(&["v_1.JPEG", "v_2.JPEG", "v_3.JPEG"]);
    let opened = |text: &str| open(folder.path(), &with_labels(&file_of(text.as_bytes())));
    let tabs = "\u{feff}v_1\tgolden retriever\nv_2\tgoldfish, Carassius auratus\nv_3\tgolden retriever\n";
    let commas = "v_1.JPEG, golden retriever\nv_2.JPEG,golden fish\nv_3.JPEG,golden retriever,\n";
    let spaces = "v_1 golden retriever\nv_2 golden 1 2 3 fish\nv_3 golden retriever";
    for (text, second) in
        [(tabs, "goldfish, Carassius auratus"), (commas, "golden fish"), (spaces, "golden 1 2 3 fish")]
    {
        let source = opened(text);
        let classes: Vec<_> = (0..3).map(|index| &source.classes()[source.label(index)]).collect();
        assert_eq!(classes, ["golden retriever", second, "golden retriever"]);
    }
    assert_eq!(opened("\u{feff}n01\nn02\nn01\n").classes(), ["n01", "n02"]);
}

/// A part of a validation set must have the labels of the store that a model was trained on.
#[test]
fn with_names_all_of_them_are_classes() {
    let folder = tree(&["v_1.JPEG", "v_2.JPEG"]);
    let [numbers, synsets, names] =
        ["3\n1\n", "n02\nn04\n", "n04\nn01\nn02\nn03\n\n"].map(|text| file_of(text.as_bytes()));
    for labels in [numbers, synsets] {
        let source = open(folder.path(), &with_names(&labels, &names));
        assert_eq!(source.classes(), ["n01", "n02", "n03", "n04"]);
        assert_eq!((source.label(0), source.label(1)), (1, 3));
        assert!(source.has_files(3) && !source.has_files(0));
    }
}

#[test]
fn webdataset_shards() {
    let folder = tempfile::tempdir().unwrap();
    let first = tar_bytes(&[
        ("s1/0001.cls", b"3\n"),
        ("s1/0001.jpg", b"one"),
        ("s1/0001.txt", b"a caption"),
        (".trash/0001.png", b"gone"),
        (".trash/0001.cls", b"9"),
        ("s1/0002.png", b"two"),
        ("s1/0002.json", br#"{"label": 1, "filename": "x"}"#),
    ]);
    let second = tar_bytes(&[
        ("0003.jpg", b"no label"),
        ("0004.cls", b"1"),
        ("0005.jpg", b"x"),
        ("0005.cls", b"-1"),
        ("0006.jpg", b"y"),
        ("0006.json", b"{"),
        ("0007.JPG", b"seven"),
        ("0007.cls", b"0"),
    ]);
    fs::write(folder.path().join("in-train-000000.tar"), first).unwrap();
    fs::write(folder.path().join("in-train-000001.tar"), second).unwrap();
    fs::write(folder.path().join("in-val-000000.tar"), tar_bytes(&[("1.jpg", b"v"), ("1.cls", b"0")]))
        .unwrap();
    let source = open(folder.path(), &split("train"));
    assert_eq!((source.format(), source.classes().len()), (Format::WebDataset, 4));
    expect(
        &source,
        &[
            ("in-train-000000/s1/0001.jpg", "3", "one"),
            ("in-train-000000/s1/0002.png", "1", "two"),
            ("in-train-000001/0007.JPG", "0", "seven"),
        ],
    );
    assert!(source.has_files(3) && !source.has_files(2));
    let seen = reasons(&source);
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!(seen[0].0, "in-train-000001/0003.jpg");
    assert_eq!(seen[1], ("in-train-000001/0004", "no picture of that name"));
    assert!(seen[2].1.contains("`-1` is not a class number") && seen[3].1.contains("unreadable JSON"));
    let error = refusal(folder.path(), &SourceOptions::default());
    assert!(error.contains("shards of `train` and of `val`"), "{error}");
    expect(&open_any(&folder.path().join("in-val-000000.tar")), &[("in-val-000000/1.jpg", "0", "v")]);
    assert!(refusal(folder.path(), &split("test")).contains("`test`"));

    let names = file_of(b"zero\none\ntwo\nthree\nfour\n");
    let named = SourceOptions { names: Some(names.path().into()), ..split("train") };
    assert_eq!(open(folder.path(), &named).classes()[3], "three");
    fs::write(names.path(), "zero\none").unwrap();
    assert!(refusal(folder.path(), &named).contains("only 2 classes have names"));
    // Whether the empty line is a class or none, the numbers behind it differ.
    fs::write(names.path(), "zero\n\none\ntwo\nthree\n").unwrap();
    assert!(refusal(folder.path(), &named).contains("line 2 is empty"));
    fs::write(names.path(), "\u{feff}zero\none\ntwo\nthree\n\n").unwrap();
    assert_eq!(open(folder.path(), &named).classes(), ["zero", "one", "two", "three"]);
    // One shard has a name too.
    let shard = folder.path().join("in-train-000000.tar");
    assert_eq!(open(&shard, &split("train")).len(), 2);
    assert!(refusal(&shard, &split("val")).contains("not a name with the word `val`"));
}

#[test]
fn parquet_rows_with_and_without_compression() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-00000-of-00001.parquet");
    let names =
        r#"{"info": {"features": {"label": {"names": ["tench", "goldfish"], "_type": "ClassLabel"}}}}"#;
    for compression in [parquet::basic::Compression::SNAPPY, parquet::basic::Compression::UNCOMPRESSED] {
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_data_page_row_count_limit(2)
            .set_write_batch_size(1)
            .set_key_value_metadata(Some(vec![parquet::file::metadata::KeyValue::new(
                "huggingface".into(),
                names.to_owned(),
            )]))
            .build();
        let groups: Groups = &[
            &[(Some(b"p0"), Some(1)), (Some(b"p1"), Some(0)), (None, Some(1)), (Some(b"p3"), None)],
            &[(Some(b"p4"), Some(1)), (Some(b"p5"), Some(-1)), (Some(b"p6"), Some(0))],
        ];
        write_parquet(&path, groups, properties);
        for path in [path.as_path(), folder.path()] {
            let source = open_any(path);
            assert_eq!(
                (source.format(), source.classes()),
                (Format::Parquet, &["tench", "goldfish"].map(String::from)[..])
            );
            let keys: Vec<_> = (0..source.len()).map(|index| source.key(index)).collect();
            let number = |key: &str| key.strip_prefix("train-00000-of-00001.parquet#").unwrap().to_owned();
            assert_eq!(keys.iter().map(|key| number(key)).collect::<String>(), "01246");
            let read = |range: Range<usize>| -> Vec<Result<String, String>> {
                let bytes = |item| match source.bytes(item) {
                    Ok(bytes) => Ok(String::from_utf8(bytes).unwrap()),
                    Err(error) => Err(error.to_string()),
                };
                source.reader().stream(range).map(bytes).collect()
            };
            let all = read(0..5);
            let text = |index: usize| all[index].as_deref().unwrap();
            assert_eq!((text(0), text(1), text(3), text(4)), ("p0", "p1", "p4", "p6"));
            assert_eq!(all[2], Err("no bytes in this row".into()));
            for start in 0..5 {
                assert_eq!(read(start..5), all[start..], "from {start}");
            }
            let labels: Vec<_> = (0..5).map(|index| source.label(index)).collect();
            assert_eq!(labels, [1, 0, 1, 1, 0]);
            let seen = reasons(&source);
            assert!(seen[0].1.contains("null") && seen[1].1.contains("-1"), "{seen:?}");
        }
    }
}

/// Labels of the second file would be read by the names of the first.
#[test]
fn parquet_files_of_other_classes_are_refused_unless_names_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, names: &[&str]| {
        let text = format!(r#"{{"info": {{"features": {{"label": {{"names": {names:?}}}}}}}}}"#);
        let metadata = parquet::file::metadata::KeyValue::new("huggingface".into(), text);
        let metadata = (!names.is_empty()).then(|| vec![metadata]);
        let properties = WriterProperties::builder().set_key_value_metadata(metadata).build();
        write_parquet(&folder.path().join(file), &[&[(Some(b"p"), Some(0))]], properties);
    };
    let list = file_of(b"one\ntwo\nthree\n");
    let named = SourceOptions { names: Some(list.path().into()), ..SourceOptions::default() };
    for (first, second, told) in [
        (&["x", "y"][..], &["y", "x"][..], "class 0 has the name `y`, but the name `x` in `a.parquet`"),
        (&["x", "y"], &["x", "y", "z"], "class 2 has the name `z`, but no name in `a.parquet`"),
        (&["x", "y"], &["x"], "class 1 has no name, but the name `y` in `a.parquet`"),
        (&[], &["x", "y"], "class 0 has the name `x`, but no name in `a.parquet`"),
        (&["x", "y"], &[], "class 0 has no name, but the name `x` in `a.parquet`"),
    ] {
        write("a.parquet", first);
        write("b.parquet", second);
        let error = refusal(folder.path(), &SourceOptions::default());
        let told = format!("b.parquet: {told}; a file of the classes' names is needed");
        assert!(error.ends_with(&told), "{error}");
        assert_eq!(open(folder.path(), &named).classes(), ["one", "two", "three"]);
        write("b.parquet", first);
        let classes = open_any(folder.path());
        assert_eq!(classes.classes(), if first.is_empty() { &["0"][..] } else { first });
    }
}

#[test]
fn rows_from_the_middle_of_a_row_group() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let texts: Vec<String> = (0..60).map(|row| format!("p{row}")).collect();
    let rows: Vec<_> = texts.iter().map(|text| (Some(text.as_bytes()), Some(0))).collect();
    write_parquet(&path, &[&rows], WriterProperties::default());
    let source = open_any(&path);
    for start in [0, 1, 16, 17, 33, 59] {
        let read: Vec<_> =
            source.reader().stream(start..60).map(|item| source.bytes(item).unwrap()).collect();
        assert!(read.iter().eq(texts[start..].iter().map(|text| text.as_bytes())), "from {start}");
    }
}

#[test]
fn other_parquet_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let write = |schema: &str| {
        let schema = parse_message_type(schema).unwrap().into();
        SerializedFileWriter::new(File::create(&path).unwrap(), schema, Default::default())
            .unwrap()
            .close()
            .unwrap();
        refusal(&path, &SourceOptions::default())
    };
    assert!(write("message m { optional binary picture; }").contains("image.bytes"));
    assert!(write("message m { optional binary image; optional binary label; }").contains("label"));
    assert!(write("message m { required binary image; required int32 label; }").contains("no pictures"));
    fs::write(&path, b"PAR1 and no more").unwrap();
    assert!(refusal(&path, &SourceOptions::default()).contains("a.parquet"));
}

#[test]
fn options_that_say_nothing_about_a_format_are_refused() {
    let folder = tree(&["a/1.jpg"]);
    let names = SourceOptions { names: Some("names".into()), ..SourceOptions::default() };
    assert!(refusal(folder.path(), &names).contains("names"));
    let labels = SourceOptions {
        format: Some(Format::Classes),
        labels: Some("labels".into()),
        ..SourceOptions::default()
    };
    assert!(refusal(folder.path(), &labels).contains("labels"));
    let flat = SourceOptions { format: Some(Format::Flat), ..SourceOptions::default() };
    assert!(refusal(folder.path(), &flat).contains("labels"));
    let nested = SourceOptions { format: Some(Format::Ilsvrc), ..split("train") };
    assert!(refusal(folder.path(), &nested).contains("split"));
    let of_part =
        SourceOptions { format: Some(Format::Flat), labels: Some("labels".into()), ..split("train") };
    assert!(refusal(folder.path(), &of_part).contains("split"));
}

#[test]
fn the_fingerprint_changes_with_the_listing() {
    let print = |names: &[&str]| open_any(tree(names).path()).fingerprint();
    let same = print(&["a/1", "b/2"]);
    assert_eq!(same, print(&["b/2", "a/1"]));
    for other in [&["a/1", "b/3"][..], &["a/1", "c/2"], &["a/1", "b/2", "b/3"], &["a/1", "a/2"]] {
        assert_ne!(same, print(other));
    }
}

#[test]
fn files_that_are_empty_or_too_large_have_a_reason() {
    let folder = tree(&["a/1.jpg"]);
    fs::write(folder.path().join("a/0.jpg"), b"").unwrap();
    let large = File::create(folder.path().join("a/2.jpg")).unwrap();
    large.set_len((256 << 20) + 1).unwrap();
    let source = open_any(folder.path());
    let read: Vec<_> = source.reader().stream(0..3).map(|item| source.bytes(item)).collect();
    let reason = |index: usize| match read[index].as_ref().unwrap_err() {
        Error::Picture(reason) => reason,
        other => panic!("{other}"),
    };
    assert_eq!(reason(0), "an empty file");
    assert!(read[1].is_ok());
    assert!(reason(2).contains("at most"));
}
