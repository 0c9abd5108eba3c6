//! Pictures side by side, with a label under each.

use mgnt_data::Picture;

use super::canvas::{Canvas, LETTER};

/// Space between cells, in pixels.
const MARGIN: usize = 8;
/// Smaller pictures are enlarged by a whole factor to about this side.
const SHOWN: usize = 128;

/// A cell of a grid.
pub struct Cell<'a> {
    /// The picture.
    pub picture: &'a Picture,
    /// What stands under it.
    pub label: String,
}

/// Draws cells in rows of `columns`.
pub fn labelled_grid(cells: &[Cell], columns: usize) -> Canvas {
    let columns = columns.clamp(1, cells.len().max(1));
    let side = cells.iter().map(|c| c.picture.width().max(c.picture.height())).max().unwrap_or(SHOWN);
    let factor = (SHOWN / side.max(1)).max(1);
    let shown = side * factor;
    let (cell_width, cell_height) = (shown + MARGIN, shown + MARGIN + LETTER + 4);
    let rows = cells.len().div_ceil(columns);
    let mut canvas = Canvas::new(columns * cell_width + MARGIN, rows * cell_height + MARGIN, [250; 3]);
    for (i, cell) in cells.iter().enumerate() {
        let (left, top) = (MARGIN + i % columns * cell_width, MARGIN + i / columns * cell_height);
        canvas.paste(cell.picture, left, top, factor);
        canvas.write(&cell.label, left, top + shown + 4, shown);
    }
    canvas
}

/// Draws the same samples as made in several ways: of each `columns` samples a row of every way, one below the other.
/// Samples are whole rows, or less than one. `label` is of a way's name and a sample's number.
pub fn compared_grid(
    ways: &[(&str, Vec<Picture>)],
    columns: usize,
    label: impl Fn(&str, usize) -> String,
) -> Canvas {
    let samples = ways.iter().map(|(_, pictures)| pictures.len()).min().unwrap_or(0);
    let columns = columns.clamp(1, samples.max(1));
    let mut cells = Vec::with_capacity(ways.len() * samples);
    for first in (0..samples).step_by(columns) {
        for (way, pictures) in ways {
            let row = first..(first + columns).min(samples);
            cells.extend(row.map(|i| Cell { picture: &pictures[i], label: label(way, i) }));
        }
    }
    labelled_grid(&cells, columns)
}

/// Columns of a grid of that many cells: about twice as wide as high, at most 16.
pub fn columns(count: usize) -> usize {
    (2 * count).isqrt().clamp(1, 16)
}

/// A copy with the masked cells of a `grid` x `grid` raster greyed out.
pub fn veiled(picture: &Picture, masked: &[bool], grid: usize) -> Picture {
    let (width, height) = (picture.width(), picture.height());
    let mut rgb = picture.rgb().to_vec();
    for y in 0..height {
        for x in 0..width {
            if masked[y * grid / height * grid + x * grid / width] {
                rgb[(y * width + x) * 3..][..3].fill(if (x + y) % 4 == 0 { 150 } else { 185 });
            }
        }
    }
    Picture::new(width, height, rgb).unwrap_or_else(|_| picture.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_its_place() {
        let picture = Picture::new(64, 64, [200, 10, 10].repeat(64 * 64)).unwrap();
        let cells: Vec<Cell> = (0..5).map(|_| Cell { picture: &picture, label: String::new() }).collect();
        let canvas = labelled_grid(&cells, 3);
        assert_eq!((canvas.width(), canvas.height()), (3 * 136 + 8, 2 * 148 + 8));
        let red = canvas.rgb().chunks(3).filter(|p| *p == [200, 10, 10]).count();
        assert_eq!(red, 5 * 128 * 128);
    }

    #[test]
    fn ways_stand_below_each_other() {
        let shade = |value: u8| Picture::new(64, 64, vec![value; 64 * 64 * 3]).unwrap();
        let ways = [("a", (0..4).map(shade).collect()), ("b", (10..14).map(shade).collect())];
        let labels = std::cell::RefCell::new(Vec::new());
        let canvas = compared_grid(&ways, 2, |way, sample| {
            labels.borrow_mut().push(format!("{way}{sample}"));
            String::new()
        });
        assert_eq!(labels.into_inner(), ["a0", "a1", "b0", "b1", "a2", "a3", "b2", "b3"]);
        let shown = |column: usize, row: usize| {
            canvas.rgb()[((row * 148 + 8) * canvas.width() + column * 136 + 8) * 3]
        };
        let shown: Vec<u8> = (0..8).map(|i| shown(i % 2, i / 2)).collect();
        assert_eq!(shown, [0, 1, 10, 11, 2, 3, 12, 13]);
    }

    #[test]
    fn masked_cells_are_veiled_and_no_others() {
        let picture = Picture::new(4, 4, vec![9; 48]).unwrap();
        let veiled = veiled(&picture, &[true, false, false, false], 2);
        let changed: Vec<usize> = (0..16).filter(|i| veiled.rgb()[i * 3] != 9).collect();
        assert_eq!(changed, [0, 1, 4, 5]);
    }
}
