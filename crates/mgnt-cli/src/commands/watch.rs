//! Progress on standard error, and a clean stop on Ctrl-C.

use indicatif::{ProgressBar, ProgressStyle};
use mgnt_train::{Event, Interrupter, Line};

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
        eprintln!("stopping after this step; again to stop at once");
    })?;
    Ok(stop)
}

/// One line an event, on standard error.
pub fn print_event(event: &Event) {
    match event {
        Event::Trained(line) | Event::Validated(line) => print_line(line),
        Event::Warning(warning) => eprintln!("warning: {warning}"),
        Event::Started { step: 0, .. } | Event::Saved { .. } => (),
        Event::Started { step, steps, .. } => eprintln!("going on after step {step} of {steps}"),
        Event::Best { step, score } => eprintln!("step {step}: the best so far, {score:.4}"),
    }
}

fn print_line(line: &Line) {
    let mut text = format!("step {}/{}", line.step, line.steps);
    for (name, value) in &line.figures {
        text += &format!("  {name} {value:.4}");
    }
    if let (Some(rate), Some(seconds)) = (line.learning_rate, line.seconds_a_step) {
        let left = seconds * (line.steps - line.step) as f64;
        text += &format!("  rate {rate:.2e}  {seconds:.2} s/step  left {:.0} min", left / 60.0);
    }
    eprintln!("{text}");
}
