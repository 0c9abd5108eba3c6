use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// How many tokens stay masked after each iteration.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskSchedule {
    /// `cos(pi r / 2)` (MaskGIT).
    #[default]
    Cosine,
    /// `1 - r`.
    Linear,
    /// `1 - r^2`.
    Square,
    /// `1 - sqrt(r)`.
    Root,
    /// `2 arccos(r) / pi`.
    Arccos,
    /// `1 - r^a`.
    Power(f64),
    /// Tokens decided in each iteration.
    Counts(Vec<usize>),
}

impl MaskSchedule {
    /// Share that stays masked when the share `r` of the iterations is done.
    pub fn ratio(&self, r: f64) -> Option<f64> {
        use std::f64::consts::FRAC_PI_2;
        Some(match self {
            Self::Cosine => (FRAC_PI_2 * r).cos(),
            Self::Linear => 1.0 - r,
            Self::Square => 1.0 - r * r,
            Self::Root => 1.0 - r.sqrt(),
            Self::Arccos => r.acos() / FRAC_PI_2,
            Self::Power(exponent) => 1.0 - r.powf(*exponent),
            Self::Counts(_) => return None,
        })
    }

    /// Tokens still masked after each of `iterations` iterations on `tokens` masked ones: at least one token is
    /// decided in each iteration, each but the last leaves at least one, and the last decides all.
    pub fn masked_after(&self, tokens: usize, iterations: usize) -> Result<Vec<usize>, Error> {
        if tokens == 0 {
            return Err(Error::field("tokens to decide", "at least one", 0));
        }
        if iterations == 0 || iterations > tokens {
            let expected = format!("1 to {tokens}, the number of tokens to decide");
            return Err(Error::field("iterations", expected, iterations));
        }
        match self {
            Self::Counts(counts) => from_counts(counts, tokens, iterations),
            Self::Power(exponent) if !(exponent.is_finite() && *exponent > 0.0) => {
                Err(Error::field("mask schedule power", "a positive number", exponent))
            }
            _ => {
                let mut before = tokens;
                let mut after = Vec::with_capacity(iterations);
                for i in 0..iterations {
                    // r before the product with pi/2: the other order turns negative at the end for some K.
                    let r = (i + 1) as f64 / iterations as f64;
                    let share = self.ratio(r).unwrap_or(0.0).max(0.0);
                    let left = iterations - 1 - i;
                    // What is left must suffice for one token in each later iteration.
                    before = if left == 0 {
                        0
                    } else {
                        ((tokens as f64 * share) as usize).clamp(left, before - 1)
                    };
                    after.push(before);
                }
                Ok(after)
            }
        }
    }
}

/// A schedule as a person writes it: `cosine`, `linear`, `square`, `root`, `arccos`, `power:a`, or the list of tokens
/// decided in each iteration.
impl FromStr for MaskSchedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::field(
                "mask schedule",
                "cosine, linear, square, root, arccos, power:a or a list of counts",
                text,
            )
        };
        Ok(match text {
            "cosine" => Self::Cosine,
            "linear" => Self::Linear,
            "square" => Self::Square,
            "root" => Self::Root,
            "arccos" => Self::Arccos,
            _ => match text.strip_prefix("power:") {
                Some(power) => Self::Power(power.parse().map_err(|_| wrong())?),
                None => {
                    let counts = text.split(',').map(|word| word.trim().parse());
                    Self::Counts(counts.collect::<Result<_, _>>().map_err(|_| wrong())?)
                }
            },
        })
    }
}

