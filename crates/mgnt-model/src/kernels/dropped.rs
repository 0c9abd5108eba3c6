//! Dropout that is drawn where it is used, forth and back: whether a number goes is a function of its place and a key, so that no draw
//! is kept but the embedding's, by which Burn multiplies.

use burn::tensor::{Device, Distribution, Tensor, TensorData};

use super::philox::philox;

/// What is dropped of rows of numbers; the rest is divided by its share.
///
/// The number of row r and column c goes where the word c % 4 of [`philox`](super::philox) of the counter `[c / 4, r, site, 0]` is below
/// [`threshold`](Self::threshold).
#[derive(Debug, Clone)]
pub struct Dropped {
    /// Two numbers, others for each pass through the model, `[2]` in `f32`, whose bits are the generator's key.
    pub key: Tensor<1>,
    /// Which dropout of that pass it is.
    pub site: u32,
    /// Above 0, below 1.
    pub share: f64,
}

impl Dropped {
    /// A key from the generator of a device.
    pub fn draw_key(device: &Device) -> Tensor<1> {
        Tensor::random([2], Distribution::Uniform(0.0, 1.0), device)
    }

    /// The key of a pass by its number, as a function of a seed.
    pub fn key(seed: u64, pass: u32, device: &Device) -> Tensor<1> {
        let [first, second, ..] = philox([pass, 0, 0, 0], [seed as u32, (seed >> 32) as u32]);
        // From 0 to 1, as those that are drawn: each has 24 bits.
        let numbers = [first, second].map(|word| (word >> 8) as f32 / (1 << 24) as f32);
        Tensor::from_floats(numbers, device)
    }

    /// As many of 2^32 words as the share is of one.
    pub fn threshold(share: f64) -> u32 {
        (share * 2f64.powi(32)) as u32
    }

    /// What numbers `[rows, columns]` are multiplied by, off any tape: the definition that kernels are held against.
    pub fn factors(&self, rows: usize, columns: usize) -> Tensor<2> {
        let key = self.key.clone().inner();
        let device = key.device();
        let mut bits = key.into_data().iter::<f32>().map(f32::to_bits).collect::<Vec<_>>();
        bits.resize(2, 0);
        let (key, stays) = ([bits[0], bits[1]], (1.0 / (1.0 - self.share)) as f32);
        let threshold = Self::threshold(self.share);
        let mut factors = Vec::with_capacity(rows * columns);
        for row in 0..rows as u32 {
            let words = (0..columns as u32)
                .map(|column| philox([column / 4, row, self.site, 0], key)[column as usize % 4]);
            factors.extend(words.map(|word| if word < threshold { 0.0 } else { stays }));
        }
        Tensor::from_data(TensorData::new(factors, [rows, columns]), &device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_goes_at_other_places_for_each_key_and_site() {
        let device = Device::flex();
        let of = |key: [f32; 2], site: u32, share: f64| -> Vec<f32> {
            let dropped = Dropped { key: Tensor::from_floats(key, &device), site, share };
            dropped.factors(200, 50).into_data().try_into_vec().unwrap()
        };
        let one = of([0.25, 0.75], 3, 0.3);
        let gone = one.iter().filter(|&&factor| factor == 0.0).count();
        // Three deviations of 10,000 draws.
        assert!(gone.abs_diff(3000) < 138, "{gone} of 10000 are gone");
        assert!(one.iter().all(|&factor| factor == 0.0 || (factor - 1.0 / 0.7).abs() < 1e-6));
        assert_eq!(one, of([0.25, 0.75], 3, 0.3));
        for other in [of([0.25, 0.5], 3, 0.3), of([0.5, 0.75], 3, 0.3), of([0.25, 0.75], 4, 0.3)] {
            let same = one.iter().zip(&other).filter(|(a, b)| a == b).count();
            // 0.3^2 + 0.7^2 of all.
            assert!(same.abs_diff(5800) < 150, "{same} of 10000 are the same");
        }
    }

    #[test]
    fn keys_are_functions_of_seed_and_pass() {
        let device = Device::flex();
        let key = |seed, pass| -> Vec<f32> {
            Dropped::key(seed, pass, &device).into_data().try_into_vec().unwrap()
        };
        let all = [key(3, 0), key(3, 1), key(4, 0), key(3 << 32, 0)];
        for (i, one) in all.iter().enumerate() {
            assert!(one.iter().all(|number| (0.0..1.0).contains(number)), "{one:?}");
            assert!(all[..i].iter().all(|other| other != one), "{all:?}");
        }
        assert_eq!(key(3, 1), all[1]);
    }

    #[test]
    fn keys_follow_the_device_s_seed() {
        let device = Device::flex();
        let key = |seed| -> Vec<f32> {
            device.seed(seed);
            Dropped::draw_key(&device).into_data().try_into_vec().unwrap()
        };
        let first = key(1);
        assert_eq!(first, key(1));
        assert_ne!(first, key(2));
    }
}
