//! What a run tells while it goes on.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Error;

/// Who looks on while a model of type `M` is trained. The loop itself prints nothing.
///
/// A closure that takes events is one. It is called from threads of Burn's learner, one at a time.
pub trait Watcher<M>: Send {
    /// Hears what happened, in order.
    fn event(&mut self, event: &Event);

    /// Makes samples of the averaged model after `step` steps, every [`draw_every`](crate::Optimization::draw_every)
    /// steps. An error does not stop the run: it comes back as a [`Warning::NotDrawn`].
    fn draw(&mut self, step: usize, average: &M) -> Result<(), Error> {
        let _ = (step, average);
        Ok(())
    }
}

impl<M, F: FnMut(&Event) + Send> Watcher<M> for F {
    fn event(&mut self, event: &Event) {
        self(event);
    }
}

/// What happens in a run.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The run goes on from here.
    Started {
        /// Steps done.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// Samples of a step.
        samples_a_step: usize,
        /// Tokens of a step.
        tokens_a_step: usize,
    },
    /// Figures of training, every [`log_every`](crate::Optimization::log_every) steps.
    Trained(Line),
    /// Figures of the averaged model on data that is not trained on.
    Validated(Line),
    /// A checkpoint is on disk.
    Saved {
        /// Steps done.
        step: usize,
        /// Seconds that writing it took.
        seconds: f64,
    },
    /// `best/` holds the averaged model of this step.
    Best {
        /// Steps done.
        step: usize,
        /// What the task goes by; lower is better.
        score: f64,
    },
    /// The run goes on, but someone should look.
    Warning(Warning),
}

/// What a run survives and a person should know.
#[derive(Debug, Clone, PartialEq)]
pub enum Warning {
    /// Loss or gradient was not finite: the step changed nothing, and its batch is written to `skipped.jsonl`.
    Skipped {
        /// Steps done with this one: the first is 1.
        step: usize,
        /// Its loss.
        loss: f64,
        /// Global norm of its gradient.
        gradient_norm: f64,
        /// Such steps in a row up to this one.
        in_a_row: usize,
        /// So many end the run.
        limit: usize,
    },
    /// A checkpoint or the best model could not be written.
    NotSaved {
        /// Which of them.
        what: &'static str,
        /// Steps done.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// Why.
        reason: String,
        /// Step of the newest checkpoint on disk.
        newest: Option<usize>,
    },
    /// A checkpoint is damaged: it was set aside, and the one before it is taken.
    Damaged {
        /// Where it lies now.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint that is older than those to keep, or what a killed process left of one, could not be removed.
    OlderStays {
        /// Why.
        reason: String,
    },
    /// A line of a log could not be written.
    NotLogged {
        /// Why.
        reason: String,
    },
    /// Samples could not be made.
    NotDrawn {
        /// Steps done.
        step: usize,
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped { step, loss, gradient_norm, in_a_row, limit } => write!(
                f,
                "step {step} is skipped: loss {loss}, gradient norm {gradient_norm} ({in_a_row} in a row, {limit} end \
                 the run)"
            ),
            Self::NotSaved { what, step, steps, reason, newest } => {
                let goes_on = if step < steps { "training goes on, " } else { "" };
                write!(f, "{what} NOT SAVED after {step} steps: {reason}; {goes_on}")?;
                match newest {
                    Some(newest) => write!(f, "the checkpoint of step {newest} stays"),
                    None => write!(f, "there is no checkpoint yet"),
                }
            }
            Self::Damaged { path, reason } => {
                write!(f, "DAMAGED checkpoint set aside as {}: {reason}", path.display())
            }
            Self::OlderStays { reason } => {
                write!(f, "of the checkpoints something that is to be removed stays: {reason}")
            }
            Self::NotLogged { reason } => write!(f, "a line of the log is lost: {reason}"),
            Self::NotDrawn { step, reason } => write!(f, "no samples after {step} steps: {reason}"),
        }
    }
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Seconds since 1970.
    pub time: f64,
    /// Learning rate of the last of the steps; absent in a validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// Seconds a step since the last line; absent in a validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds_a_step: Option<f64>,
    /// Tokens a second since the last line; absent in a validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_a_second: Option<f64>,
    /// Bytes of memory that the process holds, where the system tells; mapped files, as stores are, not among them where it
    /// tells them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Figures by name; those of a validation begin with `validation_`.
    #[serde(flatten, deserialize_with = "figures")]
    pub figures: BTreeMap<String, f64>,
}

/// JSON has no number that is not finite: a figure that was none is `null` in a line, and read as NaN.
fn figures<'de, D: Deserializer<'de>>(line: D) -> Result<BTreeMap<String, f64>, D::Error> {
    let figures = BTreeMap::<String, Option<f64>>::deserialize(line)?;
    Ok(figures.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_back_and_what_was_not_finite_is_nan() {
        let text = r#"{"step":3,"steps":9,"time":0.5,"seconds_a_step":2.0,"loss":null,"loss_p1":2.5}"#;
        let line: Line = serde_json::from_str(text).unwrap();
        assert_eq!((line.step, line.seconds_a_step, line.learning_rate), (3, Some(2.0), None));
        assert!(line.figures["loss"].is_nan());
        assert_eq!(line.figures["loss_p1"], 2.5);
        assert_eq!(serde_json::to_string(&line).unwrap(), text);
    }
}
