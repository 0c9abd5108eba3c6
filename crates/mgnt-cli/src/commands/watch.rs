//! Progress on standard error, and a clean stop on Ctrl-C.

use indicatif::{ProgressBar, ProgressStyle};
use mgnt_train::Interrupter;

/// A bar that counts; hidden where standard error is no terminal.
pub fn bar(total: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total as u64).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed} (left {eta})") {
        bar.set_style(style);
    }
    bar
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
        tell!("stopping after this step; again to stop at once");
    })?;
    Ok(stop)
}
