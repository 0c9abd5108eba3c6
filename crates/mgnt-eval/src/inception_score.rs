use serde::Serialize;

use crate::Error;
use crate::draw::shuffled;

/// Inception Score over chunks of the samples (Salimans et al., 2016), which a seed draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct InceptionScore {
    /// Mean over the chunks.
    pub mean: f64,
    /// Population standard deviation over the chunks.
    pub deviation: f64,
    /// Number of chunks.
    pub splits: usize,
}

/// The Inception Score of logits `[n, classes]` of any network, over `splits` chunks that `seed` draws: sets often come sorted by
/// class, and chunks in that order would have few classes each. [`Measured`](crate::Measured) has ten chunks that seed 0 draws.
///
/// Fails where logits are not finite or no whole number of pictures, and where there are fewer pictures than chunks.
pub fn inception_score(
    logits: &[f32],
    classes: usize,
    splits: usize,
    seed: u64,
) -> Result<InceptionScore, Error> {
    if classes == 0 || !logits.len().is_multiple_of(classes) {
        return Err(Error::input("logits", format!("a multiple of {classes} values"), logits.len()));
    }
    let mut scorer = Scorer::new(classes, logits.len() / classes, splits)?.drawn(seed);
    scorer.add(logits.iter().map(|&logit| f64::from(logit)))?;
    scorer.finish()
}

/// An Inception Score on its way: memory does not grow with the number of samples.
///
/// A chunk's score is exp of the mean KL divergence of each sample's distribution from the chunk's mean one, which is
/// the mean of the samples' own sums of p ln p less that of the mean distribution.
#[derive(Debug, Clone)]
pub(crate) struct Scorer {
    classes: usize,
    samples: usize,
    seen: usize,
    /// Seed of the draw that says where in the row of chunks each sample goes; without one they go as they come.
    seed: Option<u64>,
    chunks: Vec<Chunk>,
}

/// Purpose of the draw of chunks; that of rows, and those of the kernel distance's subsets, are small.
const CHUNKS: u64 = 1 << 32;

#[derive(Debug, Clone)]
struct Chunk {
    count: usize,
    probabilities: Vec<f64>,
    negative_entropy: f64,
}

impl Scorer {
    /// For `samples` samples of `classes` logits in `splits` contiguous chunks, `[i n / s, (i + 1) n / s)`.
    pub(crate) fn new(classes: usize, samples: usize, splits: usize) -> Result<Self, Error> {
        if splits == 0 || splits > samples {
            return Err(Error::input("splits", format!("1 to {samples}"), splits));
        }
        let chunk = Chunk { count: 0, probabilities: vec![0.0; classes], negative_entropy: 0.0 };
        Ok(Self { classes, samples, seen: 0, seed: None, chunks: vec![chunk; splits] })
    }

    /// The same chunks, filled in an order that this seed draws: sets often come sorted by class, and such chunks would
    /// have few classes each.
    pub(crate) fn drawn(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Adds samples' logits `[n, classes]`; refuses those that are not finite, or beyond the announced number.
    pub(crate) fn add(&mut self, logits: impl IntoIterator<Item = f64>) -> Result<(), Error> {
        let mut logits = logits.into_iter();
        loop {
            let sample: Vec<f64> = logits.by_ref().take(self.classes).collect();
            if sample.is_empty() {
                return Ok(());
            }
            if let Some(odd) = sample.iter().find(|logit| !logit.is_finite()) {
                return Err(Error::input("logits", "finite numbers", odd));
            }
            if self.seen == self.samples {
                return Err(Error::input("samples to score", self.samples, "more"));
            }
            let place = match self.seed {
                Some(seed) => shuffled(seed, CHUNKS, self.seen, self.samples),
                None => self.seen,
            };
            let splits = self.chunks.len();
            // The chunk whose end lies beyond this place.
            let chunk = (place * splits / self.samples..splits)
                .find(|i| place < (i + 1) * self.samples / splits)
                .unwrap_or(splits - 1);
            self.chunks[chunk].add(&softmax(&sample));
            self.seen += 1;
        }
    }

    /// The score.
    pub(crate) fn finish(self) -> Result<InceptionScore, Error> {
        if self.seen != self.samples {
            return Err(Error::input("samples to score", self.samples, self.seen));
        }
        let scores: Vec<f64> = self.chunks.iter().map(Chunk::score).collect();
        let splits = scores.len();
        let mean = scores.iter().sum::<f64>() / splits as f64;
        let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / splits as f64;
        Ok(InceptionScore { mean, deviation: variance.sqrt(), splits })
    }
}

impl Chunk {
    fn add(&mut self, distribution: &[f64]) {
        self.count += 1;
        self.negative_entropy += negative_entropy(distribution);
        self.probabilities.iter_mut().zip(distribution).for_each(|(sum, p)| *sum += p);
    }

