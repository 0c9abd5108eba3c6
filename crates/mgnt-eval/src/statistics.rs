use std::path::Path;

use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use mgnt_weights::{TensorMap, safetensors};

use crate::Error;

/// Mean and covariance of features, streamed in f64.
#[derive(Debug, Clone)]
pub struct Statistics {
    count: u64,
    mean: Vec<f64>,
    /// Sum of outer products of differences from the mean, row-major (and symmetric).
    scatter: Mat<f64>,
}

impl Statistics {
    /// No sample yet, of `dims` features.
    pub fn new(dims: usize) -> Self {
        Self { count: 0, mean: vec![0.0; dims], scatter: Mat::zeros(dims, dims) }
    }

    /// Number of features.
    pub fn dims(&self) -> usize {
        self.mean.len()
    }

    /// Samples seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Adds samples, `features [n, dims]` row by row.
    ///
    /// Chan's pairwise update: the scatter of the batch about its own mean, plus that of the two means.
    pub fn add(&mut self, features: &[f32]) {
        let dims = self.dims();
        let rows = features.len() / dims.max(1);
        if rows == 0 {
            return;
        }
        let mut batch = Mat::from_fn(rows, dims, |i, j| f64::from(features[i * dims + j]));
        let mean: Vec<f64> = (0..dims).map(|j| batch.col(j).sum() / rows as f64).collect();
        for j in 0..dims {
            for i in 0..rows {
                batch[(i, j)] -= mean[j];
            }
        }
        matmul(self.scatter.as_mut(), Accum::Add, batch.transpose(), batch.as_ref(), 1.0, Par::rayon(0));
        let (before, new) = (self.count as f64, rows as f64);
        let shift = Mat::from_fn(dims, 1, |j, _| mean[j] - self.mean[j]);
        let weight = before * new / (before + new);
        matmul(self.scatter.as_mut(), Accum::Add, shift.as_ref(), shift.transpose(), weight, Par::Seq);
        for (mean, shift) in self.mean.iter_mut().zip(shift.col(0).iter()) {
            *mean += shift * new / (before + new);
        }
        self.count += rows as u64;
    }

    /// Sample covariance, with n - 1.
    pub fn covariance(&self) -> Mat<f64> {
        let scale = 1.0 / (self.count.max(2) - 1) as f64;
        Mat::from_fn(self.dims(), self.dims(), |i, j| self.scatter[(i, j)] * scale)
    }

    /// Statistics from a mean and a covariance, both as published files have them.
    pub fn from_moments(mean: &[f64], covariance: MatRef<f64>, count: u64) -> Self {
        let scale = (count.max(2) - 1) as f64;
        let scatter = Mat::from_fn(mean.len(), mean.len(), |i, j| covariance[(i, j)] * scale);
        Self { count, mean: mean.to_vec(), scatter }
    }

    /// Writes count, mean and scatter, exactly.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let dims = self.dims();
        let scatter: Vec<f64> = (0..dims * dims).map(|i| self.scatter[(i / dims, i % dims)]).collect();
        let mut map = TensorMap::new();
        map.insert_f64("count", &[1], &[self.count as f64])?;
        map.insert_f64("mean", &[dims], &self.mean)?;
        map.insert_f64("scatter", &[dims, dims], &scatter)?;
        Ok(safetensors::write(path, &map)?)
    }

    /// Reads what [`Self::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let map = safetensors::read(path)?;
        let mean = map.get("mean")?.to_f64();
        let scatter = map.get("scatter")?;
        let dims = mean.len();
        if scatter.shape() != [dims, dims] || map.get("count")?.shape() != [1] {
            let expected = format!("a scatter of {dims} x {dims}");
            return Err(Error::input("statistics file", expected, format!("{:?}", scatter.shape())));
        }
        let count = map.get("count")?.to_f64()[0] as u64;
        let scatter = scatter.to_f64();
        Ok(Self { count, mean, scatter: Mat::from_fn(dims, dims, |i, j| scatter[i * dims + j]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up_to_the_whole() {
        let features: Vec<f32> = (0..60).map(|i| ((i * 37 % 23) as f32).sin() + 100.0).collect();
        let mut whole = Statistics::new(3);
        whole.add(&features);
        let mut parts = Statistics::new(3);
        parts.add(&features[..3]);
        parts.add(&features[3..30]);
        parts.add(&features[30..]);
        assert_eq!((whole.count(), parts.count()), (20, 20));
        let direct = |i: usize, j: usize| -> f64 {
            let column = |c: usize| (0..20).map(move |r| r * 3 + c);
            let mean = |c: usize| column(c).map(|at| f64::from(features[at])).sum::<f64>() / 20.0;
            let (mi, mj) = (mean(i), mean(j));
            let products = column(i)
                .zip(column(j))
                .map(|(a, b)| (f64::from(features[a]) - mi) * (f64::from(features[b]) - mj));
            products.sum::<f64>() / 19.0
        };
        for i in 0..3 {
            for j in 0..3 {
                assert!((whole.covariance()[(i, j)] - direct(i, j)).abs() < 1e-12);
                assert!((parts.covariance()[(i, j)] - direct(i, j)).abs() < 1e-12);
            }
        }
        let file = tempfile::tempdir().unwrap();
        let path = file.path().join("s.safetensors");
        parts.save(&path).unwrap();
        let again = Statistics::load(&path).unwrap();
        assert_eq!((again.count(), again.mean(), again.covariance()), (20, parts.mean(), parts.covariance()));
    }
}
