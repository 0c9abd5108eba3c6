//! Progress on standard error, and a clean stop on Ctrl-C.

use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use mgnt_train::Interrupter;

use crate::output::screen::{Shown, say_above};

/// Counts what is done: in a bar, or where standard error is no terminal in a line now and then.
pub struct Progress {
    bar: ProgressBar,
    lines: Option<Lines>,
    _shown: Shown,
}

impl Progress {
    /// Of so many in all.
    pub fn new(total: usize, what: &'static str) -> Self {
        let screen = MultiProgress::new();
        let shown = Shown::new(&screen);
        let bar = screen.add(ProgressBar::new(total as u64).with_message(what));
        let template = "{msg} {wide_bar} {pos}/{len} {elapsed} (left {eta})";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let lines = bar.is_hidden().then(|| Lines::new(what, total, Instant::now()));
        Self { bar, lines, _shown: shown }
    }

    /// So many more were done before, which says nothing about how fast the rest goes.
    pub fn skip(&mut self, count: usize) {
        self.bar.inc(count as u64);
        self.bar.reset_eta();
        if let Some(lines) = &mut self.lines {
            lines.skipped += count;
        }
    }

    /// So many more are done.
    pub fn add(&mut self, count: usize) {
        self.set(self.bar.position() as usize + count);
    }

    /// So many are done in all.
    pub fn set(&mut self, done: usize) {
        self.bar.set_position(done as u64);
        if let Some(line) = self.lines.as_mut().and_then(|lines| lines.next(done, Instant::now())) {
            tell!("{line}");
        }
    }

    /// All are done.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// Lines in place of a bar.
struct Lines {
    what: &'static str,
    total: usize,
    /// Of what is done, that which was done before.
    skipped: usize,
    start: Instant,
    told: Instant,
}

impl Lines {
    /// There is at most one in this time, and so none of short work.
    const APART: Duration = Duration::from_secs(30);

    fn new(what: &'static str, total: usize, now: Instant) -> Self {
        Self { what, total, skipped: 0, start: now, told: now }
    }

    fn next(&mut self, done: usize, now: Instant) -> Option<String> {
        if done >= self.total || now - self.told < Self::APART {
            return None;
        }
        self.told = now;
        let pace = done.saturating_sub(self.skipped) as f64 / (now - self.start).as_secs_f64();
        Some(format!("{}: {done} of {}, {pace:.2} a second", self.what, self.total))
    }
}

/// What the first Ctrl-C asks to stop; a second one exits at once.
pub fn stop_on_interrupt() -> anyhow::Result<Interrupter> {
    let stop = Interrupter::new();
    let seen = stop.clone();
    ctrlc::set_handler(move || {
        if seen.should_stop() {
            std::process::exit(130);
        }
        seen.stop(None);
        say_above("stopping after this step; again to stop at once");
    })?;
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_tell_the_pace_of_this_run() {
        let start = Instant::now();
        let mut lines = Lines::new("pictures", 1000, start);
        lines.skipped = 400;
        let mut at = |seconds, done| lines.next(done, start + Duration::from_secs(seconds));
        assert_eq!(at(29, 430), None);
        assert_eq!(at(40, 450).unwrap(), "pictures: 450 of 1000, 1.25 a second");
        assert_eq!((at(60, 500), at(69, 510)), (None, None));
        assert_eq!(at(100, 600).unwrap(), "pictures: 600 of 1000, 2.00 a second");
        assert_eq!(at(200, 1000), None, "the command itself tells the end");
    }
}
