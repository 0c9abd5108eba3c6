use std::fmt;

use serde::Serialize;

/// Every choice that a number depends on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Protocol {
    /// Dimensions of the features.
    pub dims: usize,
    /// File name of the network's weights.
    pub weights: String,
    /// SHA-256 of that file.
    pub weights_sha256: String,
    /// How pictures become the network's input.
    pub resize: String,
    /// What the reference is.
    pub real: String,
    /// Pictures in it.
    pub real_count: u64,
    /// What is measured.
    pub fake: String,
    /// Pictures in it.
    pub fake_count: u64,
    /// How classes were chosen, where pictures were generated.
    pub classes: Option<String>,
    /// Seed, where pictures were generated.
    pub seed: Option<u64>,
    /// Model schedule and cache, where pictures were generated.
    pub strategy: Option<String>,
}

/// A measured distance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Frechet distance.
    pub fid: f64,
    /// The part of it that the means alone make.
    pub fid_of_means: f64,
    /// Inception Score of what is measured: mean and deviation over 10 splits, where the weights reach the logits.
    pub inception_score: Option<[f64; 2]>,
    /// What it depends on.
    pub protocol: Protocol,
    /// What a reader must know before comparing.
    pub warnings: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = &self.protocol;
        writeln!(f, "FID-{}  {:.4}  ({:.4} of it from the means)", p.dims, self.fid, self.fid_of_means)?;
        if let Some([mean, deviation]) = self.inception_score {
            writeln!(f, "IS      {mean:.3} +- {deviation:.3}")?;
        }
        writeln!(f, "real    {} pictures of {}", p.real_count, p.real)?;
        writeln!(f, "fake    {} pictures of {}", p.fake_count, p.fake)?;
        if let (Some(classes), Some(seed), Some(strategy)) = (&p.classes, p.seed, &p.strategy) {
            writeln!(f, "        classes {classes}, seed {seed}, {strategy}")?;
        }
        writeln!(f, "weights {} (sha256 {:.12})", p.weights, p.weights_sha256)?;
        writeln!(f, "resize  {}", p.resize)
    }
}

/// Below this many samples the distance is strongly biased upward.
const FEW: u64 = 10_000;

impl Protocol {
    /// What a reader must know before comparing.
    pub fn warnings(&self) -> Vec<String> {
        Self::warnings_for(self.dims, self.real_count, self.fake_count)
    }

    /// The same for any numbers of pictures.
    pub fn warnings_for(dims: usize, real: u64, fake: u64) -> Vec<String> {
        let mut warnings = Vec::new();
        let fewest = real.min(fake);
        if fewest < FEW {
            warnings
                .push(format!("only {fewest} pictures: FID is biased upward; published numbers use 50,000"));
        }
        if dims < 2048 {
            warnings.push(format!(
                "{dims} dimensions: this number compares only with others of the same weights and dimensions, \
                 and with no published one"
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_pictures_and_partial_features_are_named() {
        let protocol = |dims, count| Protocol {
            dims,
            weights: "w".into(),
            weights_sha256: String::new(),
            resize: String::new(),
            real: "a".into(),
            real_count: count,
            fake: "b".into(),
            fake_count: 50_000,
            classes: None,
            seed: None,
            strategy: None,
        };
        assert!(protocol(2048, 50_000).warnings().is_empty());
        let both = protocol(768, 400).warnings();
        assert!(both[0].contains("only 400") && both[1].contains("compares only with"), "{both:?}");
    }
}
