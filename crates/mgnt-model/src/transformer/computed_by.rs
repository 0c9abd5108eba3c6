//! Which kernels a model is computed by, if by any.

use burn::tensor::Device;

use super::NestedTransformer;
use crate::kernels::{ByKernels, Kernels};
use crate::{Nesting, SubModel};

impl NestedTransformer {
    /// The kernels that blocks are computed by, if they are.
    pub(super) fn kernels_for_blocks(&self) -> Option<&dyn Kernels> {
        let is_nested_within = self.config.nesting != Nesting::Features;
        let is_rounded = !self.head.dense.exact;
        self.kernels.as_deref().filter(|_| is_nested_within && is_rounded)
    }

    /// The kernels that it learns by, if it does.
    pub(super) fn learned_by(&self) -> Option<&dyn Kernels> {
        self.kernels_for_blocks().filter(|_| self.config.is_learned_by_kernels())
    }

    /// The kernels that it is computed by in a decode, if it is: what comes after its logits may be, too.
    pub fn kernels(&self) -> Option<&dyn Kernels> {
        self.kernels_for_blocks().filter(|_| self.is_for_kernels())
    }

    /// Whether queries, keys and values of a sub-model have one weight.
    pub(super) fn is_joined(&self) -> bool {
        self.blocks.iter().all(|block| !block.attention.joined.is_empty())
    }

    /// Whether its blocks are made ready for kernels of a decode.
    pub(super) fn is_for_kernels(&self) -> bool {
        self.biases.len() == self.blocks.len()
    }

    /// Its blocks by kernels, for a decode, if they are computed so of what is on that device; panics where the sub-model is
    /// another model's.
    pub(super) fn by_kernels(
        &self,
        device: &Device,
        batch: usize,
        sub_model: SubModel,
    ) -> Option<ByKernels<'_>> {
        let (config, biases, compute) = (&self.config, &self.biases, self.compute_type());
        let sizes = &config.sub_models;
        let Some(place) = sizes.iter().position(|&p| p == sub_model.p()) else {
            panic!("{sub_model} is not of this model, whose sub-models are {sizes:?}");
        };
        let kernels = self.kernels().filter(|_| !device.is_autodiff())?;
        Some(ByKernels { kernels, config, biases, sub_model, place, batch, compute })
    }
}
