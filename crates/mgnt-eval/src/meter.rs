use crate::features::{FeatureSample, Features, check_finite};
use crate::inception_score::Scorer;
use crate::{Activations, Dims, Error, InceptionScore, Moments, Statistics};

/// Chunks of the Inception Score, each of two pictures at least: that of one is always 1.
const SPLITS: usize = 10;
/// Pictures whose features are kept for the measures that compare pictures with pictures.
pub(crate) const SAMPLE: usize = 10_000;
/// Seed of the draw of those, of the Inception Score's chunks, and of the subsets of the kernel distance.
pub(crate) const SEED: u64 = 0;

/// Features on their way into statistics: memory does not grow with the number of pictures.
#[derive(Debug)]
pub struct Meter {
    pictures: usize,
    statistics: Statistics,
    spatial: Option<Statistics>,
    sample: FeatureSample,
    scorer: Option<Scorer>,
}

/// What is known of a set of pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Mean and covariance of the features.
    pub moments: Moments,
    /// Mean and covariance of the spatial features, where there are any.
    pub spatial: Option<Moments>,
    /// Features of the pictures, or of 10,000 that were drawn where there are more; none of published statistics.
    pub sample: Option<Features>,
    /// Inception Score, where the weights reach the logits and there are 20 pictures at least.
    pub inception_score: Option<InceptionScore>,
}

impl Meter {
    /// No picture yet, of so many that will come.
    pub fn new(dims: Dims, pictures: usize) -> Self {
        Self::of_features(dims.count(), pictures)
    }

    /// The same for `dims` features of any network.
    ///
    /// # Panics
    ///
    /// Where `dims` is 0.
    pub fn of_features(dims: usize, pictures: usize) -> Self {
        assert!(dims > 0, "a picture has one feature at least");
        Self {
            pictures,
            statistics: Statistics::new(dims),
            spatial: None,
            sample: FeatureSample::new(dims, SAMPLE, SEED),
            scorer: None,
        }
    }

    /// Adds what the network said of some pictures; refuses features and logits that are not finite, or that are no whole
    /// number of pictures.
    pub fn add(&mut self, said: &Activations) -> Result<(), Error> {
        check_finite(&said.features)?;
        check_finite(said.spatial.as_deref().unwrap_or_default())?;
        let new = said.features.len() / self.statistics.dims();
        self.statistics.add(&said.features)?;
        self.sample.add(&said.features);
        if let Some(spatial) = said.spatial.as_ref().filter(|spatial| !spatial.is_empty()) {
            let dims = spatial.len() / new.max(1);
            self.spatial.get_or_insert_with(|| Statistics::new(dims)).add(spatial)?;
        }
        if let Some(logits) = &said.logits
            && self.pictures >= 2 * SPLITS
        {
            let scorer = match &mut self.scorer {
                Some(scorer) => scorer,
                None => {
                    let scorer = Scorer::new(logits.len() / new.max(1), self.pictures, SPLITS)?;
                    self.scorer.insert(scorer.drawn(SEED))
                }
            };
            scorer.add(logits.iter().map(|&logit| f64::from(logit)))?;
        }
        Ok(())
    }

