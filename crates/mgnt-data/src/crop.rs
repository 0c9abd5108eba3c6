//! From a picture of any size to a square one: the conventions of the field.
//!
//! They differ in what is resized first, with which filter, and how sizes are rounded; numbers such as a FID change
//! with them. All take a square from the middle.

use std::fmt;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use serde::{Deserialize, Serialize};

use crate::{Error, Picture, area};

/// How pictures are made smaller or larger. All but [`Filter::Area`] are widened when shrinking (antialiased).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Lanczos of radius 3 (Pillow's `LANCZOS`).
    #[default]
    Lanczos,
    /// Cubic with a = -1/2 (Pillow's `BICUBIC`).
    Bicubic,
    /// A triangle (Pillow's `BILINEAR`).
    Bilinear,
    /// Mean over the covered area (Pillow's `BOX`).
    Area,
}

/// A convention of cropping and resizing to a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The largest square in the middle, resized.
    Square(Filter),
    /// The training pictures of ADM (Dhariwal and Nichol, 2021) and of most diffusion models after it: halved with a
    /// box filter while the shorter side is at least twice the target, bicubic so that the shorter side fits, then
    /// the middle. Sizes are rounded to the nearest, halves to even.
    Adm,
    /// `Resize(size)` and `CenterCrop(size)` of torchvision on Pillow pictures: the shorter side is resized to the
    /// target and the longer one in proportion, rounded down; then the middle, halves of a pixel to even.
    Torchvision(Filter),
}

impl Default for Crop {
    fn default() -> Self {
        Self::Square(Filter::Lanczos)
    }
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Square(filter) => write!(f, "centre square, {filter:?}"),
            Self::Adm => write!(f, "ADM's centre crop (box halvings, Bicubic)"),
            Self::Torchvision(filter) => write!(f, "torchvision's Resize and CenterCrop, {filter:?}"),
        }
    }
}

/// What is taken along one side of a picture: the pixels `corner..corner + count` of those that there would be if the
/// `length` pixels from `start` on were made `target` pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub start: f64,
    pub length: usize,
    pub target: usize,
    pub corner: usize,
    pub count: usize,
}

impl Window {
    /// All of a side.
    pub fn all(length: usize, target: usize) -> Self {
        Self { start: 0.0, length, target, corner: 0, count: target }
    }

    /// Pixels of the picture to one of the result.
    pub fn scale(self) -> f64 {
        self.length as f64 / self.target as f64
    }

    /// Where the window begins in the picture, and how long it is there.
    fn extent(self) -> (f64, f64) {
        let before = self.corner as f64 * self.scale();
        let length = (self.count * self.length) as f64 / self.target as f64;
        (self.start + before, length.min(self.length as f64 - before))
    }
}

impl Picture {
    /// A square of `size` x `size` pixels; refuses one of none.
    pub fn cropped(&self, size: usize, crop: Crop) -> Result<Self, Error> {
        let mut rgb = vec![0; size * size * 3];
        self.crop_into(size, crop, &mut rgb)?;
        Self::new(size, size, rgb)
    }

    /// Writes a square of `size` x `size` pixels to `rgb`, `[size, size, 3]`, which must have that length; refuses one of
    /// none.
    pub fn crop_into(&self, size: usize, crop: Crop, rgb: &mut [u8]) -> Result<(), Error> {
        if size == 0 {
            return Err(Error::Field { field: "size", expected: "at least 1".into(), got: "0".into() });
        }
        if rgb.len() != size * size * 3 {
            return Err(Error::Picture(format!("{size}x{size} pixels do not have {} bytes", rgb.len())));
        }
        match crop {
            Crop::Square(filter) => {
                let side = self.width().min(self.height());
                let windows = [self.width(), self.height()]
                    .map(|length| Window { start: ((length - side) / 2) as f64, ..Window::all(side, size) });
                resize(self, windows, filter, rgb)
            }
            Crop::Adm => {
                let mut halved = None;
                let picture = loop {
                    let picture = halved.as_ref().unwrap_or(self);
                    if picture.width().min(picture.height()) < 2 * size {
                        break picture;
                    }
                    let target = [picture.width() / 2, picture.height() / 2];
                    let mut rgb = vec![0; target[0] * target[1] * 3];
                    resize(picture, picture.all(target), Filter::Area, &mut rgb)?;
                    halved = Some(Self::new(target[0], target[1], rgb)?);
                };
                let scale = size as f64 / picture.width().min(picture.height()) as f64;
                let target = [picture.width(), picture.height()]
                    .map(|side| (side as f64 * scale).round_ties_even() as usize);
                let corner = target.map(|side| (side - size) / 2);
                resize_window(picture, target, corner, Filter::Bicubic, size, rgb)
            }
            Crop::Torchvision(filter) => {
                let shorter = self.width().min(self.height());
                // Python computes the product and the quotient of whole numbers in this order.
                let target = [self.width(), self.height()].map(|side| size * side / shorter);
                let corner = target.map(|side| ((side - size) as f64 / 2.0).round_ties_even() as usize);
                resize_window(self, target, corner, filter, size, rgb)
            }
        }
    }

    fn all(&self, [width, height]: [usize; 2]) -> [Window; 2] {
        [Window::all(self.width(), width), Window::all(self.height(), height)]
    }
}

