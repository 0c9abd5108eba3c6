mod convolution;
mod network;
mod pool;
mod resize;

pub use network::{Activations, Dims, Inception};
pub use resize::Resize;
