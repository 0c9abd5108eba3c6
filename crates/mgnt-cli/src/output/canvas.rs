//! A picture to draw on: pixels, pasted pictures, small text.

use anyhow::Result;
use font8x8::{BASIC_FONTS, UnicodeFonts};
use mgnt_data::Picture;

/// Side of a letter in pixels.
pub const LETTER: usize = 8;

/// An RGB canvas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canvas {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Canvas {
    /// A canvas of one colour.
    pub fn new(width: usize, height: usize, colour: [u8; 3]) -> Self {
        Self { width, height, rgb: colour.repeat(width * height) }
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

    /// Colours a pixel; outside the canvas nothing happens.
    pub fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = (y * self.width + x) * 3;
            self.rgb[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// Pastes a picture enlarged by a whole factor.
    pub fn paste(&mut self, picture: &Picture, left: usize, top: usize, factor: usize) {
        for y in 0..picture.height() * factor {
            for x in 0..picture.width() * factor {
                let at = (y / factor * picture.width() + x / factor) * 3;
                let colour = [picture.rgb()[at], picture.rgb()[at + 1], picture.rgb()[at + 2]];
                self.set(left + x, top + y, colour);
            }
        }
    }

    /// Writes text, cut to `width` pixels with a full stop where it is too long.
    pub fn write(&mut self, text: &str, left: usize, top: usize, width: usize) {
        let room = width / LETTER;
        let mut letters: Vec<char> = text.chars().collect();
        if letters.len() > room {
            letters.truncate(room.saturating_sub(1));
            letters.push('.');
        }
        for (i, letter) in letters.into_iter().enumerate() {
            let rows = BASIC_FONTS.get(letter).unwrap_or([0; LETTER]);
            for (y, row) in rows.iter().enumerate() {
                for x in (0..LETTER).filter(|x| row >> x & 1 == 1) {
                    self.set(left + i * LETTER + x, top + y, [40, 40, 40]);
                }
            }
        }
    }

    /// As a picture.
    pub fn into_picture(self) -> Result<Picture> {
        Ok(Picture::new(self.width, self.height, self.rgb)?)
    }
}

/// Canvases under each other.
pub fn stacked(canvases: &[Canvas]) -> Canvas {
    let width = canvases.iter().map(Canvas::width).max().unwrap_or(1);
    let height: usize = canvases.iter().map(Canvas::height).sum();
    let mut whole = Canvas::new(width, height.max(1), [250; 3]);
    let mut top = 0;
    for canvas in canvases {
        for (i, pixel) in canvas.rgb.chunks(3).enumerate() {
            whole.set(i % canvas.width, top + i / canvas.width, [pixel[0], pixel[1], pixel[2]]);
        }
        top += canvas.height;
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_to_its_room() {
        let dark = |canvas: &Canvas| -> Vec<usize> {
            let row = |x: &usize| (0..10).any(|y| canvas.rgb()[(y * 100 + x) * 3] < 100);
            (0..100).filter(row).collect()
        };
        let mut canvas = Canvas::new(100, 10, [255; 3]);
        canvas.write("a long label", 0, 1, 40);
        assert!(!dark(&canvas).is_empty() && dark(&canvas).iter().all(|&x| x < 40));
    }

    #[test]
    fn canvases_are_stacked() {
        let canvases = [Canvas::new(2, 1, [1; 3]), Canvas::new(3, 2, [2; 3])];
        let whole = stacked(&canvases);
        assert_eq!((whole.width(), whole.height()), (3, 3));
        let count = |value: u8| whole.rgb().chunks(3).filter(|p| *p == [value; 3]).count();
        assert_eq!((count(1), count(2), count(250)), (2, 6, 1));
    }

    #[test]
    fn pasting_enlarges_and_stays_inside() {
        let picture = Picture::new(1, 1, vec![1, 2, 3]).unwrap();
        let mut canvas = Canvas::new(4, 4, [0; 3]);
        canvas.paste(&picture, 2, 2, 3);
        assert_eq!(canvas.rgb().chunks(3).filter(|p| *p == [1, 2, 3]).count(), 4);
    }
}
