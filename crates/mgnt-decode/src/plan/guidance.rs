use std::f64::consts::PI;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Scale w of classifier-free guidance, `l = (1 + w) l_cond - w l_uncond`, over the iterations.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
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
    /// A scale for each iteration.
    Explicit(Vec<f64>),
}

/// What stands in the place of the class in the unconditional copy that guidance pushes away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unconditional {
    /// The null class, or the mask token where the vocabulary has none, as published MaskGIT's.
    #[default]
    NullOrMask,
    /// The null class; guidance of a model without one is refused.
    Null,
}

/// `null-or-mask` or `null`.
impl FromStr for Unconditional {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "null-or-mask" => Ok(Self::NullOrMask),
            "null" => Ok(Self::Null),
            _ => Err(Error::field("unconditional", "null-or-mask or null", text)),
        }
    }
}

impl Guidance {
    pub(crate) fn validate(&self, iterations: usize) -> Result<(), Error> {
        let (scales, others) = match self {
            Self::Off => return Ok(()),
            Self::Constant(scale) | Self::Linear(scale) | Self::Cosine(scale) => (vec![*scale], [0.0; 2]),
            Self::PowerCosine { scale, power } => (vec![*scale], [*power, 0.0]),
            Self::Interval { scale, from, to } => (vec![*scale], [*from, *to]),
            Self::Explicit(scales) => {
                check_count("guidance", scales, iterations)?;
                (scales.clone(), [0.0; 2])
            }
        };
        if let Some(scale) = scales.iter().find(|scale| !(0.0..=1000.0).contains(*scale)) {
            return Err(Error::field("guidance", "scales from 0 to 1000", scale));
        }
        if let Some(value) = others.into_iter().find(|v| !(v.is_finite() && *v >= 0.0)) {
            return Err(Error::field("guidance", "numbers that are not negative", value));
        }
        if let Self::Interval { from, to, .. } = self
            && !(from <= to && *to <= 1.0)
        {
            let expected = "shares of the iterations, the first at most the last, which is at most 1";
            return Err(Error::field("guidance interval", expected, format!("{from} to {to}")));
        }
        // Between the shares of two iterations there would be no guidance at all, in silence.
        if let Self::Interval { scale, from, to } = self
            && *scale > 0.0
            && iterations > 0
            && (0..iterations).all(|i| self.scale(i, iterations) == 0.0)
        {
            let expected = match iterations {
                1 => "1, the share of the only iteration, within it".into(),
                _ => format!("a share i / {}, of an iteration i from 0, within it", iterations - 1),
            };
            return Err(Error::field("guidance interval", expected, format!("{from} to {to}")));
        }
        Ok(())
    }

    /// The scale in iteration `i` of `k`.
    pub(crate) fn scale(&self, i: usize, k: usize) -> f64 {
        let r = if k > 1 { i as f64 / (k - 1) as f64 } else { 1.0 };
        match self {
            Self::Off => 0.0,
            Self::Constant(scale) => *scale,
            Self::Linear(scale) => scale * r,
            Self::Cosine(scale) => scale * (1.0 - (PI * r).cos()) / 2.0,
            Self::PowerCosine { scale, power } => scale * (1.0 - (PI * r.powf(*power)).cos()) / 2.0,
            Self::Interval { scale, from, to } => {
                if (*from..=*to).contains(&r) {
                    *scale
                } else {
                    0.0
                }
            }
            Self::Explicit(scales) => scales.get(i).copied().unwrap_or(0.0),
        }
    }
}

