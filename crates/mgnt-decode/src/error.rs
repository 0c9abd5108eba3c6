/// What can be wrong with a strategy, a plan or a decode.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// A model schedule that does not parse.
    #[error("model schedule `{text}`: {reason}")]
    Schedule {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What the model says is no number somewhere.
    #[error(
        "the model's logits are not finite: its weights are not, or its numbers are too large for the type that it computes in"
    )]
    NotFinite,
    /// The device failed to give its results.
    #[error("the device failed: {0}")]
    Device(String),
    /// The model refuses.
    #[error(transparent)]
    Model(#[from] mgnt_model::Error),
}

impl Error {
    pub(crate) fn field(field: &'static str, expected: impl ToString, got: impl ToString) -> Self {
        Self::Field { field, expected: expected.to_string(), got: got.to_string() }
    }
}
