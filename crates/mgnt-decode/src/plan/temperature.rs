use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::guidance::check_count;
use crate::Error;

/// Temperature at which tokens are drawn, over the iterations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TokenTemperature {
    /// The same in every iteration.
    Constant(f64),
    /// `end + span (1 - r)`, r the share of iterations done; 0.5 and 0.8 in ELT.
    Ramp {
        /// At the last iteration.
        end: f64,
        /// What is added at the start.
        span: f64,
    },
    /// A temperature for each iteration.
    Explicit(Vec<f64>),
}

/// Factor of the Gumbel noise on the confidence, over the iterations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChoiceTemperature {
    /// `start (1 - r)`: none is left at the last iteration; 4.5 in MaskGIT.
    Linear(f64),
    /// A factor for each iteration.
    Explicit(Vec<f64>),
}

impl Default for TokenTemperature {
    fn default() -> Self {
        Self::Constant(1.0)
    }
}

impl Default for ChoiceTemperature {
    fn default() -> Self {
        Self::Linear(4.5)
    }
}

impl TokenTemperature {
    /// ELT's ramp, which goes with a choice temperature of 0.
    pub fn elt() -> Self {
        Self::Ramp { end: 0.5, span: 0.8 }
    }

    pub(crate) fn validate(&self, iterations: usize) -> Result<(), Error> {
        let values = match self {
            Self::Constant(t) => vec![*t],
            Self::Ramp { end, span } => vec![*end, end + span],
            Self::Explicit(values) => {
                check_count("token temperature", values, iterations)?;
                values.clone()
            }
        };
        // Draws are made in f32: colder, the quotient would overflow. So cold, only the best code is ever drawn.
        match values.into_iter().find(|t| !(t.is_finite() && *t >= 1e-30)) {
            Some(wrong) => Err(Error::field("token temperature", "a number of at least 1e-30", wrong)),
            None => Ok(()),
        }
    }

    /// The temperature in iteration `i`, after which the share `r` of the iterations is done.
    pub(crate) fn at(&self, i: usize, r: f64) -> f64 {
        match self {
            Self::Constant(t) => *t,
            Self::Ramp { end, span } => end + span * (1.0 - r),
            Self::Explicit(values) => values.get(i).copied().unwrap_or(1.0),
        }
    }
}

impl ChoiceTemperature {
    pub(crate) fn validate(&self, iterations: usize) -> Result<(), Error> {
        let values = match self {
            Self::Linear(start) => vec![*start],
            Self::Explicit(values) => {
                check_count("choice temperature", values, iterations)?;
                values.clone()
            }
        };
        match values.into_iter().find(|t| !(t.is_finite() && *t >= 0.0)) {
            Some(wrong) => Err(Error::field("choice temperature", "a number that is not negative", wrong)),
            None => Ok(()),
        }
    }

    /// The factor in iteration `i`, after which the share `r` of the iterations is done.
    pub(crate) fn at(&self, i: usize, r: f64) -> f64 {
        match self {
            Self::Linear(start) => start * (1.0 - r),
            Self::Explicit(values) => values.get(i).copied().unwrap_or(0.0),
        }
    }
}

/// A temperature as a person writes it: a number, `elt`, or a list of one an iteration.
impl FromStr for TokenTemperature {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |word: &str| -> Result<f64, Error> {
            let wrong = || Error::field("token temperature", "a number, `elt` or a list of numbers", word);
            word.trim().parse().map_err(|_| wrong())
        };
        match text {
            "elt" => Ok(Self::elt()),
            list if list.contains(',') => {
                Ok(Self::Explicit(list.split(',').map(number).collect::<Result<_, _>>()?))
            }
            word => Ok(Self::Constant(number(word)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramp_and_what_cannot_be() {
        let ramp = TokenTemperature::elt();
        assert!((ramp.at(0, 0.25) - 1.1).abs() < 1e-12);
        assert!(ramp.validate(4).is_ok());
        for wrong in [0.0, 1e-40, -1.0, f64::NAN, f64::INFINITY] {
            assert!(TokenTemperature::Constant(wrong).validate(4).is_err());
        }
        assert!(TokenTemperature::Ramp { end: 0.5, span: -0.5 }.validate(4).is_err());
        assert!(TokenTemperature::Explicit(vec![1.0; 3]).validate(4).is_err());
    }

    #[test]
    fn choice_noise_ends_at_zero() {
        let linear = ChoiceTemperature::default();
        assert_eq!((linear.at(0, 0.5), linear.at(1, 1.0)), (2.25, 0.0));
        assert!(ChoiceTemperature::Linear(-1.0).validate(2).is_err());
        assert!(ChoiceTemperature::Explicit(vec![1.0, f64::NAN]).validate(2).is_err());
        assert_eq!(ChoiceTemperature::Explicit(vec![3.0, 1.0]).at(1, 1.0), 1.0);
    }

    #[test]
    fn what_people_write() {
        assert_eq!("0.9".parse::<TokenTemperature>().unwrap(), TokenTemperature::Constant(0.9));
        assert_eq!("elt".parse::<TokenTemperature>().unwrap(), TokenTemperature::elt());
        assert_eq!("1,0.5".parse::<TokenTemperature>().unwrap(), TokenTemperature::Explicit(vec![1.0, 0.5]));
        assert!("warm".parse::<TokenTemperature>().is_err());
    }
}