fn from_counts(counts: &[usize], tokens: usize, iterations: usize) -> Result<Vec<usize>, Error> {
    if counts.len() != iterations {
        return Err(Error::field("mask schedule counts", format!("{iterations} of them"), counts.len()));
    }
    if counts.contains(&0) {
        return Err(Error::field("mask schedule counts", "at least one token in each iteration", "0"));
    }
    let sum = counts.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
    if sum != Some(tokens) {
        let got = sum.map_or("more than can be counted".into(), |sum| sum.to_string());
        return Err(Error::field("mask schedule counts", format!("a sum of {tokens}"), got));
    }
    let mut left = tokens;
    Ok(counts
        .iter()
        .map(|count| {
            left -= count;
            left
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn decided(schedule: &MaskSchedule, tokens: usize, iterations: usize) -> Vec<usize> {
        let mut before = tokens;
        let after = schedule.masked_after(tokens, iterations).unwrap();
        after
            .into_iter()
            .map(|after| {
                let count = before - after;
                before = after;
                count
            })
            .collect()
    }

    #[test]
    fn cosine_counts_of_the_specification() {
        assert_eq!(decided(&MaskSchedule::Cosine, 256, 12), [3, 6, 11, 15, 18, 22, 26, 27, 31, 31, 33, 33]);
        assert_eq!(
            decided(&MaskSchedule::Cosine, 1024, 12),
            [9, 26, 43, 60, 74, 88, 101, 111, 121, 126, 132, 133]
        );
    }

    /// The goldens lack our rule that each later iteration keeps a token to decide; both agree wherever the golden
    /// does not run out early.
    #[test]
    fn every_golden_count() {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/sampler/sampler.safetensors");
        let map = mgnt_weights::safetensors::read(&path).unwrap();
        let schedules = [
            ("cosine", MaskSchedule::Cosine),
            ("linear", MaskSchedule::Linear),
            ("square", MaskSchedule::Square),
            ("root", MaskSchedule::Root),
            ("arccos", MaskSchedule::Arccos),
        ];
        let mut compared = 0;
        for (name, tensor) in map.iter() {
            let parts: Vec<&str> = name.split('/').collect();
            let ["schedule", method, n, k, "masked_after"] = parts[..] else { continue };
            let Some((_, schedule)) = schedules.iter().find(|(name, _)| *name == method) else { continue };
            let (n, k): (usize, usize) = (n[1..].parse().unwrap(), k[1..].parse().unwrap());
            let golden: Vec<usize> = tensor.to_i64().unwrap().iter().map(|&v| v as usize).collect();
            let enough = golden.iter().enumerate().all(|(i, &left)| left >= k - 1 - i);
            if k <= n && enough {
                assert_eq!(schedule.masked_after(n, k).unwrap(), golden, "{name}");
                compared += 1;
            }
        }
        assert!(compared > 50, "only {compared} cases compared");
    }

    #[test]
    fn explicit_counts_must_add_up() {
        let counts = |c: &[usize]| MaskSchedule::Counts(c.to_vec()).masked_after(6, 3);
        assert_eq!(counts(&[1, 2, 3]).unwrap(), [5, 3, 0]);
        assert!(counts(&[1, 2]).is_err());
        assert!(counts(&[0, 3, 3]).is_err());
        assert!(counts(&[2, 2, 3]).is_err());
        assert!(counts(&[usize::MAX, 1, 6]).is_err());
        assert!(MaskSchedule::Power(f64::NAN).masked_after(6, 3).is_err());
        assert!(MaskSchedule::Cosine.masked_after(6, 7).is_err());
        assert!(MaskSchedule::Cosine.masked_after(6, 0).is_err());
    }

    #[test]
    fn what_people_write() {
        assert_eq!("arccos".parse::<MaskSchedule>().unwrap(), MaskSchedule::Arccos);
        assert_eq!("power:2.5".parse::<MaskSchedule>().unwrap(), MaskSchedule::Power(2.5));
        assert_eq!("1,2, 3".parse::<MaskSchedule>().unwrap(), MaskSchedule::Counts(vec![1, 2, 3]));
        for wrong in ["", "sine", "power:", "1,-2"] {
            assert!(wrong.parse::<MaskSchedule>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn every_iteration_decides_something(tokens in 1usize..2000, share in 0.0f64..1.0, power in 0.1f64..8.0) {
            let iterations = 1 + ((tokens - 1) as f64 * share) as usize;
            for schedule in [MaskSchedule::Cosine, MaskSchedule::Root, MaskSchedule::Arccos, MaskSchedule::Power(power)] {
                let counts = decided(&schedule, tokens, iterations);
                prop_assert!(counts.iter().all(|&c| c >= 1));
                prop_assert_eq!(counts.iter().sum::<usize>(), tokens);
            }
        }
    }
}
