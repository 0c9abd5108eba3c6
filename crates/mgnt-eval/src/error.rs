use std::path::PathBuf;

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The weights do not reach the features that were asked for.
    #[error("{path}: features of {dims} dimensions need the tensor `{tensor}`, which the file does not have", path = path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The features.
        dims: usize,
        /// The first tensor that is missing.
        tensor: String,
    },
    /// Input that cannot be measured.
    #[error("{field}: expected {expected}, got {got}")]
    Input {
        /// What was given.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What it was.
        got: String,
    },
    /// A file that is not what it should be.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An eigen-decomposition that did not converge.
    #[error("the eigen-decomposition of the {0} did not converge")]
    Eigen(&'static str),
    /// The device failed to give its results.
    #[error("the device failed: {0}")]
    Device(String),
    /// Pictures that cannot be read.
    #[error(transparent)]
    Data(#[from] mgnt_data::Error),
    /// Files of tensors.
    #[error(transparent)]
    Files(#[from] mgnt_weights::Error),
}

impl Error {
    pub(crate) fn input(field: &'static str, expected: impl ToString, got: impl ToString) -> Self {
        Self::Input { field, expected: expected.to_string(), got: got.to_string() }
    }
}
