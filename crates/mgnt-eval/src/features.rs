use std::collections::BinaryHeap;

use faer::Mat;

use crate::draw::priority;
use crate::{Error, Moments, Statistics};

/// Features of some pictures, `[n, dims]` row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    dims: usize,
    rows: Vec<f32>,
}

impl Features {
    /// Features from their values, which must be finite, and a multiple of `dims` in number.
    pub fn new(dims: usize, rows: Vec<f32>) -> Result<Self, Error> {
        if dims == 0 || !rows.len().is_multiple_of(dims) {
            return Err(Error::input("features", format!("a multiple of {dims} values"), rows.len()));
        }
        check_finite(&rows)?;
        Ok(Self { dims, rows })
    }

    /// Number of features of each picture.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Number of pictures.
    pub fn count(&self) -> usize {
        self.rows.len() / self.dims
    }

    /// The values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.rows
    }

    /// Their mean and covariance.
    pub fn moments(&self) -> Result<Moments, Error> {
        let mut statistics = Statistics::new(self.dims);
        statistics.add(&self.rows)?;
        Ok(statistics.moments())
    }

    /// A column a picture.
    pub(crate) fn columns(&self) -> Mat<f64> {
        Mat::from_fn(self.dims, self.count(), |i, j| f64::from(self.rows[j * self.dims + i]))
    }
}

/// Refuses features that are not finite.
pub(crate) fn check_finite(features: &[f32]) -> Result<(), Error> {
    match features.iter().find(|value| !value.is_finite()) {
        Some(odd) => Err(Error::input("features", "finite numbers", odd)),
        None => Ok(()),
    }
}

/// Keeps a drawn part of a stream of features: memory stays the same however many come.
///
/// Which are kept depends on the seed and on how many came before each, not on batches: those of the smallest
/// [priority](crate::draw).
#[derive(Debug, Clone)]
pub(crate) struct FeatureSample {
    dims: usize,
    capacity: usize,
    seed: u64,
    seen: u64,
    /// Priority, number and place of each kept row; the largest priority leaves first.
    kept: BinaryHeap<(u64, u64, usize)>,
    rows: Vec<f32>,
}

/// Purpose of the draw of rows.
const ROWS: u64 = 0;

impl FeatureSample {
    pub(crate) fn new(dims: usize, capacity: usize, seed: u64) -> Self {
        Self { dims, capacity, seed, seen: 0, kept: BinaryHeap::new(), rows: Vec::new() }
    }

    /// Adds features `[n, dims]`, which are finite.
    pub(crate) fn add(&mut self, features: &[f32]) {
        for row in features.chunks_exact(self.dims) {
            let number = self.seen;
            self.seen += 1;
            let rank = priority(self.seed, ROWS, number);
            if self.kept.len() < self.capacity {
                self.kept.push((rank, number, self.kept.len()));
                self.rows.extend_from_slice(row);
            } else if let Some(mut worst) = self.kept.peek_mut()
                && (rank, number) < (worst.0, worst.1)
            {
                let place = worst.2;
                *worst = (rank, number, place);
                self.rows[place * self.dims..][..self.dims].copy_from_slice(row);
            }
        }
    }

    /// The kept rows in the order in which they came.
    pub(crate) fn finish(self) -> Features {
        let mut places: Vec<(u64, usize)> =
            self.kept.into_iter().map(|(_, number, place)| (number, place)).collect();
        places.sort_unstable();
        let dims = self.dims;
        let in_order = places.iter().enumerate().all(|(i, &(_, place))| i == place);
        let rows = match in_order {
            true => self.rows,
            false => {
                places.iter().flat_map(|&(_, place)| &self.rows[place * dims..][..dims]).copied().collect()
            }
        };
        Features { dims, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::drawn;

    #[test]
    fn a_stream_leaves_what_a_draw_would() {
        let values: Vec<f32> = (0..200).map(|i| i as f32).collect();
        for batch in [1, 7, 100] {
            let mut sample = FeatureSample::new(2, 12, 5);
            values.chunks(2 * batch).for_each(|part| sample.add(part));
            let kept = sample.finish();
            let expected: Vec<f32> = drawn(5, ROWS, 12, 100)
                .into_iter()
                .flat_map(|i| [2.0 * i as f32, 2.0 * i as f32 + 1.0])
                .collect();
            assert_eq!((kept.count(), kept.values()), (12, &expected[..]));
        }
        assert!(Features::new(2, vec![0.0, f32::NAN]).unwrap_err().to_string().contains("finite"));
        let mut few = FeatureSample::new(2, 12, 5);
        few.add(&values[..6]);
        assert_eq!(few.finish().values(), &values[..6]);
    }
}
