use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// When keys and values of decided tokens are computed anew. The first iteration, a change of the cache's width, and the
/// border between guided and unguided iterations always refresh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachePolicy {
    /// Every iteration is a refresh.
    Off,
    /// At a change of the sub-model (the paper's).
    #[default]
    AtSizeSwitch,
    /// At a change of the sub-model, and after every so many iterations.
    Every(usize),
    /// At these iterations, 0-based, besides those that must.
    Explicit(Vec<usize>),
}

impl CachePolicy {
    /// Whether the policy asks for a refresh at `iteration`, `since` iterations after the last one.
    pub(crate) fn asks(&self, iteration: usize, since: usize, size_changed: bool) -> bool {
        match self {
            Self::Off => true,
            Self::AtSizeSwitch => size_changed,
            Self::Every(n) => size_changed || since >= *n,
            Self::Explicit(iterations) => iterations.contains(&iteration),
        }
    }
}

/// A policy as a person writes it: `off`, `on` (at a size switch), `every:n`, or a list of iterations.
impl FromStr for CachePolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let number = |word: &str| -> Result<usize, Error> {
            let wrong = || Error::field("cache", "on, off, every:n or a list of iterations", text);
            word.trim().parse().map_err(|_| wrong())
        };
        match text.split_once(':') {
            Some(("every", n)) => Ok(Self::Every(number(n)?)),
            _ if text == "off" => Ok(Self::Off),
            _ if text == "on" => Ok(Self::AtSizeSwitch),
            _ => Ok(Self::Explicit(text.split(',').map(number).collect::<Result<_, _>>()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        let parse = |text: &str| text.parse::<CachePolicy>();
        assert_eq!(parse("on").unwrap(), CachePolicy::AtSizeSwitch);
        assert_eq!(parse("off").unwrap(), CachePolicy::Off);
        assert_eq!(parse("every:3").unwrap(), CachePolicy::Every(3));
        assert_eq!(parse("0,4, 9").unwrap(), CachePolicy::Explicit(vec![0, 4, 9]));
        for wrong in ["", "yes", "every:", "1,x"] {
            assert!(parse(wrong).unwrap_err().to_string().contains("every:n"), "{wrong}");
        }
    }
}
