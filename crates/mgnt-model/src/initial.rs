use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::attention::Dense;

/// Deviation of a normal that is cut off at two of it (MaskGIT's).
const DEVIATION: f32 = 0.02;

/// Numbers with a stream of the generator of their own, so that they are the same on any number of threads.
const CHUNK: usize = 1 << 16;

/// Draws initial weights on the host, so that they do not depend on a device's generator; or, without a seed, leaves them
/// undrawn, for a model that is filled from a file.
pub(crate) struct Initial<'a> {
    seed: Option<u64>,
    /// Matrices drawn so far; each has streams of its own.
    matrices: u64,
    device: &'a Device,
}

impl<'a> Initial<'a> {
    pub fn drawn(seed: u64, device: &'a Device) -> Self {
        Self { seed: Some(seed), matrices: 0, device }
    }

    pub fn undrawn(device: &'a Device) -> Self {
        Self { seed: None, matrices: 0, device }
    }

    pub fn device(&self) -> &'a Device {
        self.device
    }

    pub fn matrix(&mut self, rows: usize, columns: usize) -> Param<Tensor<2>> {
        let Some(seed) = self.seed else { return self.unfilled([rows, columns]) };
        let mut values = vec![0.0; rows * columns];
        let matrix = self.matrices << 32;
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(matrix | chunk as u64);
            fill(values, &mut rng);
        });
        self.matrices += 1;
        Param::from_tensor(Tensor::from_data(TensorData::new(values, [rows, columns]), self.device))
    }

    pub fn vector(&self, length: usize) -> Param<Tensor<1>> {
        if self.seed.is_none() {
            return self.unfilled([length]);
        }
        Param::from_tensor(Tensor::zeros([length], self.device))
    }

    pub fn dense(&mut self, inputs: usize, outputs: usize) -> Dense {
        Dense { weight: self.matrix(inputs, outputs), bias: self.vector(outputs), exact: false }
    }

    /// A parameter that takes no memory until it is asked for or filled.
    fn unfilled<const D: usize>(&self, shape: [usize; D]) -> Param<Tensor<D>> {
        let init = move |device: &Device, tracked: bool| {
            let zeros = Tensor::zeros(shape, device);
            if tracked { zeros.require_grad() } else { zeros }
        };
        Param::uninitialized(ParamId::new(), init, self.device.clone(), true, shape.into())
    }
}

/// With truncated normals: of each pair (Box and Muller's) those that are not cut off.
fn fill(values: &mut [f32], rng: &mut ChaCha8Rng) {
    let mut values = values.iter_mut();
    loop {
        let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
        let (sine, cosine) = (std::f32::consts::TAU * rng.random::<f32>()).sin_cos();
        for normal in [radius * cosine, radius * sine] {
            if normal.abs() <= 2.0 {
                let Some(value) = values.next() else { return };
                *value = DEVIATION * normal;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(seed: u64, matrices: usize) -> Vec<Vec<f32>> {
        let device = Device::flex();
        let mut initial = Initial::drawn(seed, &device);
        (0..matrices).map(|_| initial.matrix(300, 500).val().into_data().try_into_vec().unwrap()).collect()
    }

    #[test]
    fn weights_are_a_truncated_normal_s() {
        let weights = drawn(1, 1).remove(0);
        let of_all = weights.len() as f64;
        let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / of_all;
        let variance = weights.iter().map(|&w| (f64::from(w) - mean).powi(2)).sum::<f64>() / of_all;
        // A normal that is cut off at two deviations has 0.7737 of its variance left.
        assert!(mean.abs() < 2e-4, "{mean}");
        assert!((variance.sqrt() / (0.02 * 0.7737f64.sqrt()) - 1.0).abs() < 5e-3, "{variance}");
        assert!(weights.iter().all(|w| w.abs() <= 0.04));
        let beyond = weights.iter().filter(|w| w.abs() > 0.02).count() as f64 / of_all;
        // Of 0.9545 that lie within two deviations, 0.2718 lie beyond one.
        assert!((beyond - 0.2847).abs() < 5e-3, "{beyond}");
    }

    #[test]
    fn chunks_and_matrices_differ_and_threads_change_nothing() {
        let [first, second] = drawn(1, 2).try_into().unwrap();
        assert_ne!(first, second);
        assert_ne!(first[..100], first[CHUNK..CHUNK + 100]);
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(alone.install(|| drawn(1, 2)), [first.clone(), second]);
        assert_ne!(drawn(2, 1)[0], first);
    }
}
