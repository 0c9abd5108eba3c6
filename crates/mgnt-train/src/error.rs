use std::path::PathBuf;

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A recipe value that cannot be.
    #[error("recipe: `{field}`: expected {expected}, got {got}")]
    Recipe {
        /// Name of the field.
        field: String,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A run folder that does not go with what was asked.
    #[error("{path}: {reason}", path = path.display())]
    Run {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A run that is resumed with another recipe or other data than it began with.
    #[error(
        "{path}: cannot be resumed: `{field}` was {before}, and is {now} now; resume as it began, or choose another --out",
        path = path.display()
    )]
    Resume {
        /// The run's checkpoints.
        path: PathBuf,
        /// The first field that differs.
        field: String,
        /// Its value when the run began.
        before: String,
        /// Its value now.
        now: String,
    },
    /// Loss or gradient stayed infinite or not a number.
    #[error("step {step}: the loss or gradient was not finite {times} times in a row")]
    NotFinite {
        /// The last of these steps: the first of a run is 1.
        step: usize,
        /// How often in a row.
        times: usize,
    },
    /// A figure that the task did not name before the run.
    #[error("the task tells a figure `{0}` that it did not name before")]
    Figure(String),
    /// Burn's learner.
    #[error("the learner failed: {0}")]
    Learner(String),
    /// The device failed to give its results.
    #[error("the device failed: {0}")]
    Device(String),
    /// Data.
    #[error(transparent)]
    Data(#[from] mgnt_data::Error),
    /// The transformer.
    #[error(transparent)]
    Model(#[from] mgnt_model::Error),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] mgnt_tokenizer::Error),
    /// Measures of pictures.
    #[error(transparent)]
    Eval(#[from] mgnt_eval::Error),
    /// Files.
    #[error(transparent)]
    Weights(#[from] mgnt_weights::Error),
    /// Of a task or a watcher of somebody's own.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    pub(crate) fn run(path: impl Into<PathBuf>, reason: impl ToString) -> Self {
        Self::Run { path: path.into(), reason: reason.to_string() }
    }
}
