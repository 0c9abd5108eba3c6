use crate::Error;

/// Inception Score over chunks of the samples (Salimans et al., 2016).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InceptionScore {
    /// Mean over the chunks.
    pub mean: f64,
    /// Population standard deviation over the chunks.
    pub deviation: f64,
}

/// Inception Score of `logits [n, classes]` in `splits` contiguous chunks: exp of the mean KL divergence of each
/// sample's distribution from the chunk's mean one.
pub fn inception_score(logits: &[f64], classes: usize, splits: usize) -> Result<InceptionScore, Error> {
    let samples = logits.len() / classes.max(1);
    if splits == 0 || splits > samples {
        return Err(Error::input("splits", format!("1 to {samples}"), splits));
    }
    let distributions: Vec<Vec<f64>> = logits.chunks_exact(classes).map(softmax).collect();
    let scores: Vec<f64> = (0..splits)
        .map(|i| {
            let chunk = &distributions[i * samples / splits..(i + 1) * samples / splits];
            let mean: Vec<f64> =
                (0..classes).map(|c| chunk.iter().map(|p| p[c]).sum::<f64>() / chunk.len() as f64).collect();
            let divergence = |p: &Vec<f64>| -> f64 {
                p.iter().zip(&mean).filter(|(p, _)| **p > 0.0).map(|(p, m)| p * (p.ln() - m.ln())).sum()
            };
            (chunk.iter().map(divergence).sum::<f64>() / chunk.len() as f64).exp()
        })
        .collect();
    let mean = scores.iter().sum::<f64>() / splits as f64;
    let variance = scores.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / splits as f64;
    Ok(InceptionScore { mean, deviation: variance.sqrt() })
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
            let got = inception_score(&logits[..rows * 37], 37, splits).unwrap();
            assert!((got.mean / value("mean") - 1.0).abs() < 1e-9, "{name}");
            assert!((got.deviation - value("std_population")).abs() < 1e-9, "{name}");
        }
        assert!(inception_score(&logits, 37, 0).is_err());
    }
}
