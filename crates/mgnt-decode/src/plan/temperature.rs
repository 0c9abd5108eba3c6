use serde::{Deserialize, Serialize};

use crate::Error;

/// Temperature at which tokens are drawn, over the iterations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
}

impl Default for TokenTemperature {
    fn default() -> Self {
        Self::Constant(1.0)
    }
}

impl TokenTemperature {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let lowest = match *self {
            Self::Constant(t) => t,
            Self::Ramp { end, span } => end.min(end + span),
        };
        if lowest.is_finite() && lowest > 0.0 {
            Ok(())
        } else {
            Err(Error::field("token temperature", "a positive number", lowest))
        }
    }

    /// The temperature when the share `r` of the iterations is done.
    pub(crate) fn at(&self, r: f64) -> f64 {
        match *self {
            Self::Constant(t) => t,
            Self::Ramp { end, span } => end + span * (1.0 - r),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramp_and_what_cannot_be() {
        let ramp = TokenTemperature::Ramp { end: 0.5, span: 0.8 };
        assert!((ramp.at(0.25) - 1.1).abs() < 1e-12);
        assert!(ramp.validate().is_ok());
        for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(TokenTemperature::Constant(wrong).validate().is_err());
        }
        assert!(TokenTemperature::Ramp { end: 0.5, span: -0.5 }.validate().is_err());
    }
}
