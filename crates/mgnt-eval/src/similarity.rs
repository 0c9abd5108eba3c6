//! How close a picture is to another, pixel by pixel and by its structure.

use crate::Error;

/// Peak signal-to-noise ratio in decibels of two pictures of the same size, given as bytes; 100 where they are equal.
pub fn psnr(a: &[u8], b: &[u8]) -> Result<f64, Error> {
    if a.is_empty() || a.len() != b.len() {
        return Err(Error::input("picture", format!("{} bytes", a.len().max(1)), b.len()));
    }
    let sum: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b)).powi(2)).sum();
    let mean = sum / a.len() as f64;
    Ok(if mean == 0.0 { EQUAL } else { (10.0 * (255.0 * 255.0 / mean).log10()).min(EQUAL) })
}

/// What equal pictures get in place of infinity, so that means can be taken.
const EQUAL: f64 = 100.0;
/// Half of the window's side less one.
const REACH: usize = 5;
/// Spread of the window's weights in pixels.
const SIGMA: f64 = 1.5;
/// Keep the quotients finite where there is little light, or little contrast.
const C1: f64 = (0.01 * 255.0) * (0.01 * 255.0);
const C2: f64 = (0.03 * 255.0) * (0.03 * 255.0);

/// Structural similarity of two pictures `[height, width, 3]` of bytes (Wang et al., 2004): Gaussian windows of 11 x 11
/// and 1.5 pixels' spread that lie inside the picture, the mean over them and over the three colours.
pub fn ssim(a: &[u8], b: &[u8], width: usize, height: usize) -> Result<f64, Error> {
    let side = 2 * REACH + 1;
    if width < side || height < side {
        return Err(Error::input(
            "picture",
            format!("sides of at least {side}"),
            format!("{width} x {height}"),
        ));
    }
    if [a, b].iter().any(|picture| picture.len() != width * height * 3) {
        return Err(Error::input("picture", format!("{width} x {height} x 3 bytes"), a.len().min(b.len())));
    }
    let colours = (0..3).map(|colour| {
        let plane =
            |bytes: &[u8]| bytes.iter().skip(colour).step_by(3).map(|&v| f64::from(v)).collect::<Vec<_>>();
        let (a, b) = (plane(a), plane(b));
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).collect::<Vec<_>>();
        let mean = |plane: &[f64]| windowed(plane, width, height);
        let (mean_a, mean_b) = (mean(&a), mean(&b));
        let (aa, bb, ab) = (mean(&product(&a, &a)), mean(&product(&b, &b)), mean(&product(&a, &b)));
        let count = mean_a.len() as f64;
        let each = (0..mean_a.len()).map(|i| {
            let (ma, mb) = (mean_a[i], mean_b[i]);
            let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
            (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
        });
        each.sum::<f64>() / count
    });
    Ok(colours.sum::<f64>() / 3.0)
}

/// Weighted means of a plane's windows.
fn windowed(plane: &[f64], width: usize, height: usize) -> Vec<f64> {
    let taps: Vec<f64> =
        (0..=2 * REACH).map(|i| (-((i as f64 - REACH as f64) / SIGMA).powi(2) / 2.0).exp()).collect();
    let sum: f64 = taps.iter().sum();
    let (columns, rows) = (width - 2 * REACH, height - 2 * REACH);
    let across: Vec<f64> = (0..height)
        .flat_map(|y| (0..columns).map(move |x| y * width + x))
        .map(|start| taps.iter().zip(&plane[start..]).map(|(tap, value)| tap * value).sum::<f64>() / sum)
        .collect();
    (0..rows * columns)
        .map(|start| {
            let column = across[start..].iter().step_by(columns);
            taps.iter().zip(column).map(|(tap, value)| tap * value).sum::<f64>() / sum
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pictures of 24 x 16 by formula.
    fn pictures() -> (Vec<u8>, Vec<u8>) {
        let a: Vec<u8> = (0..24 * 16 * 3).map(|i| (i * i / 7 % 256) as u8).collect();
        let b = a.iter().enumerate().map(|(i, &v)| v.saturating_add((i * 13 % 41) as u8)).collect();
        (a, b)
    }

    /// Numbers of scikit-image 0.26, as `tests/golden/tokenizer-losses/make.py` prints them.
    #[test]
    fn numbers_of_scikit_image() {
        let (a, b) = pictures();
        assert!((psnr(&a, &b).unwrap() - 21.068_976_585_824_124).abs() < 1e-9);
        assert!((ssim(&a, &b, 24, 16).unwrap() - 0.976_308_467_123_584_8).abs() < 1e-9);
        let upside_down: Vec<u8> = a.chunks(24 * 3).rev().flatten().copied().collect();
        assert!((ssim(&a, &upside_down, 24, 16).unwrap() - 0.147_019_442_795_195_94).abs() < 1e-9);
    }

    #[test]
    fn equal_pictures_and_small_ones() {
        let (a, _) = pictures();
        assert_eq!(psnr(&a, &a).unwrap(), 100.0);
        assert!((ssim(&a, &a, 24, 16).unwrap() - 1.0).abs() < 1e-12);
        assert!(ssim(&a, &a, 10, 38).unwrap_err().to_string().contains("at least 11"));
        assert!(ssim(&a, &a[3..], 24, 16).is_err());
        assert!(psnr(&a, &a[3..]).is_err() && psnr(&[], &[]).is_err());
        // An error of 10 everywhere.
        assert!((psnr(&[100; 12], &[110; 12]).unwrap() - 28.130_803_608_679_1).abs() < 1e-9);
    }
}