    /// What was measured; an error where the pictures are not as many as were announced, or not all have the spatial
    /// features that some have.
    pub fn finish(self) -> Result<Measured, Error> {
        if self.statistics.count() != self.pictures as u64 {
            return Err(Error::input("pictures", self.pictures, self.statistics.count()));
        }
        if let Some(spatial) = self.spatial.as_ref().filter(|all| all.count() != self.pictures as u64) {
            return Err(Error::input("pictures with spatial features", self.pictures, spatial.count()));
        }
        Ok(Measured {
            moments: self.statistics.moments(),
            spatial: self.spatial.map(|spatial| spatial.moments()),
            sample: Some(self.sample.finish()),
            inception_score: self.scorer.map(Scorer::finish).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frechet_distance, inception_score};

    #[test]
    fn all_parts_are_measured_and_the_number_is_held() {
        let said = |first: usize, count: usize| Activations {
            features: (0..count * 64).map(|i| ((first * 64 + i) as f32 * 0.1).sin()).collect(),
            spatial: Some((0..count * 5).map(|i| (first * 5 + i) as f32).collect()),
            logits: Some((0..count * 3).map(|i| ((first * 3 + i) as f32).cos()).collect()),
        };
        let mut meter = Meter::new(Dims::D64, 20);
        meter.add(&said(0, 7)).unwrap();
        meter.add(&said(7, 13)).unwrap();
        let measured = meter.finish().unwrap();
        assert_eq!((measured.moments.dims(), measured.moments.count()), (64, Some(20)));
        assert_eq!(measured.spatial.unwrap().mean()[0], 47.5);
        let (of_all, sample) = (said(0, 20), measured.sample.unwrap());
        assert_eq!(sample.values(), &of_all.features[..]);
        // Added in other batches, their sums are rounded otherwise.
        let distance = frechet_distance(&sample.moments().unwrap(), &measured.moments).unwrap().distance;
        assert!(distance.abs() < 1e-9, "{distance}");
        let logits = of_all.logits.unwrap();
        assert_eq!(inception_score(&logits, 3, SPLITS, SEED).unwrap(), measured.inception_score.unwrap());
        assert_eq!(measured.inception_score.unwrap().splits, 10);
        assert!(
            inception_score(&logits, 7, SPLITS, SEED).unwrap_err().to_string().contains("a multiple of 7")
        );
        let mut few = Meter::new(Dims::D64, 19);
        few.add(&said(0, 19)).unwrap();
        assert_eq!(few.finish().unwrap().inception_score, None);
        let mut short = Meter::new(Dims::D64, 3);
        short.add(&Activations { logits: None, ..said(0, 2) }).unwrap();
        assert!(short.finish().is_err());
        let mut partly = Meter::new(Dims::D64, 3);
        partly.add(&Activations { logits: None, ..said(0, 2) }).unwrap();
        partly.add(&Activations { spatial: None, logits: None, ..said(2, 1) }).unwrap();
        let error = partly.finish().unwrap_err().to_string();
        assert_eq!(error, "pictures with spatial features: expected 3, got 2");
        let mut cut = said(0, 2);
        cut.features.pop();
        let error = Meter::new(Dims::D64, 2).add(&cut).unwrap_err().to_string();
        assert_eq!(error, "features: expected a multiple of 64 values, got 127");
        for part in 0..3 {
            let mut odd = said(0, 20);
            let parts = [Some(&mut odd.features), odd.spatial.as_mut(), odd.logits.as_mut()];
            parts.into_iter().flatten().nth(part).unwrap()[7] = f32::NAN;
            let error = Meter::new(Dims::D64, 20).add(&odd).unwrap_err().to_string();
            assert!(error.ends_with("expected finite numbers, got NaN"), "{error}");
        }
    }

    /// `eval-fid --model` gives classes in turn, a folder of those samples gives them sorted.
    #[test]
    fn the_score_is_that_of_the_same_pictures_in_another_order() {
        let score = |class_of: &dyn Fn(usize) -> usize| {
            let logits = (0..400).flat_map(|i| (0..4).map(move |c| (i, c)));
            let logits = logits.map(|(i, c)| if class_of(i) == c { 30.0 } else { 0.0 }).collect();
            let mut meter = Meter::new(Dims::D64, 400);
            let features = vec![0.0; 400 * 64];
            meter.add(&Activations { features, spatial: None, logits: Some(logits) }).unwrap();
            meter.finish().unwrap().inception_score.unwrap().mean
        };
        let (in_turn, sorted) = (score(&|i| i % 4), score(&|i| i / 100));
        assert!(in_turn > 3.7 && (in_turn / sorted - 1.0).abs() < 0.03, "{in_turn} {sorted}");
    }
}
