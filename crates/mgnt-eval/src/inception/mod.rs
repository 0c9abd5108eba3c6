mod network;
mod resize;

pub use network::{Activations, Dims, Inception};
pub use resize::Resize;
