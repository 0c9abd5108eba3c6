//! Which kernels a model is computed by, if by any.

use burn::tensor::Device;

use super::NestedTransformer;
use crate::kernels::{ByKernels, Kernels};
use crate::{Nesting, SubModel};

/// What computes a model.
pub(super) enum By<'a> {
    /// The operations of a backend.
    Operations,
    /// Kernels that know a cache and no tape.
    Decode(&'a dyn Kernels),
    /// Kernels that may be on a tape and know no cache.
    Training(&'a dyn Kernels),
}

impl NestedTransformer {
    /// What computes it of what is on that device.
    pub(super) fn by(&self, device: &Device) -> By<'_> {
        match self.kernels_for_blocks() {
            Some(kernels) if self.is_for_kernels() && !device.is_autodiff() => By::Decode(kernels),
            Some(kernels) if self.config.is_learned_by_kernels() => By::Training(kernels),
            _ => By::Operations,
        }
    }

    /// The kernels that blocks are computed by, if they are.
    fn kernels_for_blocks(&self) -> Option<&dyn Kernels> {
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
    fn is_for_kernels(&self) -> bool {
        self.biases.len() == self.blocks.len()
    }

    /// The place of a sub-model in the configuration's list; panics where it is another model's.
    pub(super) fn place_of(&self, sub_model: SubModel) -> usize {
        let sizes = &self.config.sub_models;
        match sizes.iter().position(|&p| p == sub_model.p()) {
            Some(place) => place,
            None => panic!("{sub_model} is not of this model, whose sub-models are {sizes:?}"),
        }
    }

    /// Its blocks by kernels of a decode, of a sub-model and its place.
    pub(super) fn by_kernels<'a>(
        &'a self,
        kernels: &'a dyn Kernels,
        sub_model: SubModel,
        place: usize,
        batch: usize,
    ) -> ByKernels<'a> {
        ByKernels {
            kernels,
            config: &self.config,
            blocks: &self.blocks,
            last_norm: self.last_norm.as_ref(),
            biases: &self.biases,
            sub_model,
            place,
            batch,
            compute: self.compute_type(),
        }
    }
}
