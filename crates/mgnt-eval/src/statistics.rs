use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, Par};

use crate::Error;

/// Mean and covariance, as published files have them.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    mean: Vec<f64>,
    covariance: Mat<f64>,
    count: Option<u64>,
}

/// How far what others computed may be from a covariance, as a share of its largest entry or eigenvalue: more than what
/// values of half precision lose.
pub(crate) const ROUNDING_OF_OTHERS: f64 = 1e-3;

impl Moments {
    /// Moments from a mean, a covariance `[dims, dims]` and the number of samples, where that is known.
    ///
    /// Refuses what cannot be a covariance by its diagonal or symmetry; [`frechet_distance`](crate::frechet_distance)
    /// refuses what cannot be one by its eigenvalues.
    pub fn new(mean: Vec<f64>, covariance: &[f64], count: Option<u64>) -> Result<Self, Error> {
        let dims = mean.len();
        if dims == 0 || covariance.len() != dims * dims {
            return Err(Error::input("covariance", format!("{dims} x {dims} values"), covariance.len()));
        }
        if mean.iter().chain(covariance).any(|value| !value.is_finite()) {
            return Err(Error::input("mean and covariance", "numbers", "one that is infinite or none"));
        }
        let largest = covariance.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let slack = ROUNDING_OF_OTHERS * largest;
        let entry = |i: usize, j: usize| covariance[i * dims + j];
        if let Some(i) = (0..dims).find(|&i| entry(i, i) < -slack) {
            let got = format!("{} as variance {i}", entry(i, i));
            return Err(Error::input("covariance", "no variance below 0", got));
        }
        let mut pairs = (0..dims).flat_map(|i| (0..i).map(move |j| (i, j)));
        if let Some((i, j)) = pairs.find(|&(i, j)| (entry(i, j) - entry(j, i)).abs() > slack) {
            let got = format!("{} at [{i}, {j}] and {} at [{j}, {i}]", entry(i, j), entry(j, i));
            return Err(Error::input("covariance", "a symmetric one", got));
        }
        // Symmetric but for the rounding of who made it.
        let covariance =
            Mat::from_fn(dims, dims, |i, j| 0.5 * (covariance[i * dims + j] + covariance[j * dims + i]));
        Ok(Self { mean, covariance, count })
    }

    /// Number of features.
    pub fn dims(&self) -> usize {
        self.mean.len()
    }

    /// The mean.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// The covariance, row by row.
    pub fn covariance_values(&self) -> Vec<f64> {
        let dims = self.dims();
        (0..dims * dims).map(|i| self.covariance[(i / dims, i % dims)]).collect()
    }

    pub(crate) fn covariance(&self) -> &Mat<f64> {
        &self.covariance
    }

    /// Samples that they were taken of, where that is known.
    pub fn count(&self) -> Option<u64> {
        self.count
    }
}

/// Mean and covariance of features, streamed in f64.
#[derive(Debug, Clone)]
pub struct Statistics {
    count: u64,
    mean: Vec<f64>,
    /// Sum of outer products of differences from the mean; what lies above the diagonal is not kept.
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

