use std::path::PathBuf;

/// What can be wrong with a data set.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {reason}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A folder or archive that is not laid out as a folder per class.
    #[error("{path}: {reason}", path = path.display(), reason = printable(reason))]
    Layout {
        /// The folder or archive.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A picture that cannot be used.
    #[error("{}", printable(.0))]
    Picture(String),
    /// Too many files of a data set were rejected.
    #[error(
        "{path}: {rejected} of {total} files were rejected, more than the share {allowed} that is allowed; \
         the first: {first}",
        path = path.display(), first = printable(first)
    )]
    TooManyRejected {
        /// The source.
        path: PathBuf,
        /// Rejected files.
        rejected: usize,
        /// All files.
        total: usize,
        /// The share that is allowed.
        allowed: f64,
        /// The first rejected file and why.
        first: String,
    },
    /// A store that is incomplete, damaged, or of another kind.
    #[error("{path}: {field}: expected {expected}, got {got}", path = path.display(), got = printable(got))]
    Store {
        /// The file.
        path: PathBuf,
        /// The field or tensor.
        field: String,
        /// What was needed.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A value that cannot be.
    #[error("{field}: expected {expected}, got {got}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// Shards of so many items cannot be made, or not be opened later.
    #[error("items a shard: expected {expected}, got {got}")]
    ShardItems {
        /// What would be right.
        expected: String,
        /// What was given.
        got: usize,
    },
    /// An unfinished store that another process is writing.
    #[error("{path}: another process is writing it", path = path.display())]
    Busy {
        /// The folder of the unfinished store.
        path: PathBuf,
    },
    /// An unfinished store of something else.
    #[error(
        "{path}: an unfinished store of another source, with other options or by another version; continue it with those, \
         or remove it",
        path = path.display()
    )]
    OtherPlan {
        /// The folder of the unfinished store.
        path: PathBuf,
    },
    /// Files of tensors.
    #[error(transparent)]
    Weights(#[from] mgnt_weights::Error),
}

/// A text that a file may have chosen, without what would command a terminal or break the line.
pub(crate) fn printable(text: &str) -> String {
    let one = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(one).collect()
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |reason| Error::Io { path, reason }
    }

    pub(crate) fn store(
        path: impl Into<PathBuf>,
        field: impl ToString,
        expected: impl ToString,
        got: impl ToString,
    ) -> Error {
        Error::Store {
            path: path.into(),
            field: field.to_string(),
            expected: expected.to_string(),
            got: got.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_files_text_commands_no_terminal() {
        let reason = "no `\u{1b}[31mred\n`".to_owned();
        let errors = [
            Error::Layout { path: "x".into(), reason: reason.clone() },
            Error::Picture(reason.clone()),
            Error::store("x", "field", "none", &reason),
            Error::TooManyRejected { path: "x".into(), rejected: 1, total: 1, allowed: 0.0, first: reason },
        ];
        for error in errors {
            assert!(error.to_string().ends_with("no `\\u{1b}[31mred\\n`"), "{error}");
        }
    }
}