/// The square at `corner` of what the picture would be if it were resized to `target`, without computing the rest.
fn resize_window(
    picture: &Picture,
    target: [usize; 2],
    corner: [usize; 2],
    filter: Filter,
    size: usize,
    rgb: &mut [u8],
) -> Result<(), Error> {
    let [across, down] = picture.all(target);
    let windows = [
        Window { corner: corner[0], count: size, ..across },
        Window { corner: corner[1], count: size, ..down },
    ];
    resize(picture, windows, filter, rgb)
}

/// Resizes a part of a picture. Filters reach beyond the part, not beyond the picture.
///
/// Rows first and then columns, as Pillow does: values are rounded to 8 bits in between, so the order can be seen.
fn resize(picture: &Picture, windows: [Window; 2], filter: Filter, rgb: &mut [u8]) -> Result<(), Error> {
    let [(left, across), (top, down)] = windows.map(Window::extent);
    let [width, height] = windows.map(|window| window.count);
    if left == 0.0
        && top == 0.0
        && [across, down] == [width as f64, height as f64]
        && [picture.width(), picture.height()] == [width, height]
    {
        rgb.copy_from_slice(picture.rgb());
        return Ok(());
    }
    // A convolution, and how far it reaches in pixels of the smaller picture.
    let (filter, radius) = match filter {
        Filter::Lanczos => (FilterType::Lanczos3, 3.0),
        Filter::Bicubic => (FilterType::CatmullRom, 2.0),
        Filter::Bilinear => (FilterType::Bilinear, 1.0),
        Filter::Area => {
            area::resize(picture.rgb(), picture.width(), windows, rgb);
            return Ok(());
        }
    };
    // The rows of the picture that the columns' filter reaches, and one more.
    let reach = radius * (down / height as f64).max(1.0) + 1.0;
    let first = (top - reach).floor().max(0.0);
    let end = (top + down + reach).ceil().min(picture.height() as f64);
    let rows_there = (end - first) as usize;
    let mut rows = vec![0; width * rows_there * 3];
    let part = Part { left, top: first, width: across, height: end - first };
    pass(picture.rgb(), [picture.width(), picture.height()], part, filter, &mut rows, [width, rows_there])?;
    let part = Part { left: 0.0, top: top - first, width: width as f64, height: down };
    pass(&rows, [width, rows_there], part, filter, rgb, [width, height])
}

/// A part of a picture in pixels, not necessarily whole ones.
#[derive(Debug, Clone, Copy)]
struct Part {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// One convolution of a part of a picture that, but for this pass's direction, has its size already.
fn pass(
    source: &[u8],
    [source_width, source_height]: [usize; 2],
    part: Part,
    filter: FilterType,
    target: &mut [u8],
    [width, height]: [usize; 2],
) -> Result<(), Error> {
    let failed = |e: &dyn fmt::Display| Error::Picture(e.to_string());
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter)).crop(
        part.left,
        part.top,
        part.width,
        part.height,
    );
    let source = ImageRef::new(source_width as u32, source_height as u32, source, PixelType::U8x3)
        .map_err(|e| failed(&e))?;
    let mut target =
        Image::from_slice_u8(width as u32, height as u32, target, PixelType::U8x3).map_err(|e| failed(&e))?;
    Resizer::new().resize(&source, &mut target, &options).map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(width: usize, height: usize) -> Picture {
        let rgb = (0..width * height * 3).map(|i| (i * 7 + i / (3 * width) * 31 + (i / 50 % 2) * 90) as u8);
        Picture::new(width, height, rgb.collect()).unwrap()
    }

    #[test]
    fn a_square_of_no_pixel_is_refused() {
        for crop in [Crop::Square(Filter::Area), Crop::Square(Filter::Lanczos), Crop::Adm, Crop::default()] {
            let error = pattern(20, 30).cropped(0, crop).unwrap_err().to_string();
            assert_eq!(error, "size: expected at least 1, got 0", "{crop:?}");
        }
    }

    #[test]
    fn a_window_is_cut_from_the_whole() {
        for (width, height, target) in
            [(30, 48, [24, 38]), (48, 30, [38, 24]), (90, 61, [35, 24]), (20, 31, [24, 37])]
        {
            let picture = pattern(width, height);
            let size = 24;
            let corner = target.map(|side| (side - size) / 2);
            for filter in [Filter::Lanczos, Filter::Bicubic, Filter::Bilinear, Filter::Area] {
                let mut whole = vec![0; target[0] * target[1] * 3];
                resize(&picture, picture.all(target), filter, &mut whole).unwrap();
                let mut window = vec![0; size * size * 3];
                resize_window(&picture, target, corner, filter, size, &mut window).unwrap();
                let differing = (0..size * size * 3).filter(|at| {
                    let (row, column) = (at / (size * 3), at % (size * 3));
                    let expected = whole[((corner[1] + row) * target[0] + corner[0]) * 3 + column];
                    window[*at].abs_diff(expected) > 1
                });
                let rows: Vec<usize> = differing.map(|at| at / (size * 3)).collect();
                assert!(rows.is_empty(), "{width}x{height} {filter:?}: rows {rows:?}");
            }
        }
    }
}
