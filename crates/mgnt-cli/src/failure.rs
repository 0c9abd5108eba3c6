//! Exit codes: 1 where the work failed, 2 where the command was used wrongly; and what to say of a panic.

use std::any::Any;
use std::fmt;

/// An error of the user's words, not of the work.
#[derive(Debug)]
struct BadUse(String);

impl fmt::Display for BadUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUse {}

/// Lets a write beyond a limit on the size of files (`ulimit -f`) be an error, as it is on a full disk: else the system ends the process,
/// without a word.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn take_limits_as_errors() {
    // SAFETY: to ignore a signal installs no code that it would run.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Other systems do as they do.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn take_limits_as_errors() {}

/// An error that exits with 2.
pub fn bad_use(message: impl Into<String>) -> anyhow::Error {
    BadUse(message.into()).into()
}

/// The exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<BadUse>() { 2 } else { 1 }
}

/// What was panicked with, where that is text.
pub fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

/// Whether a panic is that of `println!` where nobody reads any more.
pub fn is_of_a_reader_that_left(panic: &str) -> bool {
    panic.starts_with("failed printing to stdout") && panic.contains("Broken pipe")
}

/// A panic's text in one line.
///
/// Burn panics where a device fails (a kernel that its driver refuses, memory that ran out), and says why in a tree of
/// causes: the first of its lines says what was asked for, the last what went wrong.
pub fn one_line(panic: &str) -> String {
    const FRAME: [&str; 5] = ["Caused by", "Backtrace", "No backtrace", "Asked at", "Several failures"];
    let mut lines = panic.lines().map(str::trim).filter(|line| {
        // Work that was left out because of the failure is listed too.
        !line.is_empty()
            && !FRAME.iter().any(|frame| line.starts_with(frame))
            && !line.starts_with("skipped `")
            && !line.starts_with('(')
    });
    let first = lines.next().unwrap_or("no reason given");
    match lines.next_back() {
        Some(last) => format!("{}: {last}", first.trim_end_matches(':')),
        None => first.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_one_line() {
        assert_eq!(one_line("index out of bounds"), "index out of bounds");
        assert_eq!(one_line(""), "no reason given");
        let tree = "Error while reading data: An error happened during execution\nCaused by:\n  Several failures at once\n\
                    Caused by:\n  skipped `CastElement`: it needed memory\n  (235 older skip record(s) were dropped)\n\
                    Caused by:\n  Unable to load the PTX\nBacktrace:\nNo backtrace available\nAsked at:\n";
        assert_eq!(
            one_line(tree),
            "Error while reading data: An error happened during execution: Unable to load the PTX"
        );
    }

    #[test]
    fn what_was_panicked_with_may_be_anything() {
        assert_eq!(text_of(&"text"), "text");
        assert_eq!(text_of(&format!("{} {}", 1, 2)), "1 2");
        assert_eq!(text_of(&3), "no reason given");
    }
}
