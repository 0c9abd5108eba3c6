use faer::linalg::matmul::matmul;
use faer::{Accum, ColRef, Mat, MatRef, Par};
use rayon::prelude::*;

use serde::Serialize;

use crate::{Error, Features};

/// How two sets of features lie to each other, by balls around each picture that reach to a near neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Neighbours {
    /// Share of fake pictures inside the ball of any real one (Kynkäänniemi et al., 2019; k = 3).
    pub precision: f64,
    /// Share of real pictures inside the ball of any fake one (k = 3).
    pub recall: f64,
    /// Balls of real pictures that a fake one lies in, on average, over k (Naeem et al., 2020; k = 5).
    pub density: f64,
    /// Share of real pictures whose ball holds a fake one (k = 5).
    pub coverage: f64,
}

/// Neighbour that the balls of precision and recall reach to, as in their paper.
pub(crate) const K_PRECISION_RECALL: usize = 3;
/// Neighbour that the balls of density and coverage reach to, as in their paper.
pub(crate) const K_DENSITY_COVERAGE: usize = 5;
/// Pictures whose distances to all others are in memory at a time.
const BLOCK: usize = 256;

/// Precision, recall, density and coverage. Each set needs more pictures than the largest k.
pub fn neighbours(real: &Features, fake: &Features) -> Result<Neighbours, Error> {
    with_k(real, fake, K_PRECISION_RECALL, K_DENSITY_COVERAGE)
}

fn with_k(
    real: &Features,
    fake: &Features,
    k_precision_recall: usize,
    k_density_coverage: usize,
) -> Result<Neighbours, Error> {
    if real.dims() != fake.dims() {
        return Err(Error::input("features", format!("{} dimensions", real.dims()), fake.dims()));
    }
    let most = k_precision_recall.max(k_density_coverage);
    let fewest = real.count().min(fake.count());
    if fewest <= most {
        return Err(Error::input("pictures for neighbours", format!("more than {most} of each set"), fewest));
    }
    let (real, fake) = (Cloud::new(real.columns()), Cloud::new(fake.columns()));
    let fake_radii = fake.radii([k_precision_recall; 2]);
    let real_radii = real.radii([k_precision_recall, k_density_coverage]);

    let mut inside_real = vec![false; fake.count()];
    let (mut recalled, mut covered, mut balls) = (0usize, 0usize, 0usize);
    real.distances_to(&fake, |first, distances| {
        let rows: Vec<(bool, bool, usize)> = (0..distances.ncols())
            .into_par_iter()
            .map(|column| {
                let [_, reach] = real_radii[first + column];
                let to_fake = distances.col(column);
                let recalled = to_fake.iter().zip(&fake_radii).any(|(d, [radius, _])| d <= radius);
                let inside = to_fake.iter().filter(|&&d| d < reach).count();
                (recalled, inside > 0, inside)
            })
            .collect();
        recalled += rows.iter().filter(|row| row.0).count();
        covered += rows.iter().filter(|row| row.1).count();
        balls += rows.iter().map(|row| row.2).sum::<usize>();
        inside_real.par_iter_mut().enumerate().for_each(|(j, inside)| {
            *inside |= (0..distances.ncols()).any(|i| distances[(j, i)] <= real_radii[first + i][0]);
        });
    });
    let share = |part: usize, of: usize| part as f64 / of as f64;
    Ok(Neighbours {
        precision: share(inside_real.iter().filter(|&&inside| inside).count(), fake.count()),
        recall: share(recalled, real.count()),
        density: share(balls, k_density_coverage * fake.count()),
        coverage: share(covered, real.count()),
    })
}

/// Pictures as points, a column each.
struct Cloud {
    points: Mat<f64>,
    squares: Vec<f64>,
}

impl Cloud {
    fn new(points: Mat<f64>) -> Self {
        let squares = points.col_iter().map(|point: ColRef<f64>| point.squared_norm_l2()).collect();
        Self { points, squares }
    }

    fn count(&self) -> usize {
        self.points.ncols()
    }

