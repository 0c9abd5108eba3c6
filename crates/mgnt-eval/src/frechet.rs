use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};

use serde::Serialize;

use crate::statistics::ROUNDING_OF_OTHERS;
use crate::{Error, Moments};

/// A Frechet distance and the part of it that the means alone make.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Frechet {
    /// `|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2)`.
    pub distance: f64,
    /// `|m1 - m2|^2`.
    pub means: f64,
}

/// Eigenvalues below this share of the largest are rounding.
const ROUNDING: f64 = 16.0 * f64::EPSILON;

/// Frechet distance of two sets of features (Heusel et al., 2017).
///
/// With symmetric factors S1 = A Aᵀ and S2 = B Bᵀ, `tr sqrt(S1 S2)` is the sum of the singular values of Aᵀ B. The
/// factors come from eigen-decompositions, without the directions that are zero but for rounding. So covariances of
/// fewer samples than dimensions are no special case, and no root of rounding errors is taken, as it is where the
/// product of the two is.
///
/// Refuses sets that are known to be of fewer than two pictures, which have no covariance, matrices with eigenvalues
/// below zero by more than rounding, which are none, and numbers whose distance is not finite.
pub fn frechet_distance(a: &Moments, b: &Moments) -> Result<Frechet, Error> {
    if a.dims() != b.dims() {
        return Err(Error::input("features", format!("{} dimensions", a.dims()), b.dims()));
    }
    for (set, moments) in [("pictures of the first set", a), ("pictures of the second set", b)] {
        if let Some(count) = moments.count().filter(|&count| count < 2) {
            return Err(Error::input(set, "at least 2", count));
        }
    }
    let whole = |moments: &Moments| {
        let of_one = |i: usize| moments.mean()[i].is_finite() && moments.covariance()[(i, i)].is_finite();
        (0..moments.dims()).all(of_one)
    };
    if !whole(a) || !whole(b) {
        return Err(Error::input("features", "finite numbers", "some that are not"));
    }
    let (first, second) =
        (factor(a.covariance(), "first covariance")?, factor(b.covariance(), "second covariance")?);
    let mut inner = Mat::zeros(first.ncols(), second.ncols());
    matmul(inner.as_mut(), Accum::Replace, first.transpose(), second.as_ref(), 1.0, Par::rayon(0));
    let trace_root: f64 = match inner.nrows().min(inner.ncols()) {
        0 => 0.0,
        _ => inner.singular_values().map_err(|_| Error::Eigen("product of covariances"))?.into_iter().sum(),
    };
    let trace = |m: &Mat<f64>| (0..m.nrows()).map(|i| m[(i, i)]).sum::<f64>();
    let means: f64 = a.mean().iter().zip(b.mean()).map(|(a, b)| (a - b) * (a - b)).sum();
    let distance = means + trace(a.covariance()) + trace(b.covariance()) - 2.0 * trace_root;
    match distance.is_finite() {
        // Of a set from itself rounding leaves a little more or less than nothing.
        true => Ok(Frechet { distance: distance.max(0.0) + 0.0, means }),
        false => Err(Error::input("Frechet distance", "a finite number", distance)),
    }
}

