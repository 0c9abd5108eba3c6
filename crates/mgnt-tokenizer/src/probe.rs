use burn::tensor::{Int, Tensor};

/// Everything between pictures or videos and their reconstruction. `R` is the rank of a batch, `G` that of its grids:
/// 4 and 3 for pictures, 5 and 4 for videos.
#[derive(Debug, Clone)]
pub struct Probe<const R: usize, const G: usize> {
    /// Latents before quantization: `[B, D, h, w]`, or `[B, D, t, h, w]`.
    pub latents: Tensor<R>,
    /// The nearest codes, with the shape of the latents.
    pub quantized: Tensor<R>,
    /// Numbers of those codes: `[B, h, w]`, or `[B, t, h, w]`.
    pub indices: Tensor<G, Int>,
    /// What the decoder makes of the codes, not clamped: `[B, 3, H, W]`, or `[B, 3, T, H, W]`.
    pub reconstruction: Tensor<R>,
}
