use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, Par};

use serde::Serialize;

use crate::draw::drawn;
use crate::{Error, Features};

/// Kernel distance of two sets of features.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct KernelDistance {
    /// Mean over the subsets.
    pub mean: f64,
    /// Population standard deviation over the subsets; none of a single one.
    pub deviation: Option<f64>,
    /// Number of subsets.
    pub subsets: usize,
    /// Pictures of each set in a subset.
    pub size: usize,
}

/// Subsets, as torch-fidelity and clean-fid take them.
const SUBSETS: usize = 100;
/// Pictures of a subset, where there are as many.
const SIZE: usize = 1000;

/// Kernel distance, KID (Bińkowski et al., 2018): squared maximum mean discrepancy under the kernel (x·y / d + 1)^3,
/// unbiased, mean over 100 subsets of 1,000 pictures of each set, each drawn without replacement.
///
/// Sets of fewer than 1,000 pictures make smaller subsets; of fewer than two, none. Where both sets are as small as a
/// subset there is one alone, of all pictures.
pub fn kernel_distance(real: &Features, fake: &Features, seed: u64) -> Result<KernelDistance, Error> {
    if real.dims() != fake.dims() {
        return Err(Error::input("features", format!("{} dimensions", real.dims()), fake.dims()));
    }
    let size = SIZE.min(real.count()).min(fake.count());
    if size < 2 {
        return Err(Error::input("pictures for the kernel distance", "two of each set", size));
    }
    let (all_x, all_y) = (real.columns(), fake.columns());
    if (real.count(), fake.count()) == (size, size) {
        // Every draw would be of all pictures.
        let mean = squared_discrepancy(&all_x, &all_y);
        return Ok(KernelDistance { mean, deviation: None, subsets: 1, size });
    }
    let values: Vec<f64> = (0..SUBSETS as u64)
        .map(|subset| {
            // Purposes 1, 2, …: the draw of the rows themselves has 0.
            let x = part(&all_x, &drawn(seed, 2 * subset + 1, size, real.count()));
            let y = part(&all_y, &drawn(seed, 2 * subset + 2, size, fake.count()));
            squared_discrepancy(&x, &y)
        })
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / values.len() as f64;
    Ok(KernelDistance { mean, deviation: Some(variance.sqrt()), subsets: SUBSETS, size })
}

fn part(columns: &Mat<f64>, chosen: &[usize]) -> Mat<f64> {
    Mat::from_fn(columns.nrows(), chosen.len(), |i, j| columns[(i, chosen[j])])
}

/// Unbiased estimate of the squared discrepancy of two sets, a column a picture: pairs of a picture with itself are
/// left out.
fn squared_discrepancy(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let within = |set: &Mat<f64>| {
        let pairs = (set.ncols() * (set.ncols() - 1)) as f64;
        2.0 * sum_below_diagonal(set) / pairs
    };
    within(x) + within(y) - 2.0 * sum_of_pairs(x, y) / (x.ncols() * y.ncols()) as f64
}

fn kernel(product: f64, dims: usize) -> f64 {
    (product / dims as f64 + 1.0).powi(3)
}

/// Sum over the pairs of two pictures of one set, each pair once.
fn sum_below_diagonal(set: &Mat<f64>) -> f64 {
    let (dims, count) = (set.nrows(), set.ncols());
    let mut products = Mat::zeros(count, count);
    triangular::matmul(
        products.as_mut(),
        BlockStructure::StrictTriangularLower,
        Accum::Replace,
        set.transpose(),
        BlockStructure::Rectangular,
        set.as_ref(),
        BlockStructure::Rectangular,
        1.0,
        Par::rayon(0),
    );
    (0..count).map(|j| (j + 1..count).map(|i| kernel(products[(i, j)], dims)).sum::<f64>()).sum()
}

