mod network;
mod resize;

pub use network::{Dims, Inception};
pub use resize::resize;
