use std::fs;
use std::sync::Mutex;

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::*;
use crate::{PictureStore, synthetic};

fn quiet(source: &Path, options: &PrepareOptions, out: &Path) -> Result<PrepareReport, Error> {
    prepare(source, options, out, &mut |_, _| {})
}

fn options() -> PrepareOptions {
    PrepareOptions { size: 24, shard_items: Some(10), max_rejected: 0.2, ..PrepareOptions::default() }
}

#[test]
fn a_folder_becomes_a_store_and_bad_files_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    synthetic::write_folder(&source, 4, 32, 1).unwrap();
    let classes = synthetic::CLASSES.len();
    let whole = fs::read(source.join(format!("{}/0000.png", synthetic::CLASSES[0]))).unwrap();
    let victim = source.join(synthetic::CLASSES[0]);
    fs::write(victim.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(victim.join("text.jpg"), b"no picture").unwrap();
    let out = folder.path().join("store");
    let report = quiet(&source, &options(), &out).unwrap();
    assert_eq!((report.pictures, report.classes), (4 * classes, classes));
    let names: Vec<_> = report.rejected.iter().map(|r| r.key.rsplit('/').next().unwrap()).collect();
    assert_eq!(names, ["cut.png", "text.jpg"]);

    let store = PictureStore::open(&out).unwrap();
    let told = Mutex::new(Vec::new());
    let verified = crate::verify_telling(&out, &|done, all| told.lock().unwrap().push((done, all))).unwrap();
    let mut told = told.into_inner().unwrap();
    told.sort();
    assert!(verified.shards > 1);
    assert_eq!(told, (1..=verified.shards).map(|done| (done, verified.shards)).collect::<Vec<_>>());
    assert_eq!((store.len(), store.size()), (4 * classes, 24));
    assert_eq!(store.rejected().unwrap(), report.rejected);
    assert_eq!(store.picture(store.len() - 1).len(), 24 * 24 * 3);
    assert_eq!((store.label(0), store.label(store.len() - 1)), (0, classes - 1));

    let strict = PrepareOptions { max_rejected: 0.0, ..options() };
    let other = folder.path().join("other");
    let error = quiet(&source, &strict, &other).unwrap_err().to_string();
    assert!(error.contains("2 of") && error.contains("cut.png"), "{error}");
    assert!(!other.exists());
}

/// In floating point 29 is more than 0.29 times 100.
#[test]
fn the_share_that_is_allowed_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let [source, drawn] = ["source", "drawn"].map(|name| folder.path().join(name));
    synthetic::write_folder(&drawn, 1, 16, 1).unwrap();
    fs::create_dir_all(source.join("a")).unwrap();
    let whole = fs::read(drawn.join("disc/0000.png")).unwrap();
    for i in 0..100 {
        let bytes: &[u8] = if i < 29 { b"no picture" } else { &whole };
        fs::write(source.join(format!("a/{i:02}.png")), bytes).unwrap();
    }
    let of = |max_rejected, out: &str| {
        let options = PrepareOptions { size: 8, max_rejected, ..PrepareOptions::default() };
        quiet(&source, &options, &folder.path().join(out)).map(|report| report.rejected.len())
    };
    assert_eq!(of(0.29, "right").unwrap(), 29);
    assert!(of(0.28, "wrong").unwrap_err().to_string().contains("29 of 100"));
}

/// A camera's rows are those of its sensor: of a photo of 32 x 16 pixels that was held upright, the middle is another.
#[test]
fn pictures_are_turned_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("a")).unwrap();
    let rgb: Vec<u8> = (0..32 * 16).flat_map(|i| [if i % 32 < 16 { 0 } else { 255 }; 3]).collect();
    // A big-endian TIFF header, and one field, 0x0112, a short of 6: to be turned right.
    let metadata = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let write = |before: &[u8]| {
        let mut png = Vec::new();
        let mut encoder = PngEncoder::new(&mut png);
        encoder.set_exif_metadata([before, metadata].concat()).unwrap();
        encoder.write_image(&rgb, 32, 16, ExtendedColorType::Rgb8).unwrap();
        fs::write(source.join("a/0.png"), png).unwrap();
    };
    write(b"");
    let of = |upright: bool, out: &str| {
        let out = folder.path().join(out);
        quiet(&source, &PrepareOptions { size: 16, upright, ..options() }, &out).unwrap();
        let store = PictureStore::open(&out).unwrap();
        assert_eq!(store.manifest().upright, upright);
        assert_eq!(fs::read_to_string(out.join("manifest.json")).unwrap().contains("upright"), upright);
        let grey: Vec<u8> = store.picture(0).iter().step_by(3).copied().collect();
        // The corners in the order of rows.
        [grey[0], grey[15], grey[15 * 16], grey[15 * 16 + 15]]
    };
    assert_eq!(of(false, "as it is"), [0, 255, 0, 255]);
    assert_eq!(of(true, "upright"), [0, 0, 255, 255]);
    // As a JPEG has it.
    write(b"Exif\0\0");
    assert_eq!(of(true, "upright again"), [0, 0, 255, 255]);
}

