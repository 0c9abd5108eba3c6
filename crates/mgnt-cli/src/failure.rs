//! Exit codes: 1 where the work failed, 2 where the command was used wrongly.

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

/// An error that exits with 2.
pub fn bad_use(message: impl Into<String>) -> anyhow::Error {
    BadUse(message.into()).into()
}

/// The exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<BadUse>() { 2 } else { 1 }
}
