use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Side of the network's input in pixels.
pub(super) const SIDE: usize = 299;

/// How pictures become the network's input: bilinear to 299 x 299 without antialiasing, also when shrinking, in one of
/// the two ways that published numbers come from. Numbers of the two do not compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// pytorch-fid's: half-pixel centres, then 2 v / 255 - 1.
    #[default]
    PytorchFid,
    /// That of TensorFlow 1, as ADM's evaluator and torch-fidelity have it: no half pixel, then (v - 128) / 128.
    Tf1,
}

impl fmt::Display for Resize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PytorchFid => "pytorch-fid",
            Self::Tf1 => "tf1",
        })
    }
}

impl FromStr for Resize {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::PytorchFid, Self::Tf1]
            .into_iter()
            .find(|resize| resize.to_string() == word)
            .ok_or_else(|| "expected pytorch-fid or tf1".into())
    }
}

impl Resize {
    /// A picture `[height, width, 3]` of bytes as the network's input `[3, 299, 299]`.
    pub(super) fn apply(self, rgb: &[u8], width: usize, height: usize) -> Vec<f32> {
        let (columns, rows) = (self.taps(width), self.taps(height));
        let mut out = vec![0.0; 3 * SIDE * SIDE];
        let mut line = vec![0.0; 3 * width];
        for (y, &(y0, y1, fy)) in rows.iter().enumerate() {
            let (top, bottom) = (&rgb[y0 * width * 3..][..width * 3], &rgb[y1 * width * 3..][..width * 3]);
            for ((value, &top), &bottom) in line.iter_mut().zip(top).zip(bottom) {
                *value = f32::from(top) * (1.0 - fy) + f32::from(bottom) * fy;
            }
            for channel in 0..3 {
                let target = &mut out[(channel * SIDE + y) * SIDE..][..SIDE];
                for (value, &(x0, x1, fx)) in target.iter_mut().zip(&columns) {
                    let between = line[3 * x0 + channel] * (1.0 - fx) + line[3 * x1 + channel] * fx;
                    *value = match self {
                        Self::PytorchFid => 2.0 * (between / 255.0) - 1.0,
                        Self::Tf1 => (between - 128.0) / 128.0,
                    };
                }
            }
        }
        out
    }

    /// The two source indices of each target index, and the share of the second.
    fn taps(self, length: usize) -> Vec<(usize, usize, f32)> {
        let scale = length as f32 / SIDE as f32;
        (0..SIDE)
            .map(|i| {
                let place = match self {
                    Self::PytorchFid => ((i as f32 + 0.5) * scale - 0.5).max(0.0),
                    Self::Tf1 => i as f32 * scale,
                };
                let first = (place as usize).min(length - 1);
                (first, (first + 1).min(length - 1), place - first as f32)
            })
            .collect()
    }
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
            let ours: Vec<f32> = Resize::PytorchFid
                .apply(image.bytes(), width, height)
                .into_iter()
                .map(|v| (v + 1.0) / 2.0)
                .collect();
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

    /// By hand: two pixels, 0 and 255, beside each other. TensorFlow 1 takes place i * 2 / 299, so that index 75 is
    /// 150 / 299 of the way, and all from 150 on lie beyond the last pixel's own place.
    #[test]
    fn tensorflow_1_has_no_half_pixel() {
        let row = &Resize::Tf1.apply(&[0, 0, 0, 255, 255, 255], 2, 1)[..SIDE];
        assert_eq!(row[0], -1.0);
        assert!((row[75] - (255.0 * 150.0 / 299.0 - 128.0) / 128.0).abs() < 1e-5, "{}", row[75]);
        assert_eq!(row[150..], [127.0 / 128.0; 149]);
        // With half pixels the middle of the row is the mean of the two, and the ends are flat.
        let row = &Resize::PytorchFid.apply(&[0, 0, 0, 255, 255, 255], 2, 1)[..SIDE];
        assert!(row[149].abs() < 1e-6 && row[..75] == [-1.0; 75] && row[224..] == [1.0; 75]);
    }

    #[test]
    fn words() {
        for resize in [Resize::PytorchFid, Resize::Tf1] {
            assert_eq!(resize.to_string().parse(), Ok(resize));
        }
        assert!("clean".parse::<Resize>().is_err());
    }
}