    /// Gives `visit` the squared distances of a block of these points, a column each, to all of the others; and the
    /// number of the block's first point.
    fn distances_to(&self, others: &Self, mut visit: impl FnMut(usize, MatRef<f64>)) {
        for first in (0..self.count()).step_by(BLOCK) {
            let width = BLOCK.min(self.count() - first);
            let block = self.points.subcols(first, width);
            let mut distances = Mat::zeros(others.count(), width);
            matmul(distances.as_mut(), Accum::Replace, others.points.transpose(), block, -2.0, Par::rayon(0));
            for j in 0..width {
                let square = self.squares[first + j];
                for (i, other) in others.squares.iter().enumerate() {
                    // Rounding may leave a distance of nothing a little below nothing.
                    distances[(i, j)] = (distances[(i, j)] + square + other).max(0.0);
                }
            }
            visit(first, distances.as_ref());
        }
    }

    /// Squared distances of each point to its `ks[0]`-th and `ks[1]`-th nearest other point.
    fn radii(&self, ks: [usize; 2]) -> Vec<[f64; 2]> {
        let mut radii = Vec::with_capacity(self.count());
        self.distances_to(self, |first, distances| {
            radii.par_extend((0..distances.ncols()).into_par_iter().map(|column| {
                let mut others: Vec<f64> = distances.col(column).iter().copied().collect();
                others.swap_remove(first + column);
                ks.map(|k| *others.select_nth_unstable_by(k - 1, f64::total_cmp).1)
            }));
        });
        radii
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mgnt_weights::safetensors;

    use super::*;

    #[test]
    fn golden_sets() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics/metrics.safetensors");
        let map = safetensors::read(&path).unwrap();
        for case in ["a", "b", "c_disjoint"] {
            let features = |part: &str| {
                let tensor = map.get(&format!("prdc/{case}/{part}")).unwrap();
                Features::new(tensor.shape()[1], tensor.to_f32()).unwrap()
            };
            for k in [3, 5] {
                let name = format!("prdc/{case}/k{k}/precision_recall_density_coverage");
                let expected = map.get(&name).unwrap().to_f64();
                let got = with_k(&features("real"), &features("fake"), k, k).unwrap();
                let got = [got.precision, got.recall, got.density, got.coverage];
                assert!(
                    got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12),
                    "{name}: {got:?} {expected:?}"
                );
            }
            // As they are published: precision and recall of three neighbours, density and coverage of five.
            let of = |k: usize| {
                let name = format!("prdc/{case}/k{k}/precision_recall_density_coverage");
                map.get(&name).unwrap().to_f64()
            };
            let got = neighbours(&features("real"), &features("fake")).unwrap();
            let got = [got.precision, got.recall, got.density, got.coverage];
            let expected = [of(3)[0], of(3)[1], of(5)[2], of(5)[3]];
            assert!(
                got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-12),
                "{case}: {got:?} {expected:?}"
            );
        }
    }

    /// By hand, k = 1, in one dimension. Real 0, 1, 4 have radii 1, 1, 3; fake 1.5, 9, 10 have radii 7.5, 1, 1.
    /// Of the fake, 1.5 alone lies in real balls: in that of 1 and in that of 4. All real lie within 7.5 of 1.5.
    #[test]
    fn three_pictures_by_hand() {
        let set = |values: [f32; 3]| Features::new(1, values.to_vec()).unwrap();
        let got = with_k(&set([0.0, 1.0, 4.0]), &set([1.5, 9.0, 10.0]), 1, 1).unwrap();
        assert_eq!((got.precision, got.recall), (1.0 / 3.0, 1.0));
        assert_eq!((got.density, got.coverage), (2.0 / 3.0, 2.0 / 3.0));
    }

    #[test]
    fn a_set_against_itself_is_precise_and_covered() {
        // More than a block, so that blocks are joined too.
        let values: Vec<f32> =
            (0..600u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e6).collect();
        let set = Features::new(2, values).unwrap();
        let got = neighbours(&set, &set).unwrap();
        assert_eq!((got.precision, got.recall, got.coverage), (1.0, 1.0, 1.0));
        let few = Features::new(2, vec![0.0; 10]).unwrap();
        assert!(neighbours(&few, &set).unwrap_err().to_string().contains("more than 5"));
    }
}
