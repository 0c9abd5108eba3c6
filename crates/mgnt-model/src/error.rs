/// What can be wrong with a model's configuration, input or files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A size that cannot be.
    #[error("model config: `{field}`: expected {expected}, got {got}")]
    Config {
        /// Name of the field.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A factor that does not divide the model.
    #[error("sub-model p = {p}: p must be one of the model's {sizes:?}")]
    SubModel {
        /// The factor.
        p: usize,
        /// The factors that the model has.
        sizes: Vec<usize>,
    },
    /// A class that the model does not have.
    #[error("class {class} is out of range: the model has {classes} classes (0 to {})", classes.saturating_sub(1))]
    Class {
        /// The class.
        class: usize,
        /// Number of classes.
        classes: usize,
    },
    /// A type of number that the device does not have.
    #[error("type {asked}: this device cannot compute in it")]
    Type {
        /// The type.
        asked: String,
    },
    /// Files of a model.
    #[error(transparent)]
    Weights(#[from] mgnt_weights::Error),
}
