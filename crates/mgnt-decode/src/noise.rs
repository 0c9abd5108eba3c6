//! Counter-based random numbers: what a place draws depends on the seed, the sample's number, the iteration and the
//! place, and on nothing else: no batch, no device, no number of threads.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The random numbers of a seed.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    seed: u64,
}

/// The random numbers of one sample in one iteration.
#[derive(Debug, Clone)]
pub struct Stream {
    rng: ChaCha8Rng,
}

/// Two independent uniform numbers between 0 and 1, both ends excluded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draws {
    /// For the draw of a token.
    pub token: f64,
    /// For the noise on its confidence.
    pub choice: f64,
}

impl Noise {
    /// The random numbers of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Those of one sample in one iteration.
    pub fn stream(&self, sample: u64, iteration: usize) -> Stream {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.seed.to_le_bytes());
        key[8..16].copy_from_slice(&sample.to_le_bytes());
        let mut rng = ChaCha8Rng::from_seed(key);
        rng.set_stream(iteration as u64);
        Stream { rng }
    }
}

impl Stream {
    /// The numbers of each of `places`, in that order.
    pub fn at(&self, places: &[usize]) -> Vec<Draws> {
        let mut rng = self.rng.clone();
        let end = places.iter().max().map_or(0, |place| place + 1);
        let mut all = Vec::with_capacity(end);
        // One run over all places: seeking would cost a block of the generator for each.
        for _ in 0..end {
            all.push(Draws { token: open_unit(rng.next_u64()), choice: open_unit(rng.next_u64()) });
        }
        places.iter().map(|&place| all[place]).collect()
    }
}

/// The middle of one of 2^52 equal parts of the unit interval, so that neither end is met.
fn open_unit(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// A standard Gumbel number from a uniform one.
pub fn gumbel(uniform: f64) -> f64 {
    -(-uniform.ln()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_draws_the_same_in_any_company() {
        let stream = Noise::new(7).stream(3, 5);
        let all = stream.at(&(0..300).collect::<Vec<_>>());
        assert_eq!(stream.at(&[299, 0, 17]), [all[299], all[0], all[17]]);
        assert_ne!(Noise::new(7).stream(3, 6).at(&[0])[0], all[0]);
        assert_ne!(Noise::new(7).stream(4, 5).at(&[0])[0], all[0]);
        assert_ne!(Noise::new(8).stream(3, 5).at(&[0])[0], all[0]);
    }

    #[test]
    fn uniform_and_gumbel_have_their_means() {
        let places: Vec<usize> = (0..20_000).collect();
        let draws = Noise::new(1).stream(0, 0).at(&places);
        let mean = |f: fn(&Draws) -> f64| draws.iter().map(f).sum::<f64>() / draws.len() as f64;
        assert!((mean(|d| d.token) - 0.5).abs() < 0.01);
        assert!((mean(|d| gumbel(d.choice)) - 0.577_215_66).abs() < 0.03);
        assert!(draws.iter().all(|d| d.token > 0.0 && d.token < 1.0));
        assert!(gumbel(open_unit(u64::MAX)).is_finite() && gumbel(open_unit(0)).is_finite());
    }
}
