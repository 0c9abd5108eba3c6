use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// The downscaling factor p of each iteration, written `8x3,4x3,2x3,1x3` or `8,8,4,1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelSchedule(Vec<usize>);

impl ModelSchedule {
    /// The same factor in every iteration.
    pub fn constant(p: usize, iterations: usize) -> Self {
        Self(vec![p; iterations])
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
        let number = |word: &str| -> Result<usize, Error> {
            match word.trim().parse() {
                Ok(n) if (1..=1024).contains(&n) => Ok(n),
                _ => Err(wrong(format!("`{word}` is not a number from 1 to 1024"))),
            }
        };
        let mut factors = Vec::new();
        for part in text.split(',') {
            let (p, times) = match part.split_once('x') {
                Some((p, times)) => (number(p)?, number(times)?),
                None => (number(part)?, 1),
            };
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
    use super::*;

    #[test]
    fn what_people_write() {
        let parse = |text: &str| text.parse::<ModelSchedule>();
        assert_eq!(parse("8x2,4,1x2").unwrap().factors(), [8, 8, 4, 1, 1]);
        assert_eq!(parse("8, 8, 1").unwrap().to_string(), "8x2,1x1");
        for wrong in ["", "8x", "x3", "8x0", "0x3", "-1", "8x3;4x3", "8x3,", "1x99999999999"] {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
        }
    }
}
