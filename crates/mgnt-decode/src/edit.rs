//! Inpainting, outpainting and class-conditional editing: which tokens a mask of pixels leaves known, and how the
//! painted pixels are laid into the picture.

use crate::Error;

/// Which pixels of a picture are to be painted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PixelMask {
    width: usize,
    height: usize,
    /// Row by row; `true` is to be painted.
    open: Vec<bool>,
}

impl PixelMask {
    /// A mask from its pixels, row by row; some must be open and some must not.
    pub fn new(width: usize, height: usize, open: Vec<bool>) -> Result<Self, Error> {
        if width.checked_mul(height) != Some(open.len()) {
            return Err(Error::field("mask", format!("{width} x {height} pixels"), open.len()));
        }
        if !open.contains(&true) {
            return Err(Error::field("mask", "some pixels to paint", "none"));
        }
        if !open.contains(&false) {
            return Err(Error::field("mask", "some pixels to keep", "none"));
        }
        Ok(Self { width, height, open })
    }

    /// The cells of a `grid` x `grid` raster that have any open pixel.
    ///
    /// Fails where that leaves no known cell, and for a grid without cells.
    pub fn cells(&self, grid: usize) -> Result<Vec<bool>, Error> {
        if grid == 0 {
            return Err(Error::field("token grid", "at least one cell", 0));
        }
        // A pixel may lie across the border of cells.
        let touched = |at: usize, side: usize| at * grid / side..=((at + 1) * grid - 1) / side;
        let mut cells = vec![false; grid * grid];
        for (i, _) in self.open.iter().enumerate().filter(|(_, open)| **open) {
            for row in touched(i / self.width, self.height) {
                for column in touched(i % self.width, self.width) {
                    cells[row * grid + column] = true;
                }
            }
        }
        if !cells.contains(&false) {
            return Err(Error::field(
                "mask",
                "some cells of the token grid without a pixel to paint",
                "none",
            ));
        }
        Ok(cells)
    }

    /// Largest of the distances in the region of each pixel, that is, among the open pixels that touch each other, at
    /// corners too: 0 where it is kept.
    fn depths(&self, distances: &[usize]) -> Vec<usize> {
        let mut depths = vec![0; self.open.len()];
        for start in 0..depths.len() {
            if !self.open[start] || depths[start] > 0 {
                continue;
            }
            // Found pixels get a depth at once, so that each is found once.
            let (mut region, mut looked_at) = (vec![start], 0);
            depths[start] = 1;
            while let Some(&at) = region.get(looked_at) {
                looked_at += 1;
                let (x, y) = (at % self.width, at / self.width);
                for y in y.saturating_sub(1)..(y + 2).min(self.height) {
                    for x in x.saturating_sub(1)..(x + 2).min(self.width) {
                        let neighbour = y * self.width + x;
                        if self.open[neighbour] && depths[neighbour] == 0 {
                            depths[neighbour] = 1;
                            region.push(neighbour);
                        }
                    }
                }
            }
            let depth = region.iter().map(|&at| distances[at]).max().unwrap_or(0);
            for at in region {
                depths[at] = depth;
            }
        }
        depths
    }

    /// Distance of each pixel to the nearest that is kept, in pixels (a step to any of the eight neighbours is one):
    /// 0 where it is kept.
    fn distances(&self) -> Vec<usize> {
        let far = self.width + self.height;
        let mut distances: Vec<usize> = self.open.iter().map(|&open| if open { far } else { 0 }).collect();
        // Two passes reach every pixel: from the upper left, then from the lower right.
        for reverse in [false, true] {
            for step in 0..distances.len() {
                let at = if reverse { distances.len() - 1 - step } else { step };
                let (x, y) = ((at % self.width) as isize, (at / self.width) as isize);
                for (dx, dy) in [(-1, 0), (-1, -1), (0, -1), (1, -1)] {
                    let (dx, dy) = if reverse { (-dx, -dy) } else { (dx, dy) };
                    let (nx, ny) = (x + dx, y + dy);
                    if (0..self.width as isize).contains(&nx) && (0..self.height as isize).contains(&ny) {
                        let neighbour = distances[ny as usize * self.width + nx as usize];
                        distances[at] = distances[at].min(neighbour + 1);
                    }
                }
            }
        }
        distances
    }
}

/// Tokens with those of open cells taken away, for [`Decoder::known`](crate::Decoder::known).
pub fn known_tokens(tokens: &[u16], open_cells: &[bool]) -> Vec<Option<u16>> {
    tokens.iter().zip(open_cells).map(|(&token, &open)| (!open).then_some(token)).collect()
}

