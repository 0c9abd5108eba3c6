//! Tells the watcher and the logs what happens in the loop.

use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::Error;
use crate::checkpoint::Checkpoints;
use crate::event::{Event, Line, Warning, Watcher};
use crate::log::JsonLines;
use crate::task::Figures;

/// Tells the watcher and the logs.
pub(crate) struct Teller<'a, M> {
    pub watcher: &'a mut dyn Watcher<M>,
    metrics: JsonLines,
    skips: JsonLines,
    steps: usize,
    tokens_a_step: usize,
    /// Since the last line.
    clock: Instant,
    /// Steps since the last line.
    pub counted: usize,
}

impl<'a, M> Teller<'a, M> {
    /// Goes on with the logs after `done` steps: lines of later ones, whose work was lost, are dropped.
    pub fn new(
        out: &Path,
        done: usize,
        steps: usize,
        tokens_a_step: usize,
        watcher: &'a mut dyn Watcher<M>,
    ) -> Result<Self, Error> {
        let metrics = JsonLines::open(&out.join("metrics.jsonl"), |step| step <= done)?;
        let skips = JsonLines::open(&out.join("skipped.jsonl"), |step| step < done)?;
        Ok(Self { watcher, metrics, skips, steps, tokens_a_step, clock: Instant::now(), counted: 0 })
    }

    pub fn trained(&mut self, step: usize, rate: f64, figures: Figures) {
        let seconds = self.clock.elapsed().as_secs_f64() / self.counted.max(1) as f64;
        let line = Line {
            learning_rate: Some(rate),
            seconds_a_step: Some(seconds),
            tokens_a_second: Some(self.tokens_a_step as f64 / seconds),
            ..self.line(step, figures)
        };
        self.log(&line);
        self.watcher.event(&Event::Trained(line));
    }

    pub fn validated(&mut self, step: usize, figures: Figures) {
        let figures = figures.into_iter().map(|(name, value)| (format!("validation_{name}"), value));
        let line = self.line(step, figures.collect());
        self.log(&line);
        self.watcher.event(&Event::Validated(line));
    }

    fn line(&mut self, step: usize, figures: Figures) -> Line {
        (self.clock, self.counted) = (Instant::now(), 0);
        Line {
            step,
            steps: self.steps,
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
            learning_rate: None,
            seconds_a_step: None,
            tokens_a_second: None,
            memory: resident_bytes(),
            figures: figures.into_iter().collect(),
        }
    }

    fn log(&mut self, line: &Line) {
        if let Err(error) = self.metrics.write(line) {
            self.warn(Warning::NotLogged { reason: error.to_string() });
        }
    }

    pub fn skipped(
        &mut self,
        step: usize,
        loss: f64,
        gradient_norm: f64,
        in_a_row: usize,
        limit: usize,
        items: Vec<usize>,
    ) {
        #[derive(Serialize)]
        struct Skipped {
            step: usize,
            /// As text, since JSON has no infinity.
            loss: String,
            gradient_norm: String,
            items: Vec<usize>,
        }
        let (text, norm) = (loss.to_string(), gradient_norm.to_string());
        if let Err(error) = self.skips.write(&Skipped { step, loss: text, gradient_norm: norm, items }) {
            self.warn(Warning::NotLogged { reason: error.to_string() });
        }
        self.warn(Warning::Skipped { step, loss, gradient_norm, in_a_row, limit });
    }

    pub fn not_saved(&mut self, step: usize, error: Error, checkpoints: &Checkpoints) -> Result<(), Error> {
        let newest = checkpoints.newest()?;
        self.warn(Warning::NotSaved { step, reason: error.to_string(), newest });
        Ok(())
    }

    pub fn draw(&mut self, step: usize, average: &M) {
        if let Err(error) = self.watcher.draw(step, average) {
            self.warn(Warning::NotDrawn { step, reason: error.to_string() });
        }
    }

    fn warn(&mut self, warning: Warning) {
        self.watcher.event(&Event::Warning(warning));
    }
}

/// Memory that the process holds, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
