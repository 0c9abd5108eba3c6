/// Side of the network's input in pixels.
pub(super) const SIDE: usize = 299;

/// A picture `[height, width, 3]` of bytes to `[3, 299, 299]` in 0 to 1: bilinear, half-pixel centres, no
/// antialiasing, also when shrinking (pytorch-fid's).
pub fn resize(rgb: &[u8], width: usize, height: usize) -> Vec<f32> {
    let columns = taps(width);
    let rows = taps(height);
    let mut out = vec![0.0; 3 * SIDE * SIDE];
    for channel in 0..3 {
        let at = |x: usize, y: usize| f32::from(rgb[(y * width + x) * 3 + channel]) / 255.0;
        for (y, &(y0, y1, fy)) in rows.iter().enumerate() {
            for (x, &(x0, x1, fx)) in columns.iter().enumerate() {
                let top = at(x0, y0) * (1.0 - fx) + at(x1, y0) * fx;
                let bottom = at(x0, y1) * (1.0 - fx) + at(x1, y1) * fx;
                out[(channel * SIDE + y) * SIDE + x] = top * (1.0 - fy) + bottom * fy;
            }
        }
    }
    out
}

/// The two source indices of each target index, and the share of the second.
fn taps(length: usize) -> Vec<(usize, usize, f32)> {
    let scale = length as f32 / SIDE as f32;
    (0..SIDE)
        .map(|i| {
            let place = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            let first = (place as usize).min(length - 1);
            (first, (first + 1).min(length - 1), place - first as f32)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn goldens_of_four_sizes() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/inception/case.safetensors");
        let map = mgnt_weights::safetensors::read(&path).unwrap();
        for name in ["small_32x48", "noise_64x64", "ramp_310x330", "native_299x299"] {
            let image = map.get(&format!("{name}/image_u8")).unwrap();
            let (height, width) = (image.shape()[0], image.shape()[1]);
            let ours = resize(image.bytes(), width, height);
            let sums = map.get(&format!("{name}/resized_sum")).unwrap().to_f64();
            for (channel, expected) in sums.iter().enumerate() {
                let part = &ours[channel * SIDE * SIDE..][..SIDE * SIDE];
                let sum: f64 = part.iter().map(|&v| f64::from(v)).sum();
                assert!((sum / expected - 1.0).abs() < 1e-6, "{name} {channel}: {sum} {expected}");
            }
            let golden = map.get(&format!("{name}/resized_subsample_13")).unwrap();
            let side = golden.shape()[1];
            for (i, expected) in golden.to_f32().into_iter().enumerate() {
                let (channel, y, x) = (i / (side * side), i / side % side * 13, i % side * 13);
                let got = ours[(channel * SIDE + y) * SIDE + x];
                assert!((got - expected).abs() < 1e-5, "{name}: {got} {expected}");
            }
        }
    }
}
