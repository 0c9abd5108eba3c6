//! What is minimised: random masks, and the nested loss over them.

mod masking;
mod nested;

pub use masking::{Masked, mask, mean_hidden};
pub use nested::{
    MaskedBatch, NestedLoss, NestedOptions, Students, Teacher, cross_entropy, lambda, nested_loss,
};
