//! More than two hundred hostile pictures and archives, made here, each with what must come of it.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use common::{file_of, tar_bytes, write_parquet};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use mgnt_data::{PictureStore, PrepareOptions, PrepareReport, SourceOptions, prepare};
use parquet::basic::Encoding;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use tar::{EntryType, Header};

/// What must come of a case.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// It is in the store.
    Packed,
    /// It is listed as left out, for a reason that contains this.
    LeftOut(&'static str),
    /// It is not seen at all.
    PassedOver,
}
use Outcome::{LeftOut, Packed, PassedOver};

/// So that no case is lost unseen.
fn count(cases: usize, least: usize) {
    println!("{cases} cases");
    assert!(cases >= least, "{cases}");
}

fn photo(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 7 + y * 3) as u8, (x * y) as u8, (200 - x.min(200) + (x ^ y) % 32) as u8])
    })
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

const FORMATS: [(&str, ImageFormat); 5] = [
    ("jpg", ImageFormat::Jpeg),
    ("png", ImageFormat::Png),
    ("webp", ImageFormat::WebP),
    ("gif", ImageFormat::Gif),
    ("bmp", ImageFormat::Bmp),
];

fn options() -> PrepareOptions {
    PrepareOptions { size: 16, max_rejected: 1.0, shard_items: Some(64), ..PrepareOptions::default() }
}

/// Prepares a source; the keys of what was packed are those of the source that were not left out.
fn prepared(source: &Path, options: &PrepareOptions) -> Result<PrepareReport, String> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("store");
    let report = prepare(source, options, &out, &mut |_, _| {}).map_err(|e| e.to_string());
    match &report {
        Ok(report) => {
            mgnt_data::verify(&out).unwrap();
            let store = PictureStore::open(&out).unwrap();
            assert_eq!((store.len(), store.rejected().unwrap()), (report.pictures, report.rejected.clone()));
        }
        Err(error) => {
            assert!(!out.exists());
            assert!(!error.contains('\n') && error.len() < 1000, "{error}");
        }
    }
    report
}

/// Lays the cases into one folder with a sound picture, prepares it, and looks at each.
fn pictures(cases: Vec<(String, Vec<u8>, Outcome)>, least: usize) {
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("class");
    fs::create_dir(&class).unwrap();
    fs::write(class.join("sound"), encoded(photo(20, 20), ImageFormat::Png)).unwrap();
    for (name, bytes, _) in &cases {
        fs::write(class.join(name), bytes).unwrap();
    }
    check(
        folder.path(),
        &cases.iter().map(|(name, _, outcome)| (name.clone(), *outcome)).collect::<Vec<_>>(),
    );
    count(cases.len(), least);
}

/// Prepares a folder that has one sound picture besides the cases of the class `class`.
fn check(source: &Path, cases: &[(String, Outcome)]) {
    let report = prepared(source, &options()).unwrap();
    let reason = |name: &str| {
        let key = format!("class/{name}");
        report.rejected.iter().find(|rejected| rejected.key == key).map(|rejected| rejected.reason.as_str())
    };
    let mut packed = 1;
    for (name, outcome) in cases {
        match (outcome, reason(name)) {
            (Packed, None) => packed += 1,
            (LeftOut(part), Some(reason)) if reason.contains(part) && reason.len() < 500 => {}
            (PassedOver, None) => {}
            (expected, got) => panic!("{name}: expected {expected:?}, got {got:?}"),
        }
    }
    assert_eq!(report.pictures, packed);
    assert_eq!(
        report.rejected.len(),
        cases.iter().filter(|(_, outcome)| matches!(outcome, LeftOut(_))).count()
    );
}

#[test]
fn truncated_pictures_are_left_out() {
    let mut cases = Vec::new();
    for (name, format) in FORMATS {
        let whole = encoded(photo(40, 32), format);
        for part in 0..20 {
            let outcome = LeftOut(if part == 0 { "an empty file" } else { "" });
            cases.push((format!("{part:02}.{name}"), whole[..whole.len() * part / 20].to_vec(), outcome));
        }
        let magic = LeftOut("");
        cases.push((format!("magic.{name}"), whole[..4].to_vec(), magic));
        cases.push((format!("whole.{name}"), whole, Packed));
    }
    pictures(cases, 110);
}

