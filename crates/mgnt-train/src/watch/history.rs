use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Error;

/// The log of a run, by figure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    steps: usize,
    done: usize,
    figures: BTreeMap<String, Vec<(usize, f64)>>,
}

impl History {
    /// Reads `metrics.jsonl` of a run's folder. A last line that a kill cut short is left out, and so is a figure
    /// that was no number at its step.
    pub fn read(run: &Path) -> Result<Self, Error> {
        let path = run.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(mgnt_weights::Error::io(&path))?;
        let mut history = Self::default();
        let lines = text.lines().count();
        for (number, line) in text.lines().enumerate() {
            let fields = match serde_json::from_str::<serde_json::Map<String, Value>>(line) {
                Ok(fields) => fields,
                Err(_) if number + 1 == lines && !text.ends_with('\n') => break,
                Err(error) => return Err(Error::run(&path, format!("line {}: {error}", number + 1))),
            };
            let count = |name: &str| fields.get(name).and_then(Value::as_u64).map(|n| n as usize);
            let (Some(step), Some(steps)) = (count("step"), count("steps")) else {
                return Err(Error::run(&path, format!("line {}: no step, or no steps", number + 1)));
            };
            (history.done, history.steps) = (step, steps);
            for (name, value) in fields.iter().filter(|(name, _)| *name != "step" && *name != "steps") {
                if let Some(value) = value.as_f64() {
                    history.figures.entry(name.clone()).or_default().push((step, value));
                }
            }
        }
        Ok(history)
    }

    /// Steps in all.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Steps done, as of the last line.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Names of all figures, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.figures.keys().map(String::as_str)
    }

    /// Step and value of every line that has the figure.
    pub fn figure(&self, name: &str) -> &[(usize, f64)] {
        self.figures.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last value of a figure.
    pub fn last(&self, name: &str) -> Option<f64> {
        self.figure(name).last().map(|point| point.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<History, Error> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("metrics.jsonl"), text).unwrap();
        History::read(folder.path())
    }

    #[test]
    fn figures_come_back_by_name() {
        let history = read(concat!(
            "{\"step\":5,\"steps\":20,\"learning_rate\":0.1,\"loss\":3.5}\n",
            "{\"step\":10,\"steps\":20,\"learning_rate\":0.2,\"loss\":null}\n",
            "{\"step\":10,\"steps\":20,\"validation_loss_p1\":2.5}\n",
            "{\"step\":15,\"ste",
        ))
        .unwrap();
        assert_eq!((history.done(), history.steps()), (10, 20));
        assert_eq!(history.figure("learning_rate"), [(5, 0.1), (10, 0.2)]);
        assert_eq!(history.figure("loss"), [(5, 3.5)]);
        assert_eq!(history.last("validation_loss_p1"), Some(2.5));
        assert_eq!(history.names().collect::<Vec<_>>(), ["learning_rate", "loss", "validation_loss_p1"]);
        assert!(history.figure("nothing").is_empty());
    }

    #[test]
    fn a_damaged_line_is_named() {
        let error = read("{\"step\":5,\"steps\":20}\nnonsense\n{\"step\":6,\"steps\":20}\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(read("{\"loss\":1.0}\n").unwrap_err().to_string().contains("no step"));
    }
}
