use burn::module::{Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::{DType, Tensor, s};

use crate::attention::Dense;
use crate::gelu::gelu;
use crate::kernels::{GoesOn, Kernels};
use crate::precision;

/// The residual stream to logits, through the transposed token table; whole and shared by all sub-models.
#[derive(Module, Debug)]
pub(crate) struct Head {
    pub dense: Dense,
    pub norm: LayerNorm,
    /// `[vocabulary]`.
    pub bias: Param<Tensor<1>>,
    /// Whether exponentials are taken on the host.
    pub on_host: bool,
}

impl Head {
    /// `x [R, D]` to the logits of the first `rows` vocabulary entries, `[R, rows]`.
    pub fn forward(&self, x: Tensor<2>, table: Tensor<2>, rows: usize) -> Tensor<2> {
        let [count, width] = x.dims();
        let x = x.reshape([1, count, width]);
        let compute = self.dense.weight.val().dtype();
        let x = self.norm.forward(gelu(self.dense.forward(x, width), self.on_host));
        let x = x.cast(compute);
        // In training the table stays in f32, and only products are taken in the type of the weights.
        let table = table.slice(s![0..rows, ..]).cast(compute);
        let bias = self.bias.val().slice(s![0..rows]).unsqueeze();
        // Sums of halves are whole in `f32`, and no product of the type of the operands would give them.
        let exact = self.dense.exact && compute == DType::F32;
        let sums = precision::product(precision::full(x), precision::full(table.transpose()), exact);
        (sums + bias).reshape([count, rows])
    }

    /// The same by kernels of the device.
    pub fn forward_by(
        &self,
        kernels: &dyn Kernels,
        x: Tensor<2>,
        table: Tensor<2>,
        rows: usize,
    ) -> Tensor<2> {
        let [_, width] = x.dims();
        let compute = self.dense.weight.val().dtype();
        let (weight, bias) = (self.dense.weight.val(), self.dense.bias.val());
        let hidden = kernels.gelu(x.cast(compute), weight, bias, width, DType::F32);
        let norm = (&self.norm).into();
        let x = kernels.add_norm(hidden.into(), None, norm, GoesOn::Past, compute).input;
        let table = table.slice(s![0..rows, ..]).cast(compute);
        let bias = self.bias.val().slice(s![0..rows]).unsqueeze();
        let sums = kernels.product(x, table.transpose(), rows, DType::F32);
        let sums = if sums.dims()[0] == 1 { sums } else { sums.sum_dim(0) };
        sums.squeeze_dim(0) + bias
    }
}