#[test]
fn endings_of_names_mean_nothing() {
    let mut cases = Vec::new();
    for (name, format) in FORMATS {
        let bytes = encoded(photo(24, 20), format);
        for (other, _) in FORMATS {
            cases.push((format!("{name}-as.{other}"), bytes.clone(), Packed));
        }
        cases.push((format!("{name}-without"), bytes.clone(), Packed));
        cases.push((format!("{name}.txt"), bytes, Packed));
    }
    cases.push((".hidden.png".into(), encoded(photo(24, 20), ImageFormat::Png), PassedOver));
    pictures(cases, 36);
}

#[test]
fn other_files_are_left_out() {
    let none = LeftOut("not a JPEG, PNG, WebP, GIF or BMP file");
    let random: Vec<u8> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let files: [(&str, &[u8]); 18] = [
        ("text.jpg", b"hello, I am a text"),
        ("page.png", b"<!DOCTYPE html><html></html>"),
        ("vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("archive.jpg", b"PK\x03\x04\x14\0\0\0\x08\0"),
        ("program.jpg", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"),
        ("paper.jpg", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
        ("script.gif", b"#!/bin/sh\nexit 1\n"),
        ("tiff.png", b"II*\0\x08\0\0\0\0\0\0\0"),
        ("heic.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("psd.png", b"8BPS\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x10\0\0\0\x10\0\x08\0\x03"),
        ("json.jpg", b"{\"image\": null}"),
        ("gzip.png", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        ("zeros.jpg", &[0; 4096]),
        ("ones.png", &[0xff; 4096]),
        ("random.webp", &random),
        ("one-byte.jpg", b"\xff"),
        ("riff.webp", b"RIFF\x24\0\0\0WAVEfmt "),
        ("newline.jpg", b"\n"),
    ];
    let cases = files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec(), none));
    pictures(cases.into(), 18);
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let body = [&kind[..], data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &body, &crc32(&body).to_be_bytes()].concat()
}

/// A PNG file with this header and picture data.
fn png(width: u32, height: u32, depth: u8, colour: u8, extra: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, colour, 0, 0, 0]].concat();
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    bytes.extend(png_chunk(b"IHDR", &header));
    bytes.extend(extra.concat());
    bytes.extend(png_chunk(b"IDAT", data));
    bytes.extend(png_chunk(b"IEND", b""));
    bytes
}

/// Zeros, compressed a thousandfold, as zlib has them.
fn deflated_zeros(length: usize) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let block = vec![0; 1 << 20];
    for at in (0..length).step_by(1 << 20) {
        encoder.write_all(&block[..block.len().min(length - at)]).unwrap();
    }
    encoder.finish().unwrap()
}

