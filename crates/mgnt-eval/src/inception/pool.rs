//! The network's pools, all of 3 x 3 places: by the backend, and on the host for processors.

use burn::tensor::Tensor;
use burn::tensor::module::{avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};

use super::convolution::Size;

/// A kind of pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// The largest, every second place, none past the border.
    Halving,
    /// The largest around each place, as far as they are there.
    Largest,
    /// The mean around each place, of those that are there.
    Mean,
}

impl Pool {
    /// The pool of maps `[n, channels, height, width]`.
    pub fn apply(self, x: Tensor<4>) -> Tensor<4> {
        let largest = MaxPoolOptions::new([3, 3]);
        match self {
            Self::Halving => max_pool2d(x, largest.with_stride([2, 2])),
            Self::Largest => max_pool2d(x, largest.with_stride([1, 1]).with_padding([1, 1])),
            Self::Mean => {
                let mut options = AvgPoolOptions::new([3, 3]);
                options.stride = [1, 1];
                options.padding = [(1, 1), (1, 1)];
                options.count_include_pad = false;
                avg_pool2d(x, options)
            }
        }
    }

    /// Size of what comes of maps of `size`, of at least 3 x 3 places.
    pub fn output(self, Size { height, width }: Size) -> Size {
        match self {
            Self::Halving => Size { height: (height - 3) / 2 + 1, width: (width - 3) / 2 + 1 },
            Self::Largest | Self::Mean => Size { height, width },
        }
    }

    /// As [`Self::apply`], of maps in memory: three rows become one, and then of that every three columns.
    pub fn on_host(self, x: &[f32], size: Size) -> Vec<f32> {
        let output = self.output(size);
        let mut y = vec![0.0; x.len() / size.places() * output.places()];
        let mut row = vec![0.0; size.width];
        let maps = x.chunks_exact(size.places()).zip(y.chunks_exact_mut(output.places()));
        for (map, pooled) in maps {
            for (at, pooled) in pooled.chunks_exact_mut(output.width).enumerate() {
                self.rows(map, size, at, &mut row);
                self.columns(&row, pooled);
            }
        }
        y
    }

    fn rows(self, map: &[f32], size: Size, at: usize, row: &mut [f32]) {
        let source = |at: usize| &map[at * size.width..][..size.width];
        let (first, end) = match self {
            Self::Halving => (2 * at, 2 * at + 3),
            Self::Largest | Self::Mean => (at.saturating_sub(1), (at + 2).min(size.height)),
        };
        row.copy_from_slice(source(first));
        for next in first + 1..end {
            let pairs = row.iter_mut().zip(source(next));
            match self {
                Self::Halving | Self::Largest => pairs.for_each(|(a, &b)| *a = larger(*a, b)),
                Self::Mean => pairs.for_each(|(a, &b)| *a += b),
            }
        }
        if self == Self::Mean {
            let share = 1.0 / (end - first) as f32;
            row.iter_mut().for_each(|value| *value *= share);
        }
    }

    fn columns(self, row: &[f32], pooled: &mut [f32]) {
        if self == Self::Halving {
            for (at, pooled) in pooled.iter_mut().enumerate() {
                *pooled = larger(larger(row[2 * at], row[2 * at + 1]), row[2 * at + 2]);
            }
            return;
        }
        if let [only] = row {
            pooled[0] = *only;
            return;
        }
        let last = row.len() - 1;
        let inner = row.windows(3).map(|three| <[f32; 3]>::try_from(three).unwrap_or_default());
        let places = pooled[1..last].iter_mut().zip(inner);
        if self == Self::Largest {
            places.for_each(|(pooled, [a, b, c])| *pooled = larger(larger(a, b), c));
            pooled[0] = larger(row[0], row[1]);
            pooled[last] = larger(row[last - 1], row[last]);
        } else {
            places.for_each(|(pooled, [a, b, c])| *pooled = (a + b + c) * (1.0 / 3.0));
            pooled[0] = (row[0] + row[1]) * 0.5;
            pooled[last] = (row[last - 1] + row[last]) * 0.5;
        }
    }
}

/// The larger of two numbers, in one instruction where [`f32::max`] takes several for what is no number.
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    #[test]
    fn as_the_backend_computes_them() {
        for (height, width) in [(3, 3), (7, 9), (8, 5), (17, 17), (4, 6), (1, 1), (1, 2), (2, 1), (1, 5)] {
            let count = 2 * 3 * height * width;
            let x: Vec<f32> = (0..count).map(|i| ((i * 7919) % 101) as f32 / 50.0 - 1.0).collect();
            let tensor = TensorData::new(x.clone(), [2, 3, height, width]);
            let tensor = Tensor::<4>::from_data(tensor, &Device::flex());
            for pool in [Pool::Halving, Pool::Largest, Pool::Mean] {
                if pool == Pool::Halving && height.min(width) < 3 {
                    continue;
                }
                let size = Size { height, width };
                let theirs = pool.apply(tensor.clone());
                let output = pool.output(size);
                assert_eq!(theirs.dims(), [2, 3, output.height, output.width]);
                let theirs = theirs.into_data().try_into_vec::<f32>().unwrap();
                let ours = pool.on_host(&x, size);
                let farthest = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(farthest < 1e-6, "{pool:?} of {height}x{width}: {farthest}");
            }
        }
    }
}
