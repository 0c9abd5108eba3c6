//! What stands on the terminal and renews itself: lines that stay come above it, and are not written into it.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::MultiProgress;

/// The bars that are on the screen.
static SHOWN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Bars on the screen, until this is dropped.
pub struct Shown {
    before: Option<MultiProgress>,
}

impl Shown {
    /// Bars that take the place of others, which come back afterwards.
    pub fn new(screen: &MultiProgress) -> Self {
        let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { before: shown.replace(screen.clone()) }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = self.before.take();
    }
}

/// Does it while no bar is drawn.
fn without_bars<T>(write: impl FnOnce() -> T) -> T {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(screen) => screen.suspend(write),
        None => write(),
    }
}

/// A line that stays.
pub fn say_above(line: &str) {
    without_bars(|| tell!("{line}"));
}

/// Standard error, for lines that stay.
pub struct Above;

impl Write for Above {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        without_bars(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use indicatif::ProgressDrawTarget;

    use super::*;

    #[test]
    fn the_bars_of_before_come_back_and_lines_may_be_told_meanwhile() {
        let shows = || SHOWN.lock().unwrap().is_some();
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        let outer = Shown::new(&screen);
        let inner = Shown::new(&screen);
        assert_eq!(Above.write(b"a line that stays\n").unwrap(), 18);
        drop(inner);
        assert!(shows());
        drop(outer);
        assert!(!shows());
        assert_eq!(Above.write(b"and another\n").unwrap(), 12);
    }
}