/// A JPEG whose header is made to claim this size.
fn jpeg_claiming(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = encoded(photo(32, 32), ImageFormat::Jpeg);
    let at = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
    bytes[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn bombs_and_impossible_sizes_are_left_out_before_memory_is_taken() {
    let overwritten = |format, at: usize, with: &[u8]| {
        let mut bytes = encoded(photo(32, 32), format);
        bytes[at..at + with.len()].copy_from_slice(with);
        bytes
    };
    let longest = LeftOut("the longest side allowed is 16384");
    let shortest = LeftOut("the shortest side allowed is 16");
    let any = LeftOut("");
    let bomb = deflated_zeros(40 << 20);
    let profile = [&b"bomb\0\0"[..], &deflated_zeros(200 << 20)].concat();
    let black = deflated_zeros(16 * (1 + 16 * 3));
    let cases: Vec<(&str, Vec<u8>, Outcome)> = vec![
        ("png-16384x4097", png(16384, 4097, 8, 2, &[], &bomb), LeftOut("at most 67108864 are allowed")),
        ("png-40000x40000", png(40_000, 40_000, 8, 2, &[], &bomb), longest),
        ("png-largest", png(i32::MAX as u32, i32::MAX as u32, 8, 2, &[], &bomb), any),
        ("png-beyond", png(u32::MAX, u32::MAX, 8, 2, &[], &bomb), any),
        ("png-no-width", png(0, 16, 8, 2, &[], &black), any),
        ("png-no-height", png(16, 0, 8, 2, &[], &black), any),
        ("png-more-data-than-pixels", png(16, 16, 8, 2, &[], &bomb), Packed),
        ("png-less-data-than-pixels", png(64, 64, 8, 2, &[], &black), any),
        ("png-profile-bomb", png(16, 16, 8, 2, &[png_chunk(b"iCCP", &profile)], &black), Packed),
        ("png-text-bomb", png(16, 16, 8, 2, &[png_chunk(b"zTXt", &profile)], &black), Packed),
        ("png-depth-3", png(16, 16, 3, 2, &[], &black), any),
        ("png-no-palette", png(16, 16, 8, 3, &[], &deflated_zeros(16 * 17)), any),
        ("png-no-data", png(16, 16, 8, 2, &[], b""), any),
        ("png-data-not-zlib", png(16, 16, 8, 2, &[], b"not compressed"), any),
        ("png-wrong-sum", overwritten(ImageFormat::Png, 29, &[0; 4]), any),
        ("png-chunk-of-2-GiB", overwritten(ImageFormat::Png, 33, &[0x7f, 0xff, 0xff, 0xff]), any),
        ("png-1x1", encoded(photo(1, 1), ImageFormat::Png), shortest),
        ("png-15x40", encoded(photo(15, 40), ImageFormat::Png), shortest),
        ("png-16x16", encoded(photo(16, 16), ImageFormat::Png), Packed),
        ("png-17000x16", encoded(photo(17_000, 16), ImageFormat::Png), longest),
        ("png-16384x16", encoded(photo(16_384, 16), ImageFormat::Png), Packed),
        ("png-16x16384", encoded(photo(16, 16_384), ImageFormat::Png), Packed),
        ("jpeg-65500x65500", jpeg_claiming(65_500, 65_500), longest),
        ("jpeg-16384x16384", jpeg_claiming(16_384, 16_384), LeftOut("at most 67108864 are allowed")),
        ("jpeg-no-height", jpeg_claiming(32, 0), any),
        ("jpeg-no-width", jpeg_claiming(0, 32), any),
        ("jpeg-two-starts", [&[0xff, 0xd8][..], &encoded(photo(32, 32), ImageFormat::Jpeg)].concat(), any),
        ("gif-65535x65535", overwritten(ImageFormat::Gif, 6, &[0xff; 4]), any),
        (
            "bmp-largest",
            overwritten(ImageFormat::Bmp, 18, &[0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff, 0x7f]),
            any,
        ),
        ("bmp-negative-width", overwritten(ImageFormat::Bmp, 18, &[0xff; 4]), any),
        ("bmp-data-outside", overwritten(ImageFormat::Bmp, 10, &[0xff, 0xff, 0xff, 0x7f]), any),
        ("webp-length-outside", overwritten(ImageFormat::WebP, 4, &[0xfe, 0xff, 0xff, 0xff]), Packed),
        ("webp-short-length", overwritten(ImageFormat::WebP, 4, &[8, 0, 0, 0]), Packed),
    ];
    pictures(cases.into_iter().map(|(name, bytes, outcome)| (name.to_owned(), bytes, outcome)).collect(), 33);
}

#[test]
fn rare_kinds_of_pictures_are_packed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pictures");
    let mut cases: Vec<(String, Vec<u8>, Outcome)> = fs::read_dir(golden)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !["py", "safetensors"].contains(&path.extension().unwrap().to_str().unwrap()))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap(), Packed))
        .collect();
    let photo = DynamicImage::from(photo(30, 24));
    for (name, image) in [
        ("rgb-16.png", DynamicImage::from(photo.to_rgb16())),
        ("rgba-16.png", photo.to_rgba16().into()),
        ("grey-16.png", photo.to_luma16().into()),
        ("grey-alpha-16.png", photo.to_luma_alpha16().into()),
        ("rgba.webp", photo.to_rgba8().into()),
    ] {
        let format = if name.ends_with("webp") { ImageFormat::WebP } else { ImageFormat::Png };
        cases.push((name.into(), encoded(image, format), Packed));
    }
    let jpeg = encoded(photo, ImageFormat::Jpeg);
    cases.push(("rubbish-behind.jpg".into(), [&jpeg[..], &[0x55; 3000]].concat(), Packed));
    cases.push(("twice.jpg".into(), jpeg.repeat(2), Packed));
    pictures(cases, 21);
}