#[test]
fn a_held_out_part_is_named_in_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    synthetic::write_folder(&source, 4, 32, 1).unwrap();
    let classes = synthetic::CLASSES.len();
    let part = |hold_out, out: &str| {
        let source_options = SourceOptions { hold_out: Some(hold_out), ..SourceOptions::default() };
        let out = folder.path().join(out);
        quiet(&source, &PrepareOptions { source: source_options, ..options() }, &out).unwrap();
        let store = PictureStore::open(&out).unwrap();
        (store.len(), store.manifest().counts.clone(), store.manifest().source.clone())
    };
    let held_out = part(HoldOut::Every(4), "val");
    assert_eq!(held_out, (classes, vec![1; classes], "source (every 4)".to_owned()));
    // A class may have no other picture there.
    let only = source.join(format!("{}/0003.png", synthetic::CLASSES[1]));
    let whole = fs::read(&only).unwrap();
    fs::write(&only, "no picture").unwrap();
    let (pictures, counts, _) = part(HoldOut::Every(4), "val");
    assert_eq!((pictures, counts[1]), (classes - 1, 0));
    fs::write(&only, &whole).unwrap();
    let rest = part(HoldOut::ExceptEvery(4), "train");
    assert_eq!(rest, (3 * classes, vec![3; classes], "source (except every 4)".to_owned()));
    // What is trained on needs some of each.
    for number in 0..3 {
        fs::write(source.join(format!("{}/{number:04}.png", synthetic::CLASSES[1])), "no picture").unwrap();
    }
    let hold_out = SourceOptions { hold_out: Some(HoldOut::ExceptEvery(4)), ..SourceOptions::default() };
    let options = PrepareOptions { source: hold_out, max_rejected: 1.0, ..options() };
    let error = quiet(&source, &options, &folder.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("has no usable picture"), "{error}");
}

/// What is left out of a shard is looked at again if it has changed, and so is what was packed.
#[test]
fn shards_whose_files_have_changed_are_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let [source, out] = ["source", "store"].map(|name| folder.path().join(name));
    synthetic::write_folder(&source, 4, 32, 1).unwrap();
    let file =
        |class: usize, number: usize| source.join(format!("{}/{number:04}.png", synthetic::CLASSES[class]));
    let last = synthetic::CLASSES.len() - 1;
    let whole = fs::read(file(last, 3)).unwrap();
    fs::write(file(last, 3), b"no picture").unwrap();
    let strict = PrepareOptions { max_rejected: 0.0, shard_items: Some(4), ..options() };
    assert!(matches!(quiet(&source, &strict, &out), Err(Error::TooManyRejected { rejected: 1, .. })));

    fs::write(file(last, 3), whole).unwrap();
    let other = synthetic::draw(5, 9, 32, 2).unwrap();
    other.save_png(&file(1, 2)).unwrap();
    let report = quiet(&source, &strict, &out).unwrap();
    assert_eq!((report.rejected.len(), report.shards_resumed), (0, last - 1));
    let mut expected = vec![0; 24 * 24 * 3];
    other.crop_into(24, strict.crop, &mut expected).unwrap();
    assert_eq!(PictureStore::open(&out).unwrap().picture(4 + 2), expected);
}

/// A picture that the system cannot read is no bad picture: another try may find it sound.
#[cfg(unix)]
#[test]
fn a_system_that_refuses_ends_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let [source, out] = ["source", "store"].map(|name| folder.path().join(name));
    synthetic::write_folder(&source, 2, 32, 1).unwrap();
    let file = source.join(format!("{}/0000.png", synthetic::CLASSES[2]));
    // Once all is listed.
    let mut replace = |_, _| {
        if file.is_file() {
            fs::remove_file(&file).unwrap();
            fs::create_dir(&file).unwrap();
        }
    };
    let error = prepare(&source, &options(), &out, &mut replace).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == file), "{error}");
    fs::remove_dir(&file).unwrap();
    let mut remove = |_, _| drop(fs::remove_file(&file));
    synthetic::draw(0, 0, 32, 1).unwrap().save_png(&file).unwrap();
    let report = prepare(&source, &options(), &out, &mut remove).unwrap();
    assert_eq!(report.rejected.len(), 1, "what is gone is left out");
}

