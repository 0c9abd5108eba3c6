//! A small class-conditional picture set, drawn: for demonstrations and tests where no photos are at hand.

use std::path::Path;

use mgnt_weights::atomic;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{Error, Picture};

/// Names of the classes, one a shape.
pub const CLASSES: [&str; 8] = ["checks", "cross", "disc", "ring", "square", "star", "stripes", "triangle"];

/// Samples a pixel side, against jagged edges.
const SAMPLES: usize = 3;

/// Draws picture `number` of a class, `size` pixels a side: one shape of random place, size, turn and colour on a
/// background that runs between two other colours. The same arguments give the same picture.
pub fn draw(class: usize, number: u64, size: usize, seed: u64) -> Result<Picture, Error> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((number << 8) | class as u64);
    let mut unit = || rng.random::<f32>();
    let hue = unit();
    let shape_colour = colour(hue, 0.75 + 0.25 * unit(), 0.85 + 0.15 * unit());
    let back_hue = hue + 0.3 + 0.4 * unit();
    let backs = [
        colour(back_hue, 0.3 * unit(), 0.15 + 0.3 * unit()),
        colour(back_hue + 0.1, 0.5, 0.35 + 0.3 * unit()),
    ];
    let radius = 0.22 + 0.16 * unit();
    let centre = [0.5 + 0.24 * (unit() - 0.5), 0.5 + 0.24 * (unit() - 0.5)];
    let (sin, cos) = (std::f32::consts::TAU * unit()).sin_cos();
    let (back_sin, back_cos) = (std::f32::consts::TAU * unit()).sin_cos();
    let turn =
        (unit() - 0.5) * if matches!(CLASSES.get(class), Some(&"stripes" | &"checks")) { 0.5 } else { 0.0 };

    let mut rgb = Vec::with_capacity(size * size * 3);
    let fine = (size * SAMPLES) as f32;
    for y in 0..size {
        for x in 0..size {
            let mut sum = [0.0f32; 3];
            for sample in 0..SAMPLES * SAMPLES {
                let px = ((x * SAMPLES + sample % SAMPLES) as f32 + 0.5) / fine;
                let py = ((y * SAMPLES + sample / SAMPLES) as f32 + 0.5) / fine;
                let (dx, dy) = ((px - centre[0]) / radius, (py - centre[1]) / radius);
                let local = if turn == 0.0 {
                    [dx * cos + dy * sin, dy * cos - dx * sin]
                } else {
                    [dx + turn * dy, dy - turn * dx]
                };
                let along = ((px - 0.5) * back_cos + (py - 0.5) * back_sin + 0.5).clamp(0.0, 1.0);
                for (channel, sum) in sum.iter_mut().enumerate() {
                    *sum += if inside(class, local) {
                        shape_colour[channel]
                    } else {
                        backs[0][channel] * (1.0 - along) + backs[1][channel] * along
                    };
                }
            }
            rgb.extend(sum.map(|s| (255.0 * s / (SAMPLES * SAMPLES) as f32).round() as u8));
        }
    }
    Picture::new(size, size, rgb)
}

/// Whether a point, in units of the shape's radius from its centre, is inside.
fn inside(class: usize, [x, y]: [f32; 2]) -> bool {
    let distance = x.hypot(y);
    let in_square = x.abs() < 1.0 && y.abs() < 1.0;
    match CLASSES.get(class).copied().unwrap_or(CLASSES[0]) {
        "checks" => in_square && ((x * 2.0).floor() + (y * 2.0).floor()).rem_euclid(2.0) < 0.5,
        "cross" => in_square && (x.abs() < 0.35 || y.abs() < 0.35),
        "disc" => distance < 1.0,
        "ring" => (0.6..1.0).contains(&distance),
        "square" => x.abs() < 0.85 && y.abs() < 0.85,
        "star" => {
            let fifth = std::f32::consts::TAU / 5.0;
            let angle = (y.atan2(x).rem_euclid(fifth) / fifth - 0.5).abs() * 2.0;
            distance < 0.45 + 0.75 * (1.0 - angle).powi(2)
        }
        "stripes" => in_square && (y * 2.5).rem_euclid(1.0) < 0.5,
        _ => y < 0.6 && y > 1.8 * x.abs() - 1.1,
    }
}

/// RGB from hue, saturation and value, each 0 to 1 (the hue wraps).
fn colour(hue: f32, saturation: f32, value: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|offset: f32| {
        let k = (offset + hue.rem_euclid(1.0) * 6.0).rem_euclid(6.0);
        value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

/// Writes `per_class` PNG pictures of each class as `<folder>/<class>/<number>.png`, without a wait for the disk: for a
/// folder that [`atomic::write_folder`] fills, or that is soon gone.
pub fn write_folder(folder: &Path, per_class: usize, size: usize, seed: u64) -> Result<(), Error> {
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..per_class {
            let png = draw(class, number as u64, size, seed)?.to_png()?;
            atomic::write_within(&folder.join(name).join(format!("{number:04}.png")), &png)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_repeat_with_their_arguments_and_differ_otherwise() {
        let picture = |class, number, seed| draw(class, number, 24, seed).unwrap();
        assert_eq!(picture(2, 5, 1), picture(2, 5, 1));
        for other in [picture(3, 5, 1), picture(2, 6, 1), picture(2, 5, 2)] {
            assert_ne!(picture(2, 5, 1), other);
        }
    }

    #[test]
    fn every_shape_covers_some_of_the_middle_and_not_all() {
        for (class, name) in CLASSES.iter().enumerate() {
            let points = (0..100).map(|i| [(i % 10) as f32 / 5.0 - 0.9, (i / 10) as f32 / 5.0 - 0.9]);
            let covered = points.filter(|&point| inside(class, point)).count();
            assert!((15..95).contains(&covered), "{name}: {covered}");
        }
    }
}
