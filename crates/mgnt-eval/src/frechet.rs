use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par, Side};

use crate::{Error, Statistics};

/// A Frechet distance and the part of it that the means alone make.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frechet {
    /// `|m1 - m2|^2 + tr S1 + tr S2 - 2 tr sqrt(S1 S2)`.
    pub distance: f64,
    /// `|m1 - m2|^2`.
    pub means: f64,
}

/// Frechet distance of two sets of features (Heusel et al., 2017).
///
/// `tr sqrt(S1 S2)` is the sum of the square roots of the eigenvalues of the symmetric `R S2 R`, R the root of S1;
/// eigenvalues below zero by rounding count as zero, so rank-deficient covariances are no special case.
pub fn frechet_distance(a: &Statistics, b: &Statistics) -> Result<Frechet, Error> {
    if a.dims() != b.dims() {
        return Err(Error::input("features", format!("{} dimensions", a.dims()), b.dims()));
    }
    let (s1, s2) = (a.covariance(), b.covariance());
    let dims = a.dims();
    let eigen = s1.self_adjoint_eigen(Side::Lower).map_err(|_| Error::Eigen("first covariance"))?;
    let values = eigen.S().column_vector();
    let scaled = Mat::from_fn(dims, dims, |i, j| eigen.U()[(i, j)] * values[j].max(0.0).sqrt());
    let root = product(&scaled, &eigen.U().transpose().to_owned());
    let inner = product(&product(&root, &s2), &root);
    let symmetric = Mat::from_fn(dims, dims, |i, j| 0.5 * (inner[(i, j)] + inner[(j, i)]));
    let values = symmetric
        .self_adjoint_eigenvalues(Side::Lower)
        .map_err(|_| Error::Eigen("product of covariances"))?;
    let trace_root: f64 = values.iter().map(|v| v.max(0.0).sqrt()).sum();
    let trace = |m: &Mat<f64>| (0..dims).map(|i| m[(i, i)]).sum::<f64>();
    let means: f64 = a.mean().iter().zip(b.mean()).map(|(a, b)| (a - b) * (a - b)).sum();
    Ok(Frechet { distance: means + trace(&s1) + trace(&s2) - 2.0 * trace_root, means })
}

fn product(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a.as_ref(), b.as_ref(), 1.0, Par::rayon(0));
    out
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use mgnt_weights::safetensors;

    use super::*;

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
            let statistics = |which: &str| {
                let mean = get(&format!("mu_{which}")).to_f64();
                let sigma = get(&format!("sigma_{which}")).to_f64();
                let dims = mean.len();
                Statistics::from_moments(
                    &mean,
                    Mat::from_fn(dims, dims, |i, j| sigma[i * dims + j]).as_ref(),
                    100,
                )
            };
            let got = frechet_distance(&statistics("1"), &statistics("2")).unwrap().distance;
            let expected = get("expected").to_f64()[0];
            let loose = ["deficient", "identical", "relu"].iter().any(|part| name.contains(part));
            let tolerance = if loose { 1e-5 } else { 1e-8 * expected.abs() + 1e-10 };
            assert!((got - expected).abs() <= tolerance, "{name}: {got} {expected}");
        }
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
        let statistics = |part: &str| {
            let (_, tensor) = map.iter().find(|(name, _)| name.contains(part)).unwrap();
            let mut statistics = Statistics::new(768);
            statistics.add(&tensor.to_f32()[..400 * 768]);
            statistics
        };
        let got = frechet_distance(&statistics("val"), &statistics("train")).unwrap();
        assert!((got.distance / 0.981_280_132_9 - 1.0).abs() < 1e-5, "{got:?}");
        assert!((got.means - 0.026_014_813_3).abs() < 1e-8, "{got:?}");
    }
}
