use mgnt_data::Picture;

use crate::{Dims, Error, Inception, InceptionScore, Statistics, inception_score};

/// Chunks of the Inception Score.
const SPLITS: usize = 10;

/// Pictures on their way into statistics: memory does not grow with their number, but for the Inception Score's
/// logits (1008 numbers a picture, where the weights reach them).
#[derive(Debug)]
pub struct Meter<'a> {
    network: &'a Inception,
    dims: Dims,
    statistics: Statistics,
    logits: Option<Vec<f32>>,
}

/// What a [`Meter`] leaves.
#[derive(Debug)]
pub struct Measured {
    /// Statistics of the features.
    pub statistics: Statistics,
    /// Inception Score, where it was asked for and the weights reach the logits.
    pub inception_score: Option<InceptionScore>,
}

impl<'a> Meter<'a> {
    /// No picture yet.
    pub fn new(network: &'a Inception, dims: Dims) -> Self {
        Self { network, dims, statistics: Statistics::new(dims.count()), logits: None }
    }

    /// With the Inception Score, which needs the features of 2048 dimensions; with fewer nothing is scored.
    pub fn scoring(mut self) -> Self {
        self.logits = (self.dims == Dims::D2048).then(Vec::new);
        self
    }

    /// Adds pictures, of any sizes.
    pub fn add(&mut self, pictures: &[Picture]) -> Result<(), Error> {
        let views: Vec<_> = pictures.iter().map(|p| (p.rgb(), p.width(), p.height())).collect();
        let features = self.network.features(&views, self.dims)?;
        self.statistics.add(&features);
        if let Some(logits) = &mut self.logits
            && let Some(new) = self.network.logits(&features)?
        {
            logits.extend(new);
        }
        Ok(())
    }

    /// Pictures seen.
    pub fn count(&self) -> u64 {
        self.statistics.count()
    }

    /// The statistics, and the score.
    pub fn finish(self) -> Result<Measured, Error> {
        let pictures = self.statistics.count() as usize;
        let score = match self.logits {
            Some(logits) if !logits.is_empty() => {
                let logits: Vec<f64> = logits.into_iter().map(f64::from).collect();
                let splits = SPLITS.min(pictures);
                Some(inception_score(&logits, logits.len() / pictures, splits)?)
            }
            _ => None,
        };
        Ok(Measured { statistics: self.statistics, inception_score: score })
    }
}
