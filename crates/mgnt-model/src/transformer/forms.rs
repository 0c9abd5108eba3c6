//! Forms of a model: the same weights for other types, devices and uses.

use std::sync::Arc;

use burn::tensor::FloatDType;

use super::NestedTransformer;
use crate::block::Block;
use crate::head::Head;
use crate::kernels::{Biases, Kernels, Learned, LearnedBlock, LearnedHead};
use crate::{Error, precision};

impl NestedTransformer {
    /// The same model for inference in another type, such as `BF16`: its matrices, keys and values are of that
    /// type; biases, LayerNorm, the residual stream and logits stay in `f32`.
    ///
    /// Fails where the device cannot compute in it.
    pub fn with_type(self, to: FloatDType) -> Result<Self, Error> {
        if !self.device().supports_dtype(to) {
            return Err(Error::Type { asked: format!("{to:?}") });
        }
        Ok(self.kept(|model| precision::with_matrices(model, to).with_biases()))
    }

    /// The same model after `change`, whose tensors stay for as long as it does: a device that looks through its memory for room
    /// then does not look through them.
    fn kept(self, change: impl Fn(Self) -> Self + Send) -> Self {
        self.device().memory_persistent_allocations(self, change)
    }

    /// Biases as the kernels take them, where there are some.
    fn with_biases(self) -> Self {
        let biases = match &self.kernels {
            Some(kernels) if self.is_joined() => {
                self.blocks.iter().map(|block| Biases::new(block, kernels.as_ref())).collect()
            }
            _ => Vec::new(),
        };
        Self { biases, ..self }
    }

    /// The same model for a step of training whose products are taken in another type, such as `BF16`: the matrices
    /// of blocks and head are cast, and gradients go through the casts to this model's parameters, which stay in
    /// `f32`. The embedding is not cast, since its gradient is a sum over many rows. A model [learning
    /// with](Self::learning_with) kernels shares its parameters among the sub-models of that step, in `f32` too.
    ///
    /// Fails where the device cannot compute in it.
    pub fn computing_in(&self, to: FloatDType) -> Result<Self, Error> {
        if !self.device().supports_dtype(to) {
            return Err(Error::Type { asked: format!("{to:?}") });
        }
        let all = self.clone();
        if let Some(kernels) = all.learned_by() {
            let compute = to.into();
            let blocks = all.blocks.iter().map(|block| LearnedBlock::new(block, kernels, compute)).collect();
            let head = LearnedHead::new(&all.head, all.embedding.tokens.val(), kernels, compute);
            return Ok(Self { learned: Some(Arc::new(Learned { blocks, head })), ..all });
        }
        let head = Head { dense: precision::with_matrices(all.head.dense, to), ..all.head };
        Ok(Self { blocks: precision::with_matrices(all.blocks, to), head, ..all })
    }

    /// The same model as it is fast on processors: exponentials are taken on the host, since their backend takes them one by
    /// one. On another device it is right as well, but slow.
    pub fn on_processor(mut self) -> Self {
        for block in &mut self.blocks {
            (block.attention.on_host, block.mlp.on_host) = (true, true);
        }
        self.head.on_host = true;
        self
    }

    /// Whether it is [`on_processor`](Self::on_processor): who uses it may choose their own ways by that.
    pub fn is_on_processor(&self) -> bool {
        self.head.on_host
    }

    /// The same model as it is fast on accelerators, for inference: queries, keys and values come from one product, for
    /// which their weights are copied for each sub-model, and attention takes the shapes and types that fused kernels
    /// are made for. On a processor it is right as well.
    ///
    /// The copies do not follow later changes of the weights, and on a tape the weights themselves are taken. [`save`](Self::save) writes the model without them, as it was;
    /// Burn's own records hold them too, and fit a model of this form alone.
    ///
    /// # Panics
    ///
    /// Where the model is on a device with a tape: its [`valid`](burn::module::Module::valid) form is not.
    pub fn on_accelerator(self) -> Self {
        assert!(!self.device().is_autodiff(), "the model is on a device with a tape; take its `valid` form");
        self.kept(|mut model| {
            for block in &mut model.blocks {
                block.attention.join(&model.config);
            }
            model.with_biases()
        })
    }

    /// The same model [`on_accelerator`](Self::on_accelerator) whose blocks are computed by kernels of its device, in fewer
    /// passes and with fewer roundings; by operations as before with [exact products](Self::with_exact_products), or where
    /// sub-models nest in the features.
    ///
    /// # Panics
    ///
    /// As [`on_accelerator`](Self::on_accelerator) does.
    pub fn with_kernels(self, kernels: Arc<dyn Kernels>) -> Self {
        Self { kernels: Some(kernels), ..self }.on_accelerator()
    }

    /// The same model for training whose blocks are computed by kernels of its device, and so are their gradients; by operations
    /// as before where it has LayerNorms before its branches, or sub-models that nest in the features.
    pub fn learning_with(self, kernels: Arc<dyn Kernels>) -> Self {
        Self { kernels: Some(kernels), ..self }
    }

    /// The same model for a pass of each sub-model over one batch, whose dropout is a function of `seed`, the sub-model and the place of a
    /// number, on any device, where it [learns by kernels](Self::learning_with). Without a seed, or by operations, each pass
    /// draws from the device.
    pub fn dropping_by(self, seed: u64) -> Self {
        Self { dropout_seed: Some(seed), ..self }
    }

    /// The same model, for inference, whose products of `f32` are as exact as `f32` where a device's tensor cores would round their
    /// operands to TF32, as they do on CUDA: each takes four. Halves are as they were.
    ///
    /// Fails where the device has no bf16, which each device with TF32 has.
    pub fn with_exact_products(mut self) -> Result<Self, Error> {
        if !self.device().supports_dtype(FloatDType::BF16) {
            return Err(Error::Type { asked: "BF16, for exact products of F32".into() });
        }
        for block in &mut self.blocks {
            let Block { attention, mlp, .. } = block;
            let all = attention.projections().chain([&mut mlp.up, &mut mlp.down]);
            all.for_each(|dense| dense.exact = true);
        }
        self.head.dense.exact = true;
        Ok(self)
    }
}
