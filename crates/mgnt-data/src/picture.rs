//! Pictures in memory: decoding, cropping, resizing, writing.

use std::io::Cursor;
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use mgnt_weights::atomic;

use crate::guard::guarded;
use crate::{Crop, Error, Filter};

/// Most bytes that a decoder may take for one picture: 16-bit colour with transparency at the limit of pixels.
const MOST_DECODED: u64 = 8 << 26;

/// An RGB picture, 8 bits a channel, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// What is refused before it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Shortest side that is accepted, in pixels.
    pub shortest: usize,
    /// Longest side that is accepted, in pixels.
    pub longest: usize,
    /// Most pixels that are accepted. The largest picture of ImageNet has 61 million.
    pub pixels: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { shortest: 16, longest: 16_384, pixels: 1 << 26 }
    }
}

impl Picture {
    /// A picture from its bytes, `[height, width, 3]`.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, Error> {
        if width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(rgb.len()) || rgb.is_empty() {
            return Err(Error::Picture(format!("{width}x{height} pixels do not have {} bytes", rgb.len())));
        }
        Ok(Self { width, height, rgb })
    }

    /// Decodes JPEG, PNG, WebP, GIF or BMP, told by its first bytes and not by a file's name; of moving pictures the
    /// first frame. Grey, CMYK, 16-bit and transparent pictures become 8-bit RGB (transparency is dropped), and a
    /// turn that the file's metadata asks for is not made: both as Pillow's `convert("RGB")` does, but that 16-bit grey
    /// is taken by its high byte as colours are, where Pillow clips it to white.
    pub fn decode(bytes: &[u8], limits: Limits) -> Result<Self, Error> {
        Self::decode_in_turn(bytes, limits, false, |_| ())
    }

    /// As [`Self::decode`], but turned as the file's metadata (EXIF) asks for, as viewers show it: a camera stores the rows of its
    /// sensor. What cannot be read there asks for nothing.
    pub fn decode_upright(bytes: &[u8], limits: Limits) -> Result<Self, Error> {
        Self::decode_in_turn(bytes, limits, true, |_| ())
    }

    /// As those, but calls `wait` with the number of pixels before memory is taken for them, and holds what
    /// it returns until they are decoded.
    pub(crate) fn decode_in_turn<T>(
        bytes: &[u8],
        limits: Limits,
        upright: bool,
        wait: impl FnOnce(usize) -> T,
    ) -> Result<Self, Error> {
        guarded(|| decode(bytes, limits, upright, wait))
            .unwrap_or_else(|| Err(Error::Picture("the decoder gave up".into())))
    }

    /// Reads and decodes a file.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_by(path, Self::decode)
    }

    /// Reads and decodes a file [upright](Self::decode_upright).
    pub fn open_upright(path: &Path) -> Result<Self, Error> {
        Self::open_by(path, Self::decode_upright)
    }

    fn open_by(path: &Path, decode: fn(&[u8], Limits) -> Result<Self, Error>) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let any = Limits { shortest: 1, ..Limits::default() };
        decode(&bytes, any).map_err(|e| Error::Picture(format!("{}: {e}", path.display())))
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// The bytes, `[height, width, 3]`.
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The largest square in the middle, resized to `size` x `size` pixels.
    pub fn centre_square(&self, size: usize, filter: Filter) -> Result<Self, Error> {
        self.cropped(size, Crop::Square(filter))
    }

    /// The bytes of a PNG file.
    pub fn to_png(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Cursor::new(Vec::new());
        RgbImage::from_raw(self.width as u32, self.height as u32, self.rgb.clone())
            .ok_or_else(|| Error::Picture("bytes and size do not agree".into()))?
            .write_to(&mut bytes, ImageFormat::Png)
            .map_err(|e| Error::Picture(e.to_string()))?;
        Ok(bytes.into_inner())
    }

    /// Writes a PNG file, atomically.
    pub fn save_png(&self, path: &Path) -> Result<(), Error> {
        Ok(atomic::write_bytes(path, &self.to_png()?)?)
    }
}

