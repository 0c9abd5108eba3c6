use std::path::PathBuf;

use crate::DType;

/// What can be wrong with a file of tensors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Not a file of the format that it should be.
    #[error("{path}: not a valid {format} file: {reason}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format's name.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A configuration that does not parse.
    #[error("{path}: {reason}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Line, field and reason.
        reason: String,
    },
    /// A tensor is not there.
    #[error("tensor `{name}` is missing")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape.
    #[error("tensor `{name}`: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The shape that was needed.
        expected: Vec<usize>,
        /// The shape in the file.
        got: Vec<usize>,
    },
    /// A tensor has a type that cannot serve.
    #[error("tensor `{name}`: expected {expected}, got {got:?}")]
    Type {
        /// Its name.
        name: String,
        /// What was needed.
        expected: &'static str,
        /// The type in the file.
        got: DType,
    },
    /// Values and shape do not agree.
    #[error("tensor `{name}`: shape {shape:?} needs {expected} bytes, got {got}")]
    Length {
        /// Its name.
        name: String,
        /// The shape.
        shape: Vec<usize>,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes that were given.
        got: usize,
    },
    /// The tensors of a file are not those of a module; every difference is listed.
    #[error("the tensors do not fit the model:\n{}", .0.join("\n"))]
    Mismatch(
        /// A line for each missing, extra or misshapen tensor.
        Vec<String>,
    ),
}

impl Error {
    /// Wraps an error of the operating system with the path that it is about.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { path, source }
    }
}