/// The original with the painted picture laid into the open pixels; both are bytes `[height, width, 3]`.
///
/// Kept pixels stay as they are. Open ones within `feather` pixels of a kept one are mixed, the nearer the more of
/// the original. In a region that is less deep than that, only its deepest pixels are all painted.
pub fn blend(original: &[u8], painted: &[u8], mask: &PixelMask, feather: usize) -> Result<Vec<u8>, Error> {
    let bytes = mask.open.len() * 3;
    for (field, got) in [("original", original.len()), ("painted picture", painted.len())] {
        if got != bytes {
            return Err(Error::field(field, format!("{bytes} bytes, as the mask has"), got));
        }
    }
    let distances = mask.distances();
    let depths = mask.depths(&distances);
    let mix = |at: usize| {
        let (distance, depth) = (distances[at / 3], depths[at / 3]);
        // Kept pixels have neither.
        let whole = depth.min(feather.saturating_add(1)).max(1);
        let share = (distance as f32 / whole as f32).min(1.0);
        let (from, to) = (f32::from(original[at]), f32::from(painted[at]));
        (from + (to - from) * share).round() as u8
    };
    Ok((0..bytes).map(mix).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 6 x 4 pixels of which the right half is open.
    fn half() -> PixelMask {
        PixelMask::new(6, 4, (0..24).map(|i| i % 6 >= 3).collect()).unwrap()
    }

    #[test]
    fn a_cell_with_any_open_pixel_is_open() {
        assert_eq!(half().cells(2).unwrap(), [false, true, false, true]);
        // In three columns the middle one is cut through.
        assert_eq!(half().cells(3).unwrap()[..3], [false, true, true]);
        // Pixel 1 of 6 lies in the first and the second of four columns.
        let second = PixelMask::new(6, 4, (0..24).map(|i| i % 6 == 1).collect()).unwrap();
        assert_eq!(second.cells(4).unwrap()[..4], [true, true, false, false]);
        assert!(half().cells(0).is_err());
        let tokens = known_tokens(&[5, 6, 7, 8], &half().cells(2).unwrap());
        assert_eq!(tokens, [Some(5), None, Some(7), None]);
    }

    #[test]
    fn masks_that_cannot_be() {
        assert!(PixelMask::new(2, 2, vec![true; 4]).unwrap_err().to_string().contains("keep"));
        assert!(PixelMask::new(2, 2, vec![false; 4]).unwrap_err().to_string().contains("paint"));
        assert!(PixelMask::new(2, 2, vec![true; 3]).is_err());
        let scattered = PixelMask::new(4, 4, (0..16).map(|i| i % 2 == 0).collect()).unwrap();
        assert!(scattered.cells(2).is_err());
    }

    #[test]
    fn kept_pixels_stay_and_the_seam_is_mixed() {
        let (original, painted) = (vec![0; 72], vec![90; 72]);
        let blended = blend(&original, &painted, &half(), 2).unwrap();
        let row: Vec<u8> = (0..6).map(|x| blended[(6 + x) * 3]).collect();
        assert_eq!(row, [0, 0, 0, 30, 60, 90]);
        let hard = blend(&original, &painted, &half(), 0).unwrap();
        assert_eq!((0..6).map(|x| hard[x * 3]).collect::<Vec<_>>(), [0, 0, 0, 90, 90, 90]);
        assert!(blend(&original[..3], &painted, &half(), 1).is_err());
    }

    #[test]
    fn every_region_is_painted_in_full_somewhere() {
        // A line of one pixel, a kept column, and four columns at the edge.
        let mask = PixelMask::new(7, 2, (0..14).map(|i| ![0, 2].contains(&(i % 7))).collect()).unwrap();
        let row = |feather| {
            let blended = blend(&[0; 42], &[120; 42], &mask, feather).unwrap();
            (0..7).map(|x| blended[x * 3]).collect::<Vec<_>>()
        };
        assert_eq!(row(0), [0, 120, 0, 120, 120, 120, 120]);
        assert_eq!(row(1), [0, 120, 0, 60, 120, 120, 120]);
        for deeper in [3, 65_535, usize::MAX] {
            assert_eq!(row(deeper), [0, 120, 0, 30, 60, 90, 120], "{deeper}");
        }
    }

    #[test]
    fn distances_reach_around_corners() {
        let mask = PixelMask::new(5, 5, (0..25).map(|i| i != 0 && i != 24).collect()).unwrap();
        let distances = mask.distances();
        assert_eq!([distances[0], distances[6], distances[12], distances[4]], [0, 1, 2, 4]);
    }
}