    /// Adds samples, `features [n, dims]` row by row; refuses what is no whole number of them.
    ///
    /// Chan's pairwise update: the scatter of the batch about its own mean, plus that of the two means.
    pub fn add(&mut self, features: &[f32]) -> Result<(), Error> {
        let dims = self.dims();
        if !features.len().is_multiple_of(dims) {
            return Err(Error::input("features", format!("a multiple of {dims} values"), features.len()));
        }
        if features.is_empty() {
            return Ok(());
        }
        let rows = features.len() / dims;
        let mut batch = Mat::from_fn(rows, dims, |i, j| f64::from(features[i * dims + j]));
        let mean: Vec<f64> = (0..dims).map(|j| batch.col(j).sum() / rows as f64).collect();
        for j in 0..dims {
            for i in 0..rows {
                batch[(i, j)] -= mean[j];
            }
        }
        triangular::matmul(
            self.scatter.as_mut(),
            BlockStructure::TriangularLower,
            Accum::Add,
            batch.transpose(),
            BlockStructure::Rectangular,
            batch.as_ref(),
            BlockStructure::Rectangular,
            1.0,
            Par::rayon(0),
        );
        let (before, new) = (self.count as f64, rows as f64);
        let shift = Mat::from_fn(dims, 1, |j, _| mean[j] - self.mean[j]);
        let weight = before * new / (before + new);
        matmul(self.scatter.as_mut(), Accum::Add, shift.as_ref(), shift.transpose(), weight, Par::Seq);
        for (mean, shift) in self.mean.iter_mut().zip(shift.col(0).iter()) {
            *mean += shift * new / (before + new);
        }
        self.count += rows as u64;
        Ok(())
    }

    /// Mean and sample covariance, with n - 1.
    pub fn moments(&self) -> Moments {
        let scale = 1.0 / (self.count.max(2) - 1) as f64;
        let covariance =
            Mat::from_fn(self.dims(), self.dims(), |i, j| self.scatter[(i.max(j), i.min(j))] * scale);
        Moments { mean: self.mean.clone(), covariance, count: Some(self.count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_add_up_to_the_whole() {
        let features: Vec<f32> = (0..60).map(|i| ((i * 37 % 23) as f32).sin() + 100.0).collect();
        let mut whole = Statistics::new(3);
        whole.add(&features).unwrap();
        let mut parts = Statistics::new(3);
        for part in [&features[..3], &[], &features[3..30], &features[30..]] {
            parts.add(part).unwrap();
        }
        assert_eq!((whole.count(), parts.moments().count()), (20, Some(20)));
        let direct = |i: usize, j: usize| -> f64 {
            let column = |c: usize| (0..20).map(move |r| r * 3 + c);
            let mean = |c: usize| column(c).map(|at| f64::from(features[at])).sum::<f64>() / 20.0;
            let (mi, mj) = (mean(i), mean(j));
            let products = column(i)
                .zip(column(j))
                .map(|(a, b)| (f64::from(features[a]) - mi) * (f64::from(features[b]) - mj));
            products.sum::<f64>() / 19.0
        };
        let (whole, parts) = (whole.moments().covariance_values(), parts.moments().covariance_values());
        for i in 0..3 {
            for j in 0..3 {
                assert!((whole[i * 3 + j] - direct(i, j)).abs() < 1e-12);
                assert!((parts[i * 3 + j] - direct(i, j)).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn a_part_of_a_sample_is_refused() {
        let mut statistics = Statistics::new(3);
        let error = statistics.add(&[0.0; 7]).unwrap_err().to_string();
        assert_eq!(error, "features: expected a multiple of 3 values, got 7");
        assert_eq!(statistics.count(), 0);
        assert!(Statistics::new(0).add(&[0.0]).is_err());
    }

    #[test]
    fn moments_that_cannot_be_are_refused() {
        assert!(Moments::new(vec![0.0; 2], &[0.0; 3], None).is_err());
        assert!(Moments::new(vec![0.0, f64::NAN], &[0.0; 4], None).is_err());
        assert!(Moments::new(vec![], &[], None).is_err());
        let refused = |covariance: [f64; 4], part: &str| {
            let error = Moments::new(vec![0.0; 2], &covariance, None).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused([1.0, 0.0, 0.0, -0.5], "no variance below 0, got -0.5 as variance 1");
        refused([1.0, 0.2, 0.4, 1.0], "a symmetric one, got 0.4 at [1, 0] and 0.2 at [0, 1]");
        let made = Moments::new(vec![0.0; 2], &[1.0, 0.5, 0.500_5, -1e-9], None).unwrap();
        assert_eq!(made.covariance_values(), [1.0, 0.500_25, 0.500_25, -1e-9]);
    }
}
