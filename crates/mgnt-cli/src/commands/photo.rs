//! Photos as viewers show them.

use std::path::Path;

use mgnt_data::{Limits, Picture};
use mgnt_weights::Error;

/// Reads a picture, and turns it as its metadata (EXIF) asks for.
pub fn open_upright(path: &Path) -> anyhow::Result<Picture> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let any = Limits { shortest: 1, ..Limits::default() };
    let named = |error| mgnt_data::Error::Picture(format!("{}: {error}", path.display()));
    Ok(Picture::decode_upright(&bytes, any).map_err(named)?)
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;

    #[test]
    fn a_photo_is_turned_as_its_metadata_asks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("photo.png");
        // Rows of 0 1 and 2 3 and 4 5.
        let rgb: Vec<u8> = (0..6).flat_map(|i| [i; 3]).collect();
        let of = |orientation: Option<u8>| {
            let mut png = Vec::new();
            let mut encoder = PngEncoder::new(&mut png);
            if let Some(number) = orientation {
                // A big-endian TIFF header, and one field: 0x0112, a short.
                let head = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
                encoder.set_exif_metadata([head, vec![number, 0, 0, 0, 0, 0, 0]].concat()).unwrap();
            }
            encoder.write_image(&rgb, 2, 3, ExtendedColorType::Rgb8).unwrap();
            std::fs::write(&path, png).unwrap();
            let photo = open_upright(&path).unwrap();
            (photo.width(), photo.rgb().iter().step_by(3).copied().collect::<Vec<_>>())
        };
        assert_eq!(of(None), (2, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(of(Some(1)), (2, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(of(Some(3)), (2, vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(of(Some(6)), (3, vec![4, 2, 0, 5, 3, 1]));
        std::fs::write(&path, "text").unwrap();
        assert!(open_upright(&path).unwrap_err().to_string().contains("photo.png: not a JPEG"));
    }
}
