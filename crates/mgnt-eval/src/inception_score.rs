use crate::Error;

/// Inception Score over chunks of the samples (Salimans et al., 2016).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InceptionScore {
    /// Mean over the chunks.
    pub mean: f64,
    /// Population standard deviation over the chunks.
    pub deviation: f64,
    /// Number of chunks.
    pub splits: usize,
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
    chunks: Vec<Chunk>,
}

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
        Ok(Self { classes, samples, seen: 0, chunks: vec![chunk; splits] })
    }

    /// Adds samples' logits `[n, classes]`; those beyond the announced number are an error at the end.
    pub(crate) fn add(&mut self, logits: impl IntoIterator<Item = f64>) {
        let mut logits = logits.into_iter();
        loop {
            let sample: Vec<f64> = logits.by_ref().take(self.classes).collect();
            if sample.is_empty() {
                return;
            }
            let splits = self.chunks.len();
            // The chunk whose end lies beyond this sample.
            let chunk = (self.seen * splits / self.samples.max(1)..splits)
                .find(|i| self.seen < (i + 1) * self.samples / splits)
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
            logits[..rows * 37].chunks(37 * 9).for_each(|part| scorer.add(part.iter().copied()));
            let got = scorer.finish().unwrap();
            assert!((got.mean / value("mean") - 1.0).abs() < 1e-9, "{name}");
            assert!((got.deviation - value("std_population")).abs() < 1e-9, "{name}");
        }
        assert!(Scorer::new(37, 500, 0).is_err() && Scorer::new(37, 5, 10).is_err());
        assert!(Scorer::new(37, 500, 1).unwrap().finish().is_err());
    }
}
