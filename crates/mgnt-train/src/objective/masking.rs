use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What one sample of a step hides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// Hidden places in raster order, at least one.
    pub places: Vec<usize>,
    /// Whether its class is dropped.
    pub class_dropped: bool,
}

/// Masks of the sample at `place` of the batch of `step`: r ~ U(0, 1), `ceil(N cos(pi r / 2))` places hidden.
///
/// A pure function of its arguments.
pub fn mask(seed: u64, step: usize, place: usize, tokens: usize, class_dropout: f64) -> Masked {
    let mut rng = generator(seed, step, *b"mask");
    rng.set_stream(place as u64);
    let r: f64 = rng.random();
    let class_dropped = rng.random::<f64>() < class_dropout;
    let count = ((tokens as f64 * (std::f64::consts::FRAC_PI_2 * r).cos()).ceil() as usize).clamp(1, tokens);
    let mut places: Vec<usize> = (0..tokens).collect();
    let (chosen, _) = places.partial_shuffle(&mut rng, count);
    let mut places = chosen.to_vec();
    places.sort_unstable();
    Masked { places, class_dropped }
}

/// Places that a sample hides on average: that of `ceil(N cos(pi r / 2))` over r ~ U(0, 1).
pub fn mean_hidden(tokens: usize) -> f64 {
    // The mean of the cosine is 2 / pi, and rounding up adds about a half.
    tokens as f64 * std::f64::consts::FRAC_2_PI + 0.5
}

/// A generator of its own for each seed, step and use.
pub(super) fn generator(seed: u64, step: usize, what_for: [u8; 4]) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(step as u64).to_le_bytes());
    key[16..20].copy_from_slice(&what_for);
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_cosine() {
        let samples: Vec<Masked> = (0..4000).map(|step| mask(1, step, 3, 64, 0.1)).collect();
        assert!(samples.iter().all(|m| (1..=64).contains(&m.places.len())));
        assert!(
            samples.iter().all(|m| m.places.is_sorted_by(|a, b| a < b) && m.places.iter().all(|&p| p < 64))
        );
        let mean = samples.iter().map(|m| m.places.len() as f64).sum::<f64>() / 4000.0;
        assert!((mean - mean_hidden(64)).abs() < 1.0, "{mean}");
        // The whole distribution, which the mean alone does not tell from others: of the cosine above 63, and above 57, of 64.
        for (least, share) in [(64, 63.0f64 / 64.0), (58, 57.0 / 64.0), (7, 6.0 / 64.0)] {
            let expected = std::f64::consts::FRAC_2_PI * share.acos();
            let found = samples.iter().filter(|m| m.places.len() >= least).count() as f64 / 4000.0;
            assert!((found - expected).abs() < 0.02, "{least} and more: {found} {expected}");
        }
        let dropped = samples.iter().filter(|m| m.class_dropped).count();
        assert!((300..500).contains(&dropped), "{dropped}");
    }

    #[test]
    fn a_sample_is_a_function_of_seed_step_and_place() {
        assert_eq!(mask(1, 2, 3, 64, 0.1), mask(1, 2, 3, 64, 0.1));
        for other in [mask(2, 2, 3, 64, 0.1), mask(1, 3, 3, 64, 0.1), mask(1, 2, 4, 64, 0.1)] {
            assert_ne!(mask(1, 2, 3, 64, 0.1), other);
        }
    }
}