#[test]
fn a_store_is_not_made_within_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("train");
    synthetic::write_folder(&source, 1, 32, 1).unwrap();
    fs::create_dir(folder.path().join("other")).unwrap();
    for out in ["train/store", "train/deep/er/store", "other/../train/store"] {
        let error = quiet(&source, &options(), &folder.path().join(out)).unwrap_err();
        assert!(matches!(error, Error::Field { field: "out", .. }), "{out}: {error}");
    }
    assert!(!source.join("store.part").exists() && !source.join("deep").exists());
    #[cfg(unix)]
    {
        let [class, link] = [source.join(synthetic::CLASSES[0]), folder.path().join("link")];
        std::os::unix::fs::symlink(class, &link).unwrap();
        let error = quiet(&source, &options(), &link).unwrap_err();
        assert!(matches!(error, Error::Field { field: "out", .. }), "{error}");
    }
    // Beside the part that is read it does no harm.
    let mut options = options();
    options.source.split = Some("train".into());
    let out = folder.path().join("store");
    quiet(folder.path(), &options, &out).unwrap();
    assert!(quiet(folder.path(), &options, &source.join("store")).is_err());
}

#[test]
fn the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    synthetic::write_folder(&source, 3, 32, 2).unwrap();
    let bytes = |threads: usize| {
        let out = folder.path().join(format!("store-{threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| quiet(&source, &options(), &out)).unwrap();
        let mut files: Vec<_> = fs::read_dir(&out).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|f| fs::read(f).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(bytes(1), bytes(3));
}

#[test]
fn a_store_without_pictures_is_refused_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let [source, out] = ["source", "store"].map(|name| folder.path().join(name));
    synthetic::write_folder(&source, 2, 32, 1).unwrap();
    quiet(&source, &options(), &out).unwrap();
    let path = out.join("manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    manifest["shards"] = serde_json::json!([]);
    manifest["counts"] = vec![0; synthetic::CLASSES.len()].into();
    fs::write(&path, manifest.to_string()).unwrap();
    for refused in [crate::verify(&out).map(drop), PictureStore::open(&out).map(drop)] {
        let error = refused.unwrap_err().to_string();
        assert!(error.ends_with("manifest.json: shards: expected at least one picture, got none"), "{error}");
    }

    // Small classes may have none that is held out, but not all of them.
    for class in synthetic::CLASSES {
        fs::write(source.join(class).join("0001.png"), "no picture").unwrap();
    }
    let hold_out = SourceOptions { hold_out: Some(HoldOut::Every(2)), ..SourceOptions::default() };
    let options = PrepareOptions { source: hold_out, max_rejected: 1.0, ..options() };
    let error = quiet(&source, &options, &folder.path().join("none")).unwrap_err().to_string();
    assert!(error.contains("has no usable picture"), "{error}");
}

#[test]
fn a_damaged_or_incomplete_store_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    synthetic::write_folder(&source, 1, 32, 3).unwrap();
    let out = folder.path().join("store");
    quiet(&source, &options(), &out).unwrap();
    let shard = out.join("pictures-00000.safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, &bytes).unwrap();
    assert!(crate::verify(&out).unwrap_err().to_string().contains("sha256"));
    fs::write(&shard, &bytes[..bytes.len() - 9]).unwrap();
    assert!(PictureStore::open(&out).is_err());
    fs::remove_file(out.join("manifest.json")).unwrap();
    assert!(PictureStore::open(&out).unwrap_err().to_string().contains("incomplete"));
    let refused = |path: &Path| PictureStore::open(path).unwrap_err().to_string();
    let made = "expected a store of pictures, which `mgnt prepare-imagenet` makes, got";
    for (path, got) in
        [(source.as_path(), "one without a manifest"), (&out.join("pictures-00000.safetensors"), "a file")]
    {
        let error = refused(path);
        assert!(error.ends_with(&format!("{made} {got}")), "{error}");
        // Which of the two was meant, nothing says.
        let error = crate::verify(path).unwrap_err().to_string();
        let made = "`mgnt prepare-imagenet`, `tokenize` or `import-tokens` makes, got";
        assert!(error.ends_with(&format!("a store of pictures or tokens, which {made} {got}")), "{error}");
    }
    assert!(refused(&folder.path().join("nosuch")).contains("nosuch: "));
}