#[cfg(unix)]
#[test]
fn what_lies_in_a_folder_besides_files() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret.png"), encoded(photo(20, 20), ImageFormat::Png)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("class");
    fs::create_dir(&class).unwrap();
    let sound = class.join("sound");
    fs::write(&sound, encoded(photo(20, 20), ImageFormat::Png)).unwrap();
    let link = LeftOut("a link, which is not followed");
    symlink(outside.path().join("secret.png"), class.join("out.png")).unwrap();
    symlink("../../../../../../etc/passwd", class.join("dots.png")).unwrap();
    symlink("/nowhere", class.join("dangling.png")).unwrap();
    symlink("loop.png", class.join("loop.png")).unwrap();
    symlink("sound", class.join("inside.png")).unwrap();
    symlink(outside.path(), class.join("folder.png")).unwrap();
    fs::hard_link(&sound, class.join("hard.png")).unwrap();
    fs::create_dir(class.join("deeper.png")).unwrap();
    fs::copy(&sound, class.join("deeper.png/a.png")).unwrap();
    fs::copy(&sound, class.join(".hidden.png")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(class.join("socket.png")).unwrap();
    let fifo = std::process::Command::new("mkfifo").arg(class.join("fifo.png")).status();
    let mut cases = vec![
        ("out.png", link),
        ("dots.png", link),
        ("dangling.png", link),
        ("loop.png", link),
        ("inside.png", link),
        ("folder.png", link),
        ("hard.png", Packed),
        ("deeper.png", LeftOut("a folder within a class")),
        (".hidden.png", PassedOver),
        ("socket.png", LeftOut("not a regular file")),
    ];
    if fifo.is_ok_and(|status| status.success()) {
        cases.push(("fifo.png", LeftOut("not a regular file")));
    }
    for name in
        ["a name.png", "\u{1f600}.png", "line\nbreak.png", "\"quoted\".png", "-rf.png", "%s%n.png", "a;b.png"]
    {
        fs::copy(&sound, class.join(name)).unwrap();
        cases.push((name, Packed));
    }
    let cases: Vec<_> = cases.into_iter().map(|(name, outcome)| (name.to_owned(), outcome)).collect();
    check(folder.path(), &cases);
    drop(socket);
    count(cases.len(), 18);

    let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe.png");
    if fs::copy(&sound, class.join(name)).is_ok() {
        assert!(prepared(folder.path(), &options()).unwrap_err().contains("is not UTF-8"));
    }
}