/// What a file's metadata asks for, if it can be read.
fn orientation(decoder: &mut impl ImageDecoder) -> Option<Orientation> {
    let metadata = decoder.exif_metadata().ok()??;
    // Some writers of PNG and WebP keep the mark that begins it in a JPEG.
    Orientation::from_exif_chunk(metadata.strip_prefix(b"Exif\0\0").unwrap_or(&metadata))
}

/// A picture's bytes, `[height, width, 3]`, with left and right exchanged: what [`flipped`](crate::loader::flipped) and
/// [`TokenShard::is_flipped`](crate::TokenShard::is_flipped) ask for.
///
/// # Panics
///
/// Where `width` is 0.
pub fn mirrored(rgb: &[u8], width: usize) -> Vec<u8> {
    let rows = rgb.chunks_exact(3 * width);
    rows.flat_map(|row| row.as_chunks::<3>().0.iter().rev().flatten().copied()).collect()
}

fn decode<T>(
    bytes: &[u8],
    limits: Limits,
    upright: bool,
    wait: impl FnOnce(usize) -> T,
) -> Result<Picture, Error> {
    let refuse = |reason: String| Error::Picture(reason);
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| refuse(e.to_string()))?;
    use ImageFormat::{Bmp, Gif, Jpeg, Png, WebP};
    let Some(format @ (Jpeg | Png | WebP | Gif | Bmp)) = reader.format() else {
        return Err(refuse("not a JPEG, PNG, WebP, GIF or BMP file".into()));
    };
    let mut memory = image::Limits::no_limits();
    memory.max_alloc = Some(MOST_DECODED);
    reader.limits(memory);
    let mut decoder = reader.into_decoder().map_err(|e| refuse(e.to_string()))?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    limits.check(width, height)?;
    if format == Jpeg && !jpeg_ends(bytes) {
        return Err(refuse("a JPEG file that is cut off".into()));
    }
    let orientation = if upright { orientation(&mut decoder) } else { None };
    let _turn = wait(width * height);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| refuse(e.to_string()))?;
    picture.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Picture::new(picture.width() as usize, picture.height() as usize, eight_bits(picture))
}

/// The pixels as RGB; of 16 bits the high byte, as Pillow takes it.
fn eight_bits(picture: DynamicImage) -> Vec<u8> {
    use DynamicImage::{ImageLuma16, ImageLumaA16, ImageRgb16, ImageRgba16};
    match picture {
        wide @ (ImageLuma16(_) | ImageLumaA16(_) | ImageRgb16(_) | ImageRgba16(_)) => {
            wide.into_rgb16().into_raw().into_iter().map(|value| (value >> 8) as u8).collect()
        }
        picture => picture.into_rgb8().into_raw(),
    }
}

/// Whether a JPEG's picture data is ended by its marker; the decoder fills what is missing with grey, in silence.
fn jpeg_ends(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 2;
    // Segments, each with its length, of which one may hold a small JPEG of its own.
    loop {
        match bytes.get(at..at + 4) {
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, START_OF_SCAN, ..]) => break,
            Some([0xff, _, high, low]) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            Some(_) => at += 1,
            None => return false,
        }
    }
    // In picture data a byte of 0xff is always followed by zero or a marker of a restart.
    bytes[at..].windows(2).rev().any(|pair| pair == [0xff, END_OF_IMAGE])
}

