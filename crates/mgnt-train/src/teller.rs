//! Tells the watcher and the logs what happens in the loop.

use std::any::Any;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::checkpoint::Checkpoints;
use crate::event::{Event, Line, Warning, Watcher};
use crate::log::JsonLines;
use crate::task::Figures;
use crate::{Error, Optimization};

/// Tells the watcher and the logs.
pub(crate) struct Teller<M> {
    watcher: Box<dyn Watcher<M>>,
    /// What the watcher panicked with on the thread of Burn's metrics, where nobody would hear of it.
    panicked: Option<Box<dyn Any + Send>>,
    metrics: JsonLines,
    skips: JsonLines,
    /// Steps done.
    step: usize,
    steps: usize,
    log_every: usize,
    tokens_a_step: usize,
    /// Since the last line.
    clock: Instant,
    /// Steps since the last line.
    counted: usize,
}

impl<M> Teller<M> {
    /// Goes on with the logs after `step` steps: lines of later ones, whose work was lost, are dropped.
    pub fn new(
        out: &Path,
        step: usize,
        optimization: &Optimization,
        tokens_a_step: usize,
        watcher: Box<dyn Watcher<M>>,
    ) -> Result<Self, Error> {
        let metrics = JsonLines::open(&out.join("metrics.jsonl"), |line| line <= step)?;
        let skips = JsonLines::open(&out.join("skipped.jsonl"), |line| line <= step)?;
        let Optimization { steps, log_every, .. } = *optimization;
        let clock = Instant::now();
        Ok(Self {
            watcher,
            panicked: None,
            metrics,
            skips,
            step,
            steps,
            log_every,
            tokens_a_step,
            clock,
            counted: 0,
        })
    }

    pub fn event(&mut self, event: &Event) {
        self.watcher.event(event);
    }

    /// A step is done; every [`log_every`](Optimization::log_every) steps and the last are told.
    pub fn trained(&mut self, rate: f64, figures: Figures) {
        self.step += 1;
        self.counted += 1;
        if !self.step.is_multiple_of(self.log_every) && self.step != self.steps {
            return;
        }
        let seconds = self.clock.elapsed().as_secs_f64() / self.counted.max(1) as f64;
        let line = Line {
            learning_rate: Some(rate),
            seconds_a_step: Some(seconds),
            tokens_a_second: Some(self.tokens_a_step as f64 / seconds),
            ..self.line(figures)
        };
        self.log(&line);
        self.tell(&Event::Trained(line));
    }

    pub fn validated(&mut self, figures: Figures) {
        let figures = figures.into_iter().map(|(name, value)| (format!("validation_{name}"), value));
        let line = self.line(figures.collect());
        self.log(&line);
        self.tell(&Event::Validated(line));
    }

    /// Tells what comes from the thread of Burn's metrics. That has to outlive a panic: the loop waits for its answers, for ever if
    /// it is gone.
    fn tell(&mut self, event: &Event) {
        if self.panicked.is_none() {
            let told = panic::catch_unwind(AssertUnwindSafe(|| self.watcher.event(event)));
            self.panicked = told.err();
        }
    }

    /// What the watcher panicked with since this was asked, for the loop to go on with.
    pub fn panicked(&mut self) -> Option<Box<dyn Any + Send>> {
        self.panicked.take()
    }

    fn line(&mut self, figures: Figures) -> Line {
        (self.clock, self.counted) = (Instant::now(), 0);
        Line {
            step: self.step,
            steps: self.steps,
            time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64()),
            learning_rate: None,
            seconds_a_step: None,
            tokens_a_second: None,
            memory: held_bytes(),
            figures: figures.into_iter().collect(),
        }
    }

    fn log(&mut self, line: &Line) {
        if let Err(error) = self.metrics.write(line) {
            self.tell(&Event::Warning(Warning::NotLogged { reason: error.to_string() }));
        }
    }

    /// A step, the first of which is 1, changed nothing.
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

    pub fn not_saved(
        &mut self,
        what: &'static str,
        step: usize,
        error: Error,
        checkpoints: &Checkpoints,
    ) -> Result<(), Error> {
        let (steps, newest) = (self.steps, checkpoints.newest()?);
        self.warn(Warning::NotSaved { what, step, steps, reason: error.to_string(), newest });
        Ok(())
    }

    pub fn draw(&mut self, step: usize, average: &M) {
        let begins = Instant::now();
        if let Err(error) = self.watcher.draw(step, average) {
            self.warn(Warning::NotDrawn { step, reason: error.to_string() });
        }
        self.leave_out(begins.elapsed());
    }

    /// Time that just went by is none of the steps'.
    pub fn leave_out(&mut self, time: Duration) {
        self.clock += time;
    }

    fn warn(&mut self, warning: Warning) {
        self.watcher.event(&Event::Warning(warning));
    }
}

/// Memory that the process holds, where the system tells.
fn held_bytes() -> Option<u64> {
    held(&fs::read_to_string("/proc/self/status").ok()?)
}

/// What a status of Linux says is held: without pages of mapped files, which the system takes back as it needs, where that
/// is told apart.
fn held(status: &str) -> Option<u64> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    let own = bytes("RssAnon").zip(bytes("RssShmem")).map(|(own, shared)| own + shared);
    own.or_else(|| bytes("VmRSS"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::optimizer::tests::optimization;

    /// Takes long to draw.
    struct Painter(mpsc::Sender<Event>);

    impl Watcher<()> for Painter {
        fn event(&mut self, event: &Event) {
            self.0.send(event.clone()).unwrap();
        }

        fn draw(&mut self, _: usize, (): &()) -> Result<(), Error> {
            thread::sleep(Duration::from_secs(1));
            Ok(())
        }
    }

    #[test]
    fn drawing_is_no_time_of_steps() {
        let folder = tempfile::tempdir().unwrap();
        let (tell, told) = mpsc::channel();
        let optimization = Optimization { log_every: 1, ..optimization() };
        let mut teller = Teller::new(folder.path(), 0, &optimization, 1, Box::new(Painter(tell))).unwrap();
        teller.draw(0, &());
        teller.trained(0.1, vec![]);
        let Event::Trained(line) = told.recv().unwrap() else { panic!("no step is told") };
        assert!(line.seconds_a_step.unwrap() < 0.5, "{line:?}");
    }

    #[test]
    fn mapped_files_are_not_held() {
        let rss = "Name:\tmgnt\nVmHWM:\t    9 kB\nVmRSS:\t    8 kB\n";
        let apart = format!("{rss}RssAnon:\t    3 kB\nRssFile:\t    4 kB\nRssShmem:\t    1 kB\n");
        assert_eq!((held(&apart), held(rss), held("Name:\tmgnt\n")), (Some(4096), Some(8192), None));
    }
}
