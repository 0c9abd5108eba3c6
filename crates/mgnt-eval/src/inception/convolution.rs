//! A convolution with its bias and ReLU on the host, for processors.
//!
//! The backend's own turns its input over to channels last and back, and adds and cuts in passes of their own; on the
//! maps of this network that takes longer than its products. Here the patches of some output rows, which stay in the
//! cache, go into one product that writes where its result belongs.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// About how many output places one product computes.
const PLACES: usize = 512;

/// Rows and columns of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub height: usize,
    pub width: usize,
}

impl Size {
    pub fn places(self) -> usize {
        self.height * self.width
    }
}

/// How a kernel goes over a map: its stride, and the zeros around the map, above and below and left and right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    pub stride: usize,
    pub padding: [usize; 2],
}

/// Weights `[outputs, inputs, height, width]` and a bias `[outputs]`.
#[derive(Debug)]
pub(super) struct Kernel {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub size: Size,
}

impl Kernel {
    /// Size of what comes of maps of `size`.
    pub fn output(&self, size: Size, walk: Walk) -> Size {
        let [above, left] = walk.padding;
        let along = |length: usize, pad: usize, kernel: usize| (length + 2 * pad - kernel) / walk.stride + 1;
        Size {
            height: along(size.height, above, self.size.height),
            width: along(size.width, left, self.size.width),
        }
    }

    /// `relu(conv(x) + bias)` of pictures `[n, inputs, height, width]`, as `[n, outputs, height', width']`.
    pub fn apply(&self, x: &[f32], size: Size, walk: Walk) -> Vec<f32> {
        let output = self.output(size, walk);
        let outputs = self.bias.len();
        // Values that go into one output.
        let depth = self.weight.len() / outputs;
        let picture = depth / self.size.places() * size.places();
        let mut y = vec![0.0; x.len() / picture * outputs * output.places()];
        let rows_at_once = (PLACES / output.width).max(1);
        let mut patches = vec![0.0; depth * rows_at_once.min(output.height) * output.width];
        for (x, y) in x.chunks_exact(picture).zip(y.chunks_exact_mut(outputs * output.places())) {
            for first in (0..output.height).step_by(rows_at_once) {
                let rows = rows_at_once.min(output.height - first);
                let (start, count) = (first * output.width, rows * output.width);
                // A kernel of one place takes the map as it is.
                let patches = if self.size.places() == 1 && walk.stride == 1 {
                    MatRef::from_column_major_slice_with_stride(&x[start..], count, depth, output.places())
                } else {
                    let rows = (first..first + rows, output.width);
                    self.gather(x, size, walk, rows, &mut patches);
                    MatRef::from_column_major_slice(&patches[..depth * count], count, depth)
                };
                let weight = MatRef::from_column_major_slice(&self.weight, depth, outputs);
                let y = &mut y[start..];
                let product =
                    MatMut::from_column_major_slice_with_stride_mut(y, count, outputs, output.places());
                matmul(product, Accum::Replace, patches, weight, 1.0, Par::Seq);
                for (map, &bias) in y.chunks_mut(output.places()).zip(&self.bias) {
                    map[..count].iter_mut().for_each(|value| *value = relu(*value + bias));
                }
            }
        }
        y
    }

    /// For each weight of an output, in their order, the values that it meets at the places of some output rows.
    fn gather(
        &self,
        x: &[f32],
        size: Size,
        walk: Walk,
        (rows, width): (std::ops::Range<usize>, usize),
        patches: &mut [f32],
    ) {
        let Walk { stride, padding: [above, left] } = walk;
        let mut segments = patches.chunks_exact_mut(width);
        for map in x.chunks_exact(size.places()) {
            for (i, j) in (0..self.size.height).flat_map(|i| (0..self.size.width).map(move |j| (i, j))) {
                // Columns of the output whose value lies inside the map.
                let begin = left.saturating_sub(j).div_ceil(stride).min(width);
                let end = (size.width + left).saturating_sub(j).div_ceil(stride).clamp(begin, width);
                for (row, segment) in rows.clone().zip(&mut segments) {
                    let row = (row * stride + i).wrapping_sub(above);
                    // A map narrower than the kernel's reach has columns that nothing of it meets.
                    if row >= size.height || begin == end {
                        segment.fill(0.0);
                        continue;
                    }
                    segment[..begin].fill(0.0);
                    segment[end..].fill(0.0);
                    let source = &map[row * size.width..][..size.width];
                    let source = &source[(begin * stride + j).saturating_sub(left)..];
                    let inside = &mut segment[begin..end];
                    if stride == 1 {
                        inside.copy_from_slice(&source[..inside.len()]);
                    } else {
                        inside
                            .iter_mut()
                            .zip(source.iter().step_by(stride))
                            .for_each(|(to, &from)| *to = from);
                    }
                }
            }
        }
    }
}

/// Nothing below zero; what is no number stays so.
fn relu(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

#[cfg(test)]
mod tests {
    use burn::tensor::activation;
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;
    use burn::tensor::{Device, Tensor, TensorData};

    use super::*;

    fn drawn(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    #[test]
    fn as_the_backend_computes_it() {
        let device = Device::flex();
        // Maps of more rows than one product takes, kernels that reach past each edge, strides that leave a rest.
        for ([height, width], [high, wide], stride, padding) in [
            ([40, 41], [3, 3], 1, [1, 1]),
            ([40, 41], [3, 3], 1, [0, 0]),
            ([41, 30], [3, 3], 2, [0, 0]),
            ([35, 36], [3, 3], 2, [1, 1]),
            ([33, 34], [1, 1], 1, [0, 0]),
            ([9, 8], [1, 1], 2, [0, 0]),
            ([17, 17], [1, 7], 1, [0, 3]),
            ([17, 17], [7, 1], 1, [3, 0]),
            ([12, 13], [5, 5], 1, [2, 2]),
            ([2, 2], [5, 5], 1, [2, 2]),
            ([2, 2], [1, 7], 1, [0, 3]),
            ([2, 1], [7, 1], 1, [3, 0]),
            ([1, 1], [3, 3], 1, [1, 1]),
        ] {
            let (pictures, inputs, outputs) = (2, 3, 5);
            let size = Size { height, width };
            let kernel = Kernel {
                weight: drawn(outputs * inputs * high * wide),
                bias: drawn(outputs),
                size: Size { height: high, width: wide },
            };
            let x = drawn(pictures * inputs * height * width);
            let walk = Walk { stride, padding };
            let y = kernel.apply(&x, size, walk);

            let of = |values: &[f32], shape: [usize; 4]| {
                Tensor::<4>::from_data(TensorData::new(values.to_vec(), shape), &device)
            };
            let theirs = activation::relu(conv2d(
                of(&x, [pictures, inputs, height, width]),
                of(&kernel.weight, [outputs, inputs, high, wide]),
                Some(Tensor::from_floats(&kernel.bias[..], &device)),
                ConvOptions::new([stride, stride], padding, [1, 1], 1),
            ));
            let output = kernel.output(size, walk);
            assert_eq!(theirs.dims(), [pictures, outputs, output.height, output.width]);
            let theirs = theirs.into_data().try_into_vec::<f32>().unwrap();
            let farthest = y.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(farthest < 1e-5, "{height}x{width}, kernel {high}x{wide}, stride {stride}: {farthest}");
        }
    }
}