/// A ramp as a person writes it: `w`, `linear:w`, `cosine:w`, `power-cosine:w:power`, `interval:w:from:to`, or a
/// list `w,w,…` of one an iteration.
impl FromStr for Guidance {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |word: &str| -> Result<f64, Error> {
            word.trim().parse().map_err(|_| Error::field("guidance", "a number", word))
        };
        let parts: Vec<&str> = text.split(':').collect();
        match parts[..] {
            ["off"] => Ok(Self::Off),
            [list] if list.contains(',') => {
                Ok(Self::Explicit(list.split(',').map(number).collect::<Result<_, _>>()?))
            }
            [scale] => Ok(match number(scale)? {
                0.0 => Self::Off,
                scale => Self::Constant(scale),
            }),
            ["linear", scale] => Ok(Self::Linear(number(scale)?)),
            ["cosine", scale] => Ok(Self::Cosine(number(scale)?)),
            ["power-cosine", scale, power] => {
                Ok(Self::PowerCosine { scale: number(scale)?, power: number(power)? })
            }
            ["interval", scale, from, to] => {
                Ok(Self::Interval { scale: number(scale)?, from: number(from)?, to: number(to)? })
            }
            _ => Err(Error::field(
                "guidance",
                "w, linear:w, cosine:w, power-cosine:w:power, interval:w:from:to or a list",
                text,
            )),
        }
    }
}

/// Checks that a list has a value for each iteration.
pub(super) fn check_count(field: &'static str, values: &[f64], iterations: usize) -> Result<(), Error> {
    if values.len() == iterations {
        return Ok(());
    }
    Err(Error::field(field, format!("{iterations} values, one an iteration"), values.len()))
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
        assert!(Guidance::Constant(-1.0).validate(4).is_err());
        assert!(Guidance::Linear(f64::NAN).validate(4).is_err());
        assert!(Guidance::PowerCosine { scale: 1.0, power: -2.0 }.validate(4).is_err());
        assert!(Guidance::Cosine(3.0).validate(4).is_ok());
        for (from, to, right) in [(0.2, 0.8, true), (1.0, 1.0, true), (0.8, 0.2, false), (0.5, 7.0, false)] {
            assert_eq!(
                Guidance::Interval { scale: 2.0, from, to }.validate(4).is_ok(),
                right,
                "{from} to {to}"
            );
        }
        // The shares of four iterations are 0, 1/3, 2/3 and 1.
        let between = |scale| Guidance::Interval { scale, from: 0.4, to: 0.6 };
        let error = between(2.0).validate(4).unwrap_err().to_string();
        assert_eq!(
            error,
            "guidance interval: expected a share i / 3, of an iteration i from 0, within it, got 0.4 to 0.6"
        );
        assert!(between(2.0).validate(5).is_ok() && between(0.0).validate(4).is_ok());
        // No iterations are refused as that.
        let none = crate::Strategy::baseline(0).with_guidance(between(2.0));
        let error =
            none.plan(&mgnt_model::ModelConfig::preset(mgnt_model::Preset::B)).unwrap_err().to_string();
        assert!(error.starts_with("iterations: expected 1 to"), "{error}");
        assert!(between(2.0).validate(1).unwrap_err().to_string().contains("the only iteration"));
        assert!(Guidance::Explicit(vec![0.0, 1.0, 1.0]).validate(4).is_err());
        assert!(Guidance::Explicit(vec![0.0, 1.0, 1.0, f64::NAN]).validate(4).is_err());
    }

    #[test]
    fn what_people_write() {
        let parse = |text: &str| text.parse::<Guidance>();
        assert_eq!(parse("0").unwrap(), Guidance::Off);
        assert_eq!(parse("1.5").unwrap(), Guidance::Constant(1.5));
        assert_eq!(parse("linear:2").unwrap(), Guidance::Linear(2.0));
        assert_eq!(parse("power-cosine:2:3").unwrap(), Guidance::PowerCosine { scale: 2.0, power: 3.0 });
        assert_eq!(parse("0,1,2").unwrap(), Guidance::Explicit(vec![0.0, 1.0, 2.0]));
        assert_eq!(
            parse("interval:1:0.2:0.8").unwrap(),
            Guidance::Interval { scale: 1.0, from: 0.2, to: 0.8 }
        );
        for wrong in ["", "x", "linear", "linear:x", "spiral:1", "1,,2"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