fn sum_of_pairs(x: &Mat<f64>, y: &Mat<f64>) -> f64 {
    let mut products = Mat::zeros(x.ncols(), y.ncols());
    matmul(products.as_mut(), Accum::Replace, x.transpose(), y.as_ref(), 1.0, Par::rayon(0));
    products.col_iter().map(|column| column.iter().map(|&p| kernel(p, x.nrows())).sum::<f64>()).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mgnt_weights::{TensorMap, safetensors};

    use super::*;

    fn golden() -> TensorMap {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics/metrics.safetensors");
        safetensors::read(&path).unwrap()
    }

    fn features(map: &TensorMap, name: &str) -> Features {
        let tensor = map.get(name).unwrap();
        Features::new(tensor.shape()[1], tensor.to_f32()).unwrap()
    }

    #[test]
    fn golden_sets_and_subsets() {
        let map = golden();
        let (a, b) = (features(&map, "kid/features_1").columns(), features(&map, "kid/features_2").columns());
        let expected = map.get("kid/full_unbiased").unwrap().to_f64()[0];
        assert!((squared_discrepancy(&a, &b) / expected - 1.0).abs() < 1e-9);
        let (first, second) =
            (map.integers("kid/subset_indices_1").unwrap(), map.integers("kid/subset_indices_2").unwrap());
        for (i, expected) in map.get("kid/subset_values").unwrap().to_f64().into_iter().enumerate() {
            let chosen = |all: &[i64]| all[i * 50..][..50].iter().map(|&v| v as usize).collect::<Vec<_>>();
            let got = squared_discrepancy(&part(&a, &chosen(&first)), &part(&b, &chosen(&second)));
            assert!((got - expected).abs() < 1e-9 * (1.0 + expected.abs()), "{i}: {got} {expected}");
        }
    }

    /// By hand: x = {1, 3}, y = {0, 2} in one dimension. k(1,3) = 64, k(0,2) = 1; k(1,0) = 1, k(1,2) = 27, k(3,0) = 1,
    /// k(3,2) = 343. So 64 + 1 - 2 (1 + 27 + 1 + 343) / 4 = -121.
    #[test]
    fn two_pictures_by_hand() {
        let set = |values: [f32; 2]| Features::new(1, values.to_vec()).unwrap();
        let got = kernel_distance(&set([1.0, 3.0]), &set([0.0, 2.0]), 0).unwrap();
        assert_eq!((got.mean, got.deviation, got.subsets, got.size), (-121.0, None, 1, 2));
        let one = Features::new(1, vec![1.0]).unwrap();
        assert!(kernel_distance(&one, &set([0.0, 2.0]), 0).is_err());
        assert!(kernel_distance(&Features::new(2, vec![1.0; 4]).unwrap(), &set([0.0, 2.0]), 0).is_err());
    }

    /// The mean over subsets estimates the distance of the whole sets.
    #[test]
    fn subsets_agree_with_the_whole() {
        let cloud = |count: usize, shift: f32| {
            let values = (0..count * 4).map(|i| ((i * i % 9973) as f32 * 0.37).sin() + shift);
            Features::new(4, values.collect()).unwrap()
        };
        let (a, b) = (cloud(1500, 0.0), cloud(1300, 0.4));
        let whole = squared_discrepancy(&a.columns(), &b.columns());
        let got = kernel_distance(&a, &b, 3).unwrap();
        assert_eq!((got.subsets, got.size), (100, 1000));
        let deviation = got.deviation.unwrap();
        assert!((got.mean - whole).abs() < 4.0 * deviation / 10.0 + 1e-3 * whole, "{got:?} {whole}");
        assert_eq!(got, kernel_distance(&a, &b, 3).unwrap());
        // One side of a subset's size: the other is drawn all the same.
        let small = cloud(40, 0.4);
        let got = kernel_distance(&a, &small, 3).unwrap();
        assert!(got.subsets == 100 && got.deviation.unwrap() > 0.0, "{got:?}");
    }
}
