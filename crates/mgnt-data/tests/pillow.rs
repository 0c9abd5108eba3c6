//! Crops and decoders against Pillow: `tests/golden/pictures/make.py` made the cases.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use mgnt_data::{Crop, Filter, Limits, Picture};
use mgnt_weights::{TensorMap, safetensors};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/pictures")
}

fn goldens(name: &str) -> TensorMap {
    safetensors::read(&folder().join(name)).unwrap()
}

/// The formula of `source` in `make.py`.
fn source(width: usize, height: usize) -> Picture {
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let blocks = 37 * ((x / 8 + y / 8) % 2) + 11 * (x * y % 3);
                rgb.push((x * 3 + y * 5 + c * 40 + (x * x + 3 * y * y) / 32 + blocks) as u8);
            }
        }
    }
    Picture::new(width, height, rgb).unwrap()
}

/// Largest difference of a value, and the share of values that differ.
fn difference(a: &[u8], b: &[u8]) -> (u8, f64) {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
    (largest, differing as f64 / a.len() as f64)
}

#[test]
fn every_crop_is_that_of_pillow_within_one_level() {
    let conventions = [
        ("adm", Crop::Adm),
        ("torchvision-bilinear", Crop::Torchvision(Filter::Bilinear)),
        ("torchvision-bicubic", Crop::Torchvision(Filter::Bicubic)),
        ("torchvision-area", Crop::Torchvision(Filter::Area)),
        ("square-lanczos", Crop::Square(Filter::Lanczos)),
        ("square-area", Crop::Square(Filter::Area)),
    ];
    let goldens = goldens("crops.safetensors");
    let mut cases = 0;
    for (name, tensor) in goldens.iter() {
        let parts: Vec<&str> = name.split(['/', 'x']).collect();
        let [convention, width, height, size] = parts[..] else { panic!("{name}") };
        let [width, height, size]: [usize; 3] = [width, height, size].map(|number| number.parse().unwrap());
        let crop = conventions.iter().find(|(known, _)| *known == convention).unwrap().1;
        let cropped = source(width, height).cropped(size, crop).unwrap();
        let (largest, share) = difference(cropped.rgb(), tensor.bytes());
        println!("{name}: at most {largest}, {:.2} % differ", 100.0 * share);
        // Both round products of 8-bit values with fixed-point weights, not with the same number of bits.
        assert!(largest <= 1 && share < 0.03, "{name}: {largest}, {share}");
        cases += 1;
    }
    assert_eq!(cases, 44);
}

#[test]
fn every_kind_of_file_is_decoded_as_pillow_does() {
    let goldens = goldens("decoded.safetensors");
    let mut cases = 0;
    for (name, tensor) in goldens.iter() {
        let bytes = std::fs::read(folder().join(name)).unwrap();
        let picture = Picture::decode(&bytes, Limits::default()).unwrap();
        assert_eq!([picture.height(), picture.width(), 3], tensor.shape(), "{name}");
        let (largest, share) = difference(picture.rgb(), tensor.bytes());
        println!("{name}: at most {largest}, {:.2} % differ", 100.0 * share);
        // JPEG leaves the inverse transform and the interpolation of colour to the decoder, lossy WebP the latter.
        let allowed = if name.ends_with(".jpg") || name == "lossy.webp" { 4 } else { 0 };
        assert!(largest <= allowed, "{name}: {largest}");
        cases += 1;
    }
    assert_eq!(cases, 14);
}