impl Limits {
    fn check(self, width: usize, height: usize) -> Result<(), Error> {
        let refuse = |rule: String| Err(Error::Picture(format!("{width}x{height} pixels; {rule}")));
        if width.min(height) < self.shortest {
            return refuse(format!("the shortest side allowed is {}", self.shortest));
        }
        if width.max(height) > self.longest {
            return refuse(format!("the longest side allowed is {}", self.longest));
        }
        match width.checked_mul(height) {
            Some(pixels) if pixels <= self.pixels => Ok(()),
            _ => refuse(format!("at most {} are allowed", self.pixels)),
        }
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::png::PngEncoder;
    use image::{ExtendedColorType, GrayImage, ImageEncoder, Rgba, RgbaImage};

    use super::*;

    fn encode(image: DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn gradient(width: usize, height: usize) -> Picture {
        let rgb = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
        Picture::new(width, height, rgb).unwrap()
    }

    #[test]
    fn png_round_trip() {
        let picture = gradient(20, 17);
        assert_eq!(Picture::decode(&picture.to_png().unwrap(), Limits::default()).unwrap(), picture);
    }

    #[test]
    fn a_mirrored_picture_keeps_its_colours() {
        let picture = [1, 2, 3, 4, 5, 6, 10, 20, 30, 40, 50, 60];
        assert_eq!(mirrored(&picture, 2), [4, 5, 6, 1, 2, 3, 40, 50, 60, 10, 20, 30]);
        assert_eq!(mirrored(&mirrored(&picture, 2), 2), picture);
    }

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
            let photo = Picture::open_upright(&path).unwrap();
            (photo.width(), photo.rgb().iter().step_by(3).copied().collect::<Vec<_>>())
        };
        assert_eq!(of(None), (2, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(of(Some(1)), (2, vec![0, 1, 2, 3, 4, 5]));
        assert_eq!(of(Some(3)), (2, vec![5, 4, 3, 2, 1, 0]));
        assert_eq!(of(Some(6)), (3, vec![4, 2, 0, 5, 3, 1]));
        assert_eq!(Picture::open(&path).unwrap().width(), 2);
        std::fs::write(&path, "text").unwrap();
        assert!(Picture::open_upright(&path).unwrap_err().to_string().contains("photo.png: not a JPEG"));
    }

    #[test]
    fn grey_and_transparent_become_rgb() {
        let grey = encode(GrayImage::from_pixel(16, 16, image::Luma([9])).into(), ImageFormat::Jpeg);
        let picture = Picture::decode(&grey, Limits::default()).unwrap();
        assert!(picture.rgb().iter().all(|v| v.abs_diff(9) <= 1));
        let clear = encode(RgbaImage::from_pixel(16, 16, Rgba([1, 2, 3, 0])).into(), ImageFormat::Png);
        assert_eq!(Picture::decode(&clear, Limits::default()).unwrap().rgb()[..3], [1, 2, 3]);
    }

    #[test]
    fn of_sixteen_bits_the_high_byte_is_taken() {
        let pixel = image::Rgb([0x01ffu16, 0x80fe, 0xff00]);
        let colours = encode(image::ImageBuffer::from_pixel(16, 16, pixel).into(), ImageFormat::Png);
        assert_eq!(Picture::decode(&colours, Limits::default()).unwrap().rgb()[..3], [0x01, 0x80, 0xff]);
        let grey = image::ImageBuffer::from_pixel(16, 16, image::Luma([0x40ffu16]));
        let grey = encode(grey.into(), ImageFormat::Png);
        assert_eq!(Picture::decode(&grey, Limits::default()).unwrap().rgb()[..3], [0x40; 3]);
    }

    #[test]
    fn what_is_no_picture_is_refused_with_a_reason() {
        let refuse = |bytes: &[u8]| Picture::decode(bytes, Limits::default()).unwrap_err().to_string();
        assert_eq!(refuse(b"hello, I am a text"), "not a JPEG, PNG, WebP, GIF or BMP file");
        assert!(refuse(b"").contains("not a JPEG"));
        let whole = encode(DynamicImage::new_rgb8(64, 64), ImageFormat::Png);
        assert!(!refuse(&whole[..whole.len() / 2]).is_empty());
        assert_eq!(
            refuse(&encode(DynamicImage::new_rgb8(1, 1), ImageFormat::Png)),
            "1x1 pixels; the shortest side allowed is 16"
        );
    }

    #[test]
    fn the_middle_is_kept() {
        let mut rgb = vec![0; 30 * 10 * 3];
        for row in 0..10 {
            rgb[(row * 30 + 10) * 3..(row * 30 + 20) * 3].fill(200);
        }
        let square = Picture::new(30, 10, rgb).unwrap().centre_square(5, Filter::Area).unwrap();
        assert!(square.rgb().iter().all(|&v| v == 200));
        assert_eq!(gradient(8, 8).centre_square(8, Filter::Lanczos).unwrap(), gradient(8, 8));
    }
}
