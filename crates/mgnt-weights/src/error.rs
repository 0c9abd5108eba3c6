use std::path::PathBuf;

use crate::DType;
use crate::limits::shown;

/// What can be wrong with a file of tensors.
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
    /// A place where nothing of the kind can be written.
    #[error("{path}: expected {expected}, got {got}", path = path.display())]
    Place {
        /// The file or folder.
        path: PathBuf,
        /// What may be there.
        expected: &'static str,
        /// What is there.
        got: String,
    },
    /// A lock that is not the one any more that a process holds, so that its folder may be another's.
    #[error("{path}: was removed or replaced, by itself or with its folder; nothing more is written there", path = path.display())]
    Replaced {
        /// The lock's file.
        path: PathBuf,
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
    /// A tensor of a type that we do not have.
    #[error("{path}: tensor `{name}` has the type {got}, which is not read", path = path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// The type in the file.
        got: String,
    },
    /// Dimensions that a tensor does not have, or not all of them.
    #[error("tensor `{name}`: expected each of {rank} dimensions once, got {got:?}")]
    Axes {
        /// Its name.
        name: String,
        /// The number of its dimensions.
        rank: usize,
        /// What was asked for.
        got: Vec<usize>,
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
    /// A tensor has a value that is not finite.
    #[error("tensor `{name}`: expected finite values, got {value}")]
    NotFinite {
        /// Its name.
        name: String,
        /// The first such value.
        value: f32,
    },
    /// A tensor has a finite value that another type cannot hold.
    #[error("tensor `{name}`: {value:e} is beyond what {to:?} can hold")]
    Beyond {
        /// Its name.
        name: String,
        /// The first such value.
        value: f64,
        /// The other type.
        to: DType,
    },
    /// Another error, of a file or folder.
    #[error("{path}: {error}", path = path.display())]
    At {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        error: Box<Error>,
    },
    /// The device failed to give a tensor.
    #[error("tensor `{name}`: the device failed: {reason}")]
    Device {
        /// Its name.
        name: String,
        /// The device's reason.
        reason: String,
    },
    /// A device whose floats are of another type than `f32` where none is named.
    #[error(
        "the device makes floats of {got} where no type is named, and models need F32: leave `Device::configure` out, \
         and ask the model itself for halves"
    )]
    FloatType {
        /// The type.
        got: String,
    },
    /// The tensors of a file are not those of a module; the first differences are told.
    #[error("the tensors do not fit the model:\n{}", first_of(.0))]
    Mismatch(
        /// A line for each tensor that is missing, extra, misshapen or of integers, all of them.
        Vec<String>,
    ),
}

/// Differences that a message tells.
const TOLD: usize = 20;

fn first_of(lines: &[String]) -> String {
    // Names of tensors are a file's text.
    let told: Vec<String> = lines.iter().take(TOLD).map(|line| shown(line)).collect();
    let told = told.join("\n");
    match lines.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told}\n  and {more} more"),
    }
}

impl Error {
    /// The same error, told of a file or folder that it does not name.
    pub fn at(self, path: impl Into<PathBuf>) -> Self {
        Self::At { path: path.into(), error: Box::new(self) }
    }

    /// Wraps an error of the operating system with the path that it is about.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |reason| Error::Io { path, reason }
    }
}
