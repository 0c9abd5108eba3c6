//! What is minimised: random masks, and the nested loss over them.

mod masking;
mod nested;

pub use masking::{Masked, mask};
pub use nested::{NestedLoss, NestedOptions, Teacher, cross_entropy, lambda, nested_loss};
