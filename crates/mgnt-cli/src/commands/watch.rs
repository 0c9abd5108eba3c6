//! Progress on standard error, and a clean stop on Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use mgnt_train::Event;

/// A bar that counts; hidden where standard error is no terminal.
pub fn bar(total: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total as u64).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {elapsed} (left {eta})") {
        bar.set_style(style);
    }
    bar
}

/// A flag that the first Ctrl-C sets; a second one exits at once.
pub fn stop_on_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping after this step; again to stop at once");
    })?;
    Ok(stop)
}

/// One line a log event.
pub fn print_event(event: &Event) {
    let mut line = format!("step {}/{}", event.step, event.steps);
    for (name, value) in &event.figures {
        line += &format!("  {name} {value:.4}");
    }
    if let (Some(rate), Some(seconds)) = (event.learning_rate, event.seconds_a_step) {
        let left = seconds * (event.steps - event.step) as f64;
        line += &format!("  rate {rate:.2e}  {seconds:.2} s/step  left {:.0} min", left / 60.0);
    }
    eprintln!("{line}");
}
