//! Which items a training step sees: pure functions of the seed and the step, so that a run can be resumed at any
//! step without a saved state.

use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// At most `most` places, evenly over `length`: stores are sorted by class.
pub fn spread(length: usize, most: usize) -> impl Iterator<Item = usize> {
    let count = length.min(most);
    (0..count).map(move |i| i * length / count)
}

/// An order of items for training. Epochs are laid end to end, each a new permutation, so that every batch is full.
#[derive(Debug)]
pub struct Order {
    items: usize,
    batch: usize,
    seed: u64,
    /// The permutation that was asked for last, since steps come in order.
    epoch: Mutex<Option<(u64, Arc<[u32]>)>>,
}

impl Order {
    /// Batches of `batch` out of `items`, which must not be zero.
    ///
    /// # Panics
    /// Where `items` is zero.
    pub fn new(items: usize, batch: usize, seed: u64) -> Self {
        assert!(items > 0, "an order needs items");
        Self { items, batch, seed, epoch: Mutex::new(None) }
    }

    /// Items of the batch of step `step`, 0-based.
    pub fn batch(&self, step: usize) -> Vec<usize> {
        let first = step as u64 * self.batch as u64;
        (first..first + self.batch as u64).map(|position| self.item(position)).collect()
    }

    fn item(&self, position: u64) -> usize {
        let within = (position % self.items as u64) as usize;
        self.permutation(position / self.items as u64)[within] as usize
    }

    fn permutation(&self, epoch: u64) -> Arc<[u32]> {
        // A thread that panicked while it held the lock left the old permutation or the new one.
        let mut known = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((number, permutation)) if *number == epoch => permutation.clone(),
            _ => {
                let mut permutation: Vec<u32> = (0..self.items as u32).collect();
                permutation.shuffle(&mut generator(self.seed, epoch));
                known.insert((epoch, permutation.into())).1.clone()
            }
        }
    }
}

/// Whether the picture at `place` of the batch of `step` is mirrored.
pub fn flipped(seed: u64, step: usize, place: usize) -> bool {
    const FLIPS: u64 = 0x464c_4950;
    let mut rng = generator(seed ^ FLIPS, step as u64);
    rng.set_word_pos(place as u128);
    rng.next_u32() & 1 == 1
}

fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(items in 1usize..60, batch in 1usize..20, seed: u64) {
            let order = Order::new(items, batch, seed);
            let all: Vec<usize> = (0..3 * items).flat_map(|step| order.batch(step)).take(3 * items).collect();
            for epoch in all.chunks(items) {
                let mut sorted = epoch.to_vec();
                sorted.sort_unstable();
                prop_assert!(sorted.into_iter().eq(0..items));
            }
        }

        #[test]
        fn a_step_needs_none_before_it(step in 0usize..500, seed: u64) {
            let run = Order::new(37, 8, seed);
            (0..step).for_each(|step| { run.batch(step); });
            prop_assert_eq!(run.batch(step), Order::new(37, 8, seed).batch(step));
        }
    }

    #[test]
    fn half_are_mirrored() {
        let count = (0..100)
            .flat_map(|step| (0..20).map(move |place| flipped(1, step, place)))
            .filter(|&f| f)
            .count();
        assert!((900..1100).contains(&count), "{count}");
    }
}
