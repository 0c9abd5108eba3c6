//! Each kernel of a device against what it is defined to compute, by operations of the CPU.

mod answers;
mod gradients;

use anyhow::Context;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use mgnt_model::kernels::Kernels;
use mgnt_weights::TensorMap;

pub use answers::ANSWERS;
pub use gradients::GRADIENTS;

// Sizes that fill no vector, plane or tile.
const BATCH: usize = 2;
const ACTIVE: usize = 37;
const ROWS: usize = BATCH * ACTIVE;
const FROM: usize = 5;
const HEADS: usize = 3;
const HEAD_WIDTH: usize = 24;
const WIDTH: usize = 260;
const HIDDEN: usize = 328;
const OUTPUTS: usize = 3 * HEADS * HEAD_WIDTH;

/// What a kernel is asked.
pub struct Case {
    pub name: &'static str,
    /// Whether it computes in `f32` whatever type products have, and is held to the limit of that.
    pub single: bool,
    answer: fn(&dyn Kernels, &Numbers) -> anyhow::Result<TensorMap>,
}

impl Case {
    /// What these kernels answer to the same numbers on any device, with products of this type.
    pub fn of(
        &self,
        kernels: &dyn Kernels,
        compute: FloatDType,
        device: &Device,
    ) -> anyhow::Result<TensorMap> {
        (self.answer)(kernels, &Numbers { compute: compute.into(), device }).context(self.name)
    }
}

/// Numbers between -2 and 2, the same on every device.
struct Numbers<'a> {
    compute: DType,
    device: &'a Device,
}

impl Numbers<'_> {
    /// In the type of products, rounded on the host.
    fn halves<const D: usize>(&self, shape: [usize; D], seed: usize) -> Tensor<D> {
        let data = drawn(shape, seed).convert_dtype(self.compute);
        Tensor::from_data(data, (self.device, self.compute))
    }

    fn full<const D: usize>(&self, shape: [usize; D], seed: usize) -> Tensor<D> {
        Tensor::from_data(drawn(shape, seed), self.device)
    }

    /// Whole numbers, one for each row.
    fn whole(&self, rows: usize, number: impl Fn(usize) -> usize) -> Tensor<1, Int> {
        let data: Vec<i32> = (0..rows).map(|row| number(row) as i32).collect();
        Tensor::from_data(TensorData::new(data, [rows]), (self.device, DType::I32))
    }
}

fn drawn<const D: usize>(shape: [usize; D], seed: usize) -> TensorData {
    let count: usize = shape.iter().product();
    let number = |i: usize| 2.0 * ((i * (2 * seed + 1)) as f32 * 0.37 + seed as f32).sin();
    TensorData::new((0..count).map(number).collect::<Vec<f32>>(), shape)
}
