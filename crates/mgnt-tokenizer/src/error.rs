/// What can be wrong with a tokenizer's configuration, input or files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A size that cannot be.
    #[error("tokenizer config: `{field}`: expected {expected}, got {got}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// Input that does not fit the tokenizer.
    #[error("{field}: expected {expected}, got {got}")]
    Input {
        /// What was given.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What it was.
        got: String,
    },
    /// What the networks made of their input is not all finite.
    #[error("the tokenizer's {what} are not finite: its weights are not, or what it was given is not")]
    NotFinite {
        /// What they made.
        what: &'static str,
    },
    /// The device failed to give its results.
    #[error("the device failed: {0}")]
    Device(String),
    /// Files of a tokenizer.
    #[error(transparent)]
    Weights(#[from] mgnt_weights::Error),
}