/// `A [dims, rank]` with `A Aᵀ` the symmetric matrix, which must have no eigenvalue below zero but for rounding.
fn factor(symmetric: &Mat<f64>, name: &'static str) -> Result<Mat<f64>, Error> {
    let eigen = symmetric.self_adjoint_eigen(Side::Lower).map_err(|_| Error::Eigen(name))?;
    let values = eigen.S().column_vector();
    let largest = values.iter().copied().fold(0.0, f64::max);
    let smallest = values.iter().copied().fold(0.0, f64::min);
    if smallest < -ROUNDING_OF_OTHERS * largest {
        let got = format!("{smallest:e}, where the largest is {largest:e}");
        return Err(Error::input(name, "no eigenvalue below 0", got));
    }
    let kept: Vec<usize> = (0..values.nrows()).filter(|&j| values[j] > largest * ROUNDING).collect();
    Ok(Mat::from_fn(symmetric.nrows(), kept.len(), |i, j| eigen.U()[(i, kept[j])] * values[kept[j]].sqrt()))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use mgnt_weights::{DType, NamedTensor, safetensors};

    use super::*;
    use crate::Statistics;

    fn golden() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics/metrics.safetensors")
    }

    #[test]
    fn every_golden_case() {
        let map = safetensors::read(&golden()).unwrap();
        let mut names: Vec<&str> =
            map.iter().filter_map(|(n, _)| n.strip_prefix("frechet/")?.strip_suffix("/expected")).collect();
        names.dedup();
        assert!(names.len() >= 5, "{names:?}");
        for name in names {
            let get = |part: &str| map.get(&format!("frechet/{name}/{part}")).unwrap();
            let moments = |which: &str| {
                let sigma = get(&format!("sigma_{which}")).to_f64();
                Moments::new(get(&format!("mu_{which}")).to_f64(), &sigma, None).unwrap()
            };
            let got = frechet_distance(&moments("1"), &moments("2")).unwrap().distance;
            let expected = get("expected").to_f64()[0];
            // The rank-deficient cases too: 1e-5 is what roots of rounding errors would leave there.
            let tolerance = 1e-9 * expected.abs() + 1e-9;
            assert!((got - expected).abs() <= tolerance, "{name}: {got} {expected}");
        }
    }

    /// Two samples in five dimensions against two others: by hand. Differences (2, 0, 0, 0, 0) and (0, 0, 4, 0, 0)
    /// make covariances of rank one, 2 and 8 on other axes, so that the root of their product is nothing.
    #[test]
    fn covariances_of_rank_one() {
        let of = |axis: usize, size: f32| {
            let mut features = vec![0.0; 10];
            (features[axis], features[5 + axis]) = (-size, size);
            let mut statistics = Statistics::new(5);
            statistics.add(&features).unwrap();
            statistics.moments()
        };
        let got = frechet_distance(&of(0, 1.0), &of(2, 2.0)).unwrap();
        assert!((got.distance - 10.0).abs() < 1e-12 && got.means == 0.0, "{got:?}");
        let same = frechet_distance(&of(0, 1.0), &of(0, 1.0)).unwrap();
        assert!(same.distance.abs() < 1e-12, "{same:?}");
        // (sqrt 2 - sqrt 8)^2 on one axis.
        let got = frechet_distance(&of(0, 1.0), &of(0, 2.0)).unwrap();
        assert!((got.distance - 2.0).abs() < 1e-12, "{got:?}");
        let mut broken = Statistics::new(5);
        broken.add(&[f32::NAN; 10]).unwrap();
        assert!(frechet_distance(&of(0, 1.0), &broken.moments()).is_err());
        let none = Moments::new(vec![1.0; 5], &[0.0; 25], None).unwrap();
        assert!((frechet_distance(&none, &of(0, 1.0)).unwrap().distance - 7.0).abs() < 1e-12);
    }

    #[test]
    fn what_is_no_covariance_is_refused_and_rounding_is_not() {
        let of = |mean: f64, covariance: [f64; 4]| Moments::new(vec![mean; 2], &covariance, None).unwrap();
        let unit = of(0.0, [1.0, 0.0, 0.0, 1.0]);
        // The eigenvalues are 3 and -1.
        let error = frechet_distance(&unit, &of(0.0, [1.0, 2.0, 2.0, 1.0])).unwrap_err().to_string();
        assert!(error.starts_with("second covariance: expected no eigenvalue below 0, got -"), "{error}");
        let error = frechet_distance(&unit, &of(1e200, [1.0; 4])).unwrap_err().to_string();
        assert_eq!(error, "Frechet distance: expected a finite number, got inf");
        // Three samples of eight features, rounded to halves.
        let mut statistics = Statistics::new(8);
        statistics.add(&(0..24).map(|i| (i as f32 * 1.7).sin()).collect::<Vec<_>>()).unwrap();
        let exact = statistics.moments();
        let halves = NamedTensor::new("sigma", DType::F64, vec![8, 8], bytes(&exact)).unwrap();
        let halves = halves.to_float("sigma", DType::F16).unwrap().to_f64();
        let rounded = Moments::new(exact.mean().to_vec(), &halves, None).unwrap();
        let got = frechet_distance(&exact, &rounded).unwrap().distance;
        assert!(got.abs() < 1e-2, "{got}");
    }

    fn bytes(moments: &Moments) -> Vec<u8> {
        moments.covariance_values().into_iter().flat_map(f64::to_le_bytes).collect()
    }

    /// Against pytorch-fid's own network and distance on the shared photos.
    #[test]
    fn features_of_photos() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/data/inception/golden_features.safetensors");
        if !path.exists() {
            println!("skipped: the features of the shared photos are not here");
            return;
        }
        let map = safetensors::read(&path).unwrap();
        let moments = |part: &str| {
            let (_, tensor) = map.iter().find(|(name, _)| name.contains(part)).unwrap();
            let mut statistics = Statistics::new(768);
            statistics.add(&tensor.to_f32()[..400 * 768]).unwrap();
            statistics.moments()
        };
        let got = frechet_distance(&moments("val"), &moments("train")).unwrap();
        assert!((got.distance / 0.981_280_132_9 - 1.0).abs() < 1e-8, "{got:?}");
        assert!((got.means - 0.026_014_813_3).abs() < 1e-8, "{got:?}");
    }
}