/// One member of a tar, as it may not be written by honest programs.
fn member(name: &[u8], kind: EntryType, size: &[u8; 12], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.as_mut_bytes()[124..136].copy_from_slice(size);
    header.set_cksum();
    let mut bytes = [header.as_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn octal(size: usize) -> [u8; 12] {
    format!("{size:011o}\0").into_bytes().try_into().unwrap()
}

#[test]
fn tars_cut_anywhere() {
    let picture = encoded(photo(20, 20), ImageFormat::Png);
    let members: Vec<(String, &[u8])> = (0..4).map(|i| (format!("class/{i}.png"), &picture[..])).collect();
    let members: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let whole = tar_bytes(&members);
    let each = 512 + picture.len().next_multiple_of(512);
    let mut cases = 0;
    // Between two members, too.
    for cut in (0..4 * each + 1024).step_by(173).chain((0..=4).map(|member| member * each)) {
        let file = file_of(&whole[..cut]);
        let result = prepared(file.path(), &options());
        match result {
            // One empty block is there at least, which says that no member follows.
            Ok(report) => assert!(cut >= 4 * each + 512 && report.pictures == 4, "{cut}: {report:?}"),
            Err(error) => {
                assert!(cut < 4 * each + 512, "{cut}: {error}");
                assert!(error.contains("tar archive") || error.contains("truncated"), "{cut}: {error}");
            }
        }
        cases += 1;
    }
    count(cases, 30);
}

#[test]
fn tars_with_hostile_members() {
    let picture = encoded(photo(20, 20), ImageFormat::Png);
    let size = octal(picture.len());
    let sound = member(b"class/sound.png", EntryType::Regular, &size, &picture);
    let file = |name: &[u8]| member(name, EntryType::Regular, &size, &picture);
    let special = |name: &[u8], kind| member(name, kind, &octal(0), b"");
    let long = |name: &[u8]| {
        let long = member(b"././@LongLink", EntryType::GNULongName, &octal(name.len()), name);
        [long, file(b"class/short.png")].concat()
    };
    let pax = |records: &str| {
        let extended = member(b"pax", EntryType::XHeader, &octal(records.len()), records.as_bytes());
        [extended, file(b"class/short.png")].concat()
    };
    let mut wrong_sum = file(b"class/a.png");
    wrong_sum[148..154].copy_from_slice(b"000001");
    let base_256 = |first: u8, rest: u8| {
        let mut size = [rest; 12];
        size[0] = first;
        size
    };
    let commit = "18 comment=0123456\n";
    let of_all =
        member(b"pax_global_header", EntryType::XGlobalHeader, &octal(commit.len()), commit.as_bytes());
    // A block of 512 bytes at the end of a megabyte.
    let mut sparse = member(b"class/a.png", EntryType::GNUSparse, &octal(512), &[7; 512]);
    for (at, number) in [(386, (1 << 20) - 512), (398, 512), (483, 1 << 20)] {
        sparse[at..at + 12].copy_from_slice(&octal(number));
    }
    sparse[148..156].fill(b' ');
    let sum: u32 = sparse[..512].iter().map(|&byte| u32::from(byte)).sum();
    sparse[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    const LINK: &str = "a link, which is not followed";
    let huge = || member(b"class/a.png", EntryType::Regular, &base_256(0x80, 0x7f), &picture);
    // `Ok`: pictures packed besides the sound one, and reasons of what is left out.
    type Expected = Result<(usize, &'static [&'static str]), &'static str>;
    let cases: Vec<(&str, Vec<u8>, Expected)> = vec![
        ("absolute", file(b"/class/a.png"), Err("outside")),
        ("up", file(b"../class/a.png"), Err("outside")),
        ("up in the middle", file(b"class/../../a.png"), Err("outside")),
        ("up at the end", file(b"class/.."), Err("outside")),
        ("up of another split", file(b"val/../../x/a.png"), Err("outside")),
        ("here", file(b"./class/a.png"), Ok((1, &[]))),
        ("contiguous", member(b"class/a.png", EntryType::Continuous, &size, &picture), Ok((1, &[]))),
        ("no class", file(b"a.png"), Ok((0, &["beside the class folders"]))),
        ("deeper", file(b"class/deep/a.png"), Ok((0, &["a folder within a class"]))),
        ("hidden", file(b"class/.a.png"), Ok((0, &[]))),
        ("no name", file(b""), Ok((0, &[]))),
        ("a backslash", file(b"class/a\\..\\..\\b.png"), Ok((1, &[]))),
        ("a drive", file(b"C:/a.png"), Ok((1, &[]))),
        ("not UTF-8", file(b"class/\xff\xfe.png"), Err("UTF-8")),
        ("the same name again", file(b"class/sound.png"), Ok((0, &[]))),
        ("a soft link", special(b"class/a.png", EntryType::Symlink), Ok((0, &[LINK]))),
        ("a hard link", special(b"class/a.png", EntryType::Link), Ok((0, &["a hard link, which is not"]))),
        ("a soft link for a class", special(b"other", EntryType::Symlink), Err("a class folder may be")),
        ("a soft link for a picture", special(b"other.png", EntryType::Symlink), Ok((0, &[LINK]))),
        ("a hard link beside the classes", special(b"README", EntryType::Link), Ok((0, &["a hard link"]))),
        ("a device", special(b"class/a.png", EntryType::Char), Ok((0, &["not a regular file"]))),
        ("a disk", special(b"class/a.png", EntryType::Block), Ok((0, &["not a regular file"]))),
        ("a pipe", special(b"class/a.png", EntryType::Fifo), Ok((0, &["not a regular file"]))),
        ("an unknown kind", special(b"class/a.png", EntryType::new(b'Z')), Ok((0, &["not a regular file"]))),
        ("an empty picture", special(b"class/a.png", EntryType::Regular), Ok((0, &["an empty file"]))),
        ("an empty folder", special(b"other/", EntryType::Directory), Err("class `other` has no files")),
        ("a folder's name", special(b"class/", EntryType::Directory), Ok((0, &[]))),
        (
            "a size beyond the file",
            member(b"class/a.png", EntryType::Regular, &octal(1 << 30), &picture),
            Err("entry `class/a.png` is cut off: the archive is truncated"),
        ),
        ("a size of all bits", huge(), Err("")),
        (
            "a negative size",
            member(b"class/a.png", EntryType::Regular, &base_256(0xff, 0xff), &picture),
            Err(""),
        ),
        (
            "a size that is no number",
            member(b"class/a.png", EntryType::Regular, b"hello world\0", &picture),
            Err("tar archive"),
        ),
        ("a wrong sum", wrong_sum, Err("tar archive")),
        ("a long name", long(b"class/a-long-name.png\0"), Ok((1, &[]))),
        ("a long name outside", long(b"../../etc/a.png\0"), Err("outside")),
        ("a long name that is long", long(&[b'a'; 100_000]), Ok((0, &[]))),
        (
            "a long name that is cut",
            member(b"././@LongLink", EntryType::GNULongName, &octal(1 << 30), b"class/a"),
            Err(""),
        ),
        ("a name in an extension", pax("24 path=class/other.png\n"), Ok((1, &[]))),
        ("a name outside in an extension", pax("23 path=../../../a.png\n"), Err("outside")),
        ("a size in an extension", pax("20 size=99999999999\n"), Err("")),
        ("an extension that is none", pax("not a record"), Ok((1, &[]))),
        ("two slashes", file(b"class//a.png"), Ok((1, &[]))),
        ("here in the middle", file(b"class/./a.png"), Ok((1, &[]))),
        ("a commit, as of `git archive`", of_all, Ok((0, &[]))),
        ("a sparse file", sparse, Ok((0, &["a sparse file"]))),
        ("a sparse file by POSIX", pax("29 GNU.sparse.name=class/a.p\n"), Ok((0, &["a sparse file"]))),
        ("no tar behind it", b"and now something else".repeat(100), Err("tar archive")),
        (
            "a picture that is none",
            member(b"class/a.png", EntryType::Regular, &octal(9), b"no figure"),
            Ok((0, &["not a JPEG"])),
        ),
    ];
    for (name, bytes, expected) in &cases {
        let archive = file_of(&[&sound[..], bytes, &[0; 1024]].concat());
        match (prepared(archive.path(), &options()), expected) {
            (Ok(report), Ok((packed, reasons))) => {
                assert_eq!(report.pictures, 1 + packed, "{name}: {report:?}");
                assert_eq!(report.rejected.len(), reasons.len(), "{name}: {report:?}");
                for (rejected, reason) in report.rejected.iter().zip(*reasons) {
                    assert!(rejected.reason.contains(reason), "{name}: {report:?}");
                }
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{name}: {error}"),
            (got, _) => panic!("{name}: expected {expected:?}, got {got:?}"),
        }
    }
    count(cases.len(), 46);
}

#[test]
fn webdataset_with_hostile_labels() {
    let picture = encoded(photo(20, 20), ImageFormat::Png);
    let deep = "[".repeat(100_000);
    let labels: [(&str, &str, Option<&str>); 16] = [
        ("cls", "0", None),
        ("cls", " 2 \n", None),
        ("json", r#"{"label": 1}"#, None),
        ("json", r#"{"cls": 1}"#, None),
        ("cls", "-1", Some("not a class number")),
        ("cls", "65536", Some("not a class number")),
        ("cls", "99999999999999999999", Some("not a class number")),
        ("cls", "tench", Some("not a class number")),
        ("cls", "", Some("not a class number")),
        ("cls", "1.0", Some("not a class number")),
        ("json", "{}", Some("no label")),
        ("json", r#"{"label": "tench"}"#, Some("not a class number")),
        ("json", r#"{"label": 1e300}"#, Some("not a class number")),
        ("json", r#"{"label": "#, Some("unreadable JSON")),
        ("json", &deep, Some("unreadable JSON")),
        ("txt", "0", Some("no label")),
    ];
    let names: Vec<[String; 2]> = labels
        .iter()
        .enumerate()
        .map(|(at, (ending, ..))| [format!("{at:02}.{ending}"), format!("{at:02}.png")])
        .collect();
    let members: Vec<(&str, &[u8])> = labels
        .iter()
        .zip(&names)
        .flat_map(|((_, text, _), [label, name])| {
            [(label.as_str(), text.as_bytes()), (name.as_str(), &picture[..])]
        })
        .collect();
    let archive = file_of(&tar_bytes(&members));
    let report = prepared(archive.path(), &options()).unwrap();
    let bad: Vec<_> =
        labels.iter().zip(&names).filter_map(|((.., reason), n)| Some((reason.as_ref()?, &n[1]))).collect();
    assert_eq!((report.pictures, report.rejected.len()), (labels.len() - bad.len(), bad.len()));
    for (rejected, (reason, name)) in report.rejected.iter().zip(bad) {
        assert!(rejected.key.ends_with(name) && rejected.reason.contains(*reason), "{rejected:?}");
        assert!(rejected.reason.len() < 200);
    }
    count(labels.len(), 16);
}

#[test]
fn parquet_files_that_are_not_whole() {
    let picture = encoded(photo(20, 20), ImageFormat::Png);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.parquet");
    let write = |rows: &[(Option<&[u8]>, Option<i64>)]| {
        write_parquet(&path, &[rows], WriterProperties::default());
        fs::read(&path).unwrap()
    };
    let whole =
        write(&[(Some(&picture), Some(1)), (Some(b"no picture"), Some(0)), (Some(&picture), Some(0))]);
    let report = prepared(&path, &options()).unwrap();
    assert_eq!((report.pictures, report.rejected.len()), (2, 1));
    let mut cases = 1;
    let refuse = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        prepared(&path, &options()).unwrap_err()
    };
    for part in 0..30 {
        let error = refuse(&whole[..whole.len() * part / 30]);
        assert!(!error.contains("gave up"), "{part}: {error}");
        cases += 1;
    }
    let footer = whole.len() - 8;
    for length in [0, 1, footer as u32 + 1, i32::MAX as u32, u32::MAX] {
        let mut bytes = whole.clone();
        bytes[footer..footer + 4].copy_from_slice(&length.to_le_bytes());
        refuse(&bytes);
        cases += 1;
    }
    for magic in [b"PARE", b"par1"] {
        let mut bytes = whole.clone();
        bytes[footer + 4..].copy_from_slice(magic);
        refuse(&bytes);
        cases += 1;
    }
    let delta = WriterProperties::builder().set_dictionary_enabled(false).set_column_encoding(
        ColumnPath::from(vec!["image".into(), "bytes".into()]),
        Encoding::DELTA_BYTE_ARRAY,
    );
    write_parquet(&path, &[&[(Some(&picture), Some(0))]], delta.build());
    let error = prepared(&path, &options()).unwrap_err();
    assert!(error.contains("class `0` has no usable picture"), "{error}");
    cases += 1;
    count(cases, 39);

    let labels = SourceOptions { labels: Some(path.clone()), ..SourceOptions::default() };
    let error = prepared(&path, &PrepareOptions { source: labels, ..options() }).unwrap_err();
    assert!(error.contains("a.parquet"), "{error}");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(prepared(&path, &options()).is_err(), "a sparse file of a terabyte");
}
