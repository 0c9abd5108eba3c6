use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Scale w of classifier-free guidance, `l = (1 + w) l_cond - w l_uncond`, over the iterations.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guidance {
    /// None: one copy of the batch only.
    #[default]
    Off,
    /// The same in every iteration.
    Constant(f64),
    /// From 0 at the first iteration to the scale at the last.
    Linear(f64),
    /// `w (1 - cos(pi r)) / 2`.
    Cosine(f64),
    /// `w (1 - cos(pi r^power)) / 2`.
    PowerCosine {
        /// The scale at the last iteration.
        scale: f64,
        /// The power of r.
        power: f64,
    },
    /// The scale within a part of the iterations, none outside.
    Interval {
        /// The scale within.
        scale: f64,
        /// First share of the iterations, from 0.
        from: f64,
        /// Last share, up to 1.
        to: f64,
    },
}

impl Guidance {
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let (scale, others) = match *self {
            Self::Off => return Ok(()),
            Self::Constant(scale) | Self::Linear(scale) | Self::Cosine(scale) => (scale, [0.0; 2]),
            Self::PowerCosine { scale, power } => (scale, [power, 0.0]),
            Self::Interval { scale, from, to } => (scale, [from, to]),
        };
        if !(0.0..=1000.0).contains(&scale) {
            return Err(Error::field("guidance", "a scale from 0 to 1000", scale));
        }
        if let Some(value) = others.into_iter().find(|v| !(v.is_finite() && *v >= 0.0)) {
            return Err(Error::field("guidance", "numbers that are not negative", value));
        }
        Ok(())
    }

    /// The scale in iteration `i` of `k`.
    pub(crate) fn scale(&self, i: usize, k: usize) -> f64 {
        let r = if k > 1 { i as f64 / (k - 1) as f64 } else { 1.0 };
        match *self {
            Self::Off => 0.0,
            Self::Constant(scale) => scale,
            Self::Linear(scale) => scale * r,
            Self::Cosine(scale) => scale * (1.0 - (PI * r).cos()) / 2.0,
            Self::PowerCosine { scale, power } => scale * (1.0 - (PI * r.powf(power)).cos()) / 2.0,
            Self::Interval { scale, from, to } => {
                if (from..=to).contains(&r) {
                    scale
                } else {
                    0.0
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramps() {
        assert_eq!(Guidance::Constant(2.0).scale(0, 12), 2.0);
        assert_eq!((Guidance::Linear(3.0).scale(0, 4), Guidance::Linear(3.0).scale(3, 4)), (0.0, 3.0));
        assert!((Guidance::Cosine(2.0).scale(1, 3) - 1.0).abs() < 1e-12);
        let power = Guidance::PowerCosine { scale: 2.0, power: 2.0 };
        assert!((power.scale(1, 3) - (1.0 - (PI / 4.0).cos())).abs() < 1e-12);
        let interval = Guidance::Interval { scale: 1.5, from: 0.4, to: 0.6 };
        assert_eq!([0, 2, 4].map(|i| interval.scale(i, 5)), [0.0, 1.5, 0.0]);
    }

    #[test]
    fn scales_that_cannot_be() {
        assert!(Guidance::Constant(-1.0).validate().is_err());
        assert!(Guidance::Linear(f64::NAN).validate().is_err());
        assert!(Guidance::PowerCosine { scale: 1.0, power: -2.0 }.validate().is_err());
        assert!(Guidance::Cosine(3.0).validate().is_ok());
    }
}