    fn score(&self) -> f64 {
        let count = self.count as f64;
        let mean: Vec<f64> = self.probabilities.iter().map(|sum| sum / count).collect();
        (self.negative_entropy / count - negative_entropy(&mean)).exp()
    }
}

fn negative_entropy(distribution: &[f64]) -> f64 {
    distribution.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum()
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| (l - highest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn golden_splits() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/metrics/metrics.safetensors");
        let map = mgnt_weights::safetensors::read(&path).unwrap();
        let logits = map.get("inception_score/logits").unwrap().to_f64();
        let cases = [
            ("splits_1", 500, 1),
            ("splits_5", 500, 5),
            ("splits_10", 500, 10),
            ("first103_splits_10", 103, 10),
        ];
        for (name, rows, splits) in cases {
            let value = |part: &str| map.get(&format!("inception_score/{name}/{part}")).unwrap().to_f64()[0];
            let mut scorer = Scorer::new(37, rows, splits).unwrap();
            logits[..rows * 37].chunks(37 * 9).for_each(|part| scorer.add(part.iter().copied()).unwrap());
            let got = scorer.finish().unwrap();
            assert!((got.mean / value("mean") - 1.0).abs() < 1e-9, "{name}");
            assert!((got.deviation - value("std_population")).abs() < 1e-9, "{name}");
        }
        assert!(Scorer::new(37, 500, 0).is_err() && Scorer::new(37, 5, 10).is_err());
        assert!(Scorer::new(37, 500, 1).unwrap().finish().is_err());
    }

    /// Ten classes of which the network is sure: 10 of any large chunk that has all, 1 of a chunk of one class.
    #[test]
    fn drawn_chunks_do_not_know_the_order() {
        let logits = |class: usize| (0..10).map(move |i| if i == class { 50.0 } else { 0.0 });
        let score = |class_of: &dyn Fn(usize) -> usize, seed: Option<u64>| {
            let mut scorer = Scorer { seed, ..Scorer::new(10, 2000, 10).unwrap() };
            scorer.add((0..2000).flat_map(|i| logits(class_of(i)))).unwrap();
            scorer.finish().unwrap()
        };
        let (sorted, in_turn) = (|i: usize| i / 200, |i: usize| i % 10);
        assert!(score(&sorted, None).mean < 1.001 && score(&in_turn, None).mean > 9.99);
        let (a, b) = (score(&sorted, Some(0)), score(&in_turn, Some(0)));
        assert!(a.mean > 9.6 && b.mean > 9.6 && (a.mean / b.mean - 1.0).abs() < 0.01, "{a:?} {b:?}");
        assert_eq!(a, score(&sorted, Some(0)));
    }

    #[test]
    fn logits_that_are_not_finite_and_samples_too_many_are_refused() {
        for odd in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let mut scorer = Scorer::new(3, 20, 10).unwrap();
            let error = scorer.add([0.0, odd, 0.0]).unwrap_err().to_string();
            assert_eq!(error, format!("logits: expected finite numbers, got {odd}"));
        }
        assert!(Scorer::new(3, 2, 1).unwrap().drawn(0).add([0.0; 9]).is_err());
    }
}
