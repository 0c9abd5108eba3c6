use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Iterations of a strategy, at most.
pub(crate) const MOST_ITERATIONS: usize = u16::MAX as usize;
/// The largest factor that a model can have: that of its hidden units.
const LARGEST_FACTOR: usize = 1 << 20;

/// The downscaling factor p of each iteration, written `8x3,4x3,2x3,1x3` or `8,8,4,1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelSchedule(Vec<usize>);

impl ModelSchedule {
    /// The same factor in every iteration.
    pub fn constant(p: usize, iterations: usize) -> Self {
        Self(vec![p; iterations])
    }

    /// These factors, one an iteration.
    pub fn from_factors(factors: Vec<usize>) -> Self {
        Self(factors)
    }

    /// The smallest sub-model first and the full one last, an equal share of the iterations each; where they do not
    /// divide evenly, smaller sub-models run once more. In fewer iterations than sub-models the largest run, so that the
    /// full one is always the last. `sub_models` are the model's factors.
    pub fn growing(sub_models: &[usize], iterations: usize) -> Self {
        let mut factors = Self::shrinking(sub_models, iterations).0;
        factors.reverse();
        Self(factors)
    }

    /// The reverse of [`Self::growing`].
    pub fn shrinking(sub_models: &[usize], iterations: usize) -> Self {
        let mut sizes = sub_models.to_vec();
        sizes.sort_unstable();
        sizes.truncate(iterations);
        let count = sizes.len().max(1);
        let each = |(i, &p): (usize, &usize)| {
            let more = usize::from(i >= count - iterations % count);
            std::iter::repeat_n(p, iterations / count + more)
        };
        Self(sizes.iter().enumerate().flat_map(each).collect())
    }

    /// The factors, one an iteration.
    pub fn factors(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for ModelSchedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: String| Error::Schedule { text: text.into(), reason };
        let number = |word: &str, most: usize| -> Result<usize, Error> {
            match word.trim().parse() {
                Ok(n) if (1..=most).contains(&n) => Ok(n),
                _ => Err(wrong(format!("`{word}` is not a number from 1 to {most}"))),
            }
        };
        if ["growing", "shrinking"].contains(&text) {
            return Err(wrong(
                "it depends on the model: write the list that it is, as `8x3,4x3,2x3,1x3`".into(),
            ));
        }
        let mut factors = Vec::new();
        for part in text.split(',') {
            let (p, times) = match part.split_once('x') {
                Some((p, times)) => (number(p, LARGEST_FACTOR)?, number(times, MOST_ITERATIONS)?),
                None => (number(part, LARGEST_FACTOR)?, 1),
            };
            if factors.len() + times > MOST_ITERATIONS {
                return Err(wrong(format!("more than {MOST_ITERATIONS} iterations")));
            }
            factors.extend(std::iter::repeat_n(p, times));
        }
        Ok(Self(factors))
    }
}

impl TryFrom<String> for ModelSchedule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ModelSchedule> for String {
    fn from(schedule: ModelSchedule) -> Self {
        schedule.to_string()
    }
}

impl fmt::Display for ModelSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, run) in self.0.chunk_by(|a, b| a == b).enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}x{}", run[0], run.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use mgnt_model::{ModelConfig, Nesting, Preset};

    use super::*;
    use crate::Strategy;

    #[test]
    fn presets() {
        let growing = |iterations| ModelSchedule::growing(&[1, 2, 4, 8], iterations).to_string();
        assert_eq!(growing(12), "8x3,4x3,2x3,1x3");
        assert_eq!(growing(10), "8x3,4x3,2x2,1x2");
        assert_eq!([1, 2, 3, 5].map(growing), ["1x1", "2x1,1x1", "4x1,2x1,1x1", "8x2,4x1,2x1,1x1"]);
        assert_eq!(ModelSchedule::shrinking(&[8, 1, 4, 2], 2).to_string(), "1x1,2x1");
        assert_eq!(growing(0), "");
        assert_eq!(ModelSchedule::shrinking(&[1, 2, 4], 6).to_string(), "1x2,2x2,4x2");
        assert_eq!(ModelSchedule::growing(&[1], 5), ModelSchedule::constant(1, 5));
    }

    #[test]
    fn what_people_write() {
        let parse = |text: &str| text.parse::<ModelSchedule>();
        assert_eq!(parse("8x2,4,1x2").unwrap().factors(), [8, 8, 4, 1, 1]);
        assert_eq!(parse("8, 8, 1").unwrap().to_string(), "8x2,1x1");
        for wrong in [
            "",
            "8x",
            "x3",
            "8x0",
            "0x3",
            "-1",
            "8x3;4x3",
            "8x3,",
            "1x99999999999",
            "1048577",
            "1x65536",
            "1x65535,2",
        ] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
        let error = parse("growing").unwrap_err().to_string();
        assert!(error.contains("depends on the model"), "{error}");
    }

    #[test]
    fn what_a_plan_takes_is_read_back() {
        let sub_models = vec![1, 2048, 1 << 20];
        let config = ModelConfig {
            width: 8,
            heads: 1,
            hidden: 1 << 20,
            tokens: 1 << 17,
            sub_models: sub_models.clone(),
            nesting: Nesting::Hidden,
            ..ModelConfig::preset(Preset::B)
        };
        config.validate().unwrap();
        for iterations in [1, 3, 1025, 2000, MOST_ITERATIONS, MOST_ITERATIONS + 1] {
            let models = ModelSchedule::growing(&sub_models, iterations);
            let is_taken = Strategy::new(models.clone()).plan(&config).is_ok();
            assert_eq!(is_taken, iterations <= MOST_ITERATIONS, "{iterations}");
            assert_eq!(models.to_string().parse().ok(), is_taken.then_some(models), "{iterations}");
        }
    }
}
