mod computed_by;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::nn::{DropoutConfig, LayerNorm, LayerNormConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, FloatDType, Int, IntDType, Tensor};
use mgnt_weights::directory::ModelDirectory;
use mgnt_weights::{TensorMap, module};

use crate::attention::{Attention, Beyond, Context};
use crate::block::{Block, Mlp};
use crate::cache::{Cached, KeysValues};
use crate::embedding::Embedding;
use crate::head::Head;
use crate::initial::Initial;
use crate::kernels::{Biases, GoesOn, Kernels, Learned, LearnedBlock, LearnedHead, OnTape};
use crate::{Error, KvCache, ModelConfig, Norm, SubModel, host, precision};

/// LayerNorm epsilon of the published models.
pub(crate) const NORM_EPSILON: f64 = 1e-12;

/// The nested transformer: one set of weights, a sub-model chosen at each forward.
///
/// A sequence is the class token and the N tokens of a picture, of which those not known yet are the mask token:
///
/// ```no_run
/// # fn logits(device: burn::tensor::Device) -> Result<(), Box<dyn std::error::Error>> {
/// use burn::tensor::{Int, Tensor, TensorData};
/// use mgnt_model::NestedTransformer;
///
/// let model = NestedTransformer::load("runs/imagenette-64/model", &device)?;
/// let (config, vocabulary) = (model.config(), model.config().vocabulary());
/// let mut tokens = vec![vocabulary.mask() as i32; config.positions()];
/// tokens[0] = vocabulary.class(3)? as i32;
/// let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, config.positions()]), &device);
///
/// // Logits of every position, [1, 1 + N, vocabulary], by an eighth of the heads and hidden units.
/// let logits = model.forward(tokens.clone(), config.sub_model(8)?);
///
/// // The full model, whose keys and values of the class token are kept; then the others over that cache.
/// let positions = Tensor::arange(0..config.positions() as i64, &device).unsqueeze();
/// let (_, cache) = model.forward_cached(tokens.clone(), positions.clone(), None, 1, config.full());
/// let rest = |all: Tensor<2, Int>| all.narrow(1, 1, config.tokens);
/// let (hidden, cache) = model.forward_cached(rest(tokens), rest(positions), Some(cache), 1, config.full());
/// # Ok(()) }
/// ```
///
/// # Panics
///
/// Forwards panic where the sub-model is none of this model's, and [`forward_cached`](Self::forward_cached) where the batch
/// has no sample or no position is active. Tokens must be of the [vocabulary](ModelConfig::vocabulary) and positions no
/// further than the last: on a processor (Burn's Flex) others panic; accelerators do not check, and compute with whatever
/// lies there.
#[derive(Module, Debug)]
pub struct NestedTransformer {
    embedding: Embedding,
    blocks: Vec<Block>,
    last_norm: Option<LayerNorm>,
    head: Head,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    kernels: Option<Arc<dyn Kernels>>,
    /// For kernels, where queries, keys and values are joined: one for each block.
    biases: Vec<Biases>,
    /// For kernels, during a step of training.
    #[module(skip)]
    learned: Option<Arc<Learned>>,
    /// What their dropout is a function of.
    #[module(skip)]
    dropout_seed: Option<u64>,
}

impl NestedTransformer {
    /// A model with random weights, the same for the same seed on every device.
    ///
    /// Fails where [`ModelConfig::validate`] does, and, as every way to a model does, on a device whose floats are not
    /// `f32` unless a type is named ([`check_float_type`](module::check_float_type)).
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self, Error> {
        Self::built(config, Initial::drawn(seed, device))
    }

    fn built(config: &ModelConfig, mut initial: Initial) -> Result<Self, Error> {
        config.validate()?;
        let device = initial.device();
        module::check_float_type(device)?;
        let (d, f, v) = (config.width, config.hidden, config.vocabulary().len());
        let norm = || LayerNormConfig::new(d).with_epsilon(NORM_EPSILON).init(device);
        let dropout = || DropoutConfig::new(config.dropout).init();
        Ok(Self {
            embedding: Embedding {
                tokens: initial.matrix(v, d),
                positions: initial.matrix(config.positions(), d),
                norm: norm(),
                dropout: dropout(),
            },
            blocks: (0..config.layers)
                .map(|_| Block {
                    attention: Attention {
                        query: initial.dense(d, d),
                        key: initial.dense(d, d),
                        value: initial.dense(d, d),
                        output: initial.dense(d, d),
                        joined: Vec::new(),
                        dropout: dropout(),
                        on_host: false,
                    },
                    attention_norm: norm(),
                    mlp: Mlp { up: initial.dense(d, f), down: initial.dense(f, d), on_host: false },
                    mlp_norm: norm(),
                    dropout: dropout(),
                })
                .collect(),
            last_norm: (config.norm == Norm::Pre).then(norm),
            head: Head { dense: initial.dense(d, d), norm: norm(), bias: initial.vector(v), on_host: false },
            config: config.clone(),
            kernels: None,
            biases: Vec::new(),
            learned: None,
            dropout_seed: None,
        })
    }

    /// A model with the tensors of a map, named by their path in this module.
    pub fn from_weights(config: &ModelConfig, weights: TensorMap, device: &Device) -> Result<Self, Error> {
        Ok(module::from_map(Self::built(config, Initial::undrawn(device))?, weights)?)
    }

    /// Reads a model directory (`config.ron`, `model.safetensors`).
    pub fn load(directory: impl AsRef<Path>, device: &Device) -> Result<Self, Error> {
        let directory = ModelDirectory::new(directory.as_ref());
        let config: ModelConfig = directory.config()?;
        Ok(directory.fill(Self::built(&config, Initial::undrawn(device))?)?)
    }

    /// Writes a model directory, whole or not at all.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<(), Error> {
        let mut model = self.clone();
        for block in &mut model.blocks {
            block.attention.joined.clear();
        }
        model.biases.clear();
        let weights = module::to_map(&model)?;
        Ok(ModelDirectory::new(directory.as_ref()).save(&self.config, &weights)?)
    }

    /// Sizes and options.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

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
    /// Where the model is on a device with a tape: its [`valid`](Module::valid) form is not.
    pub fn on_accelerator(self) -> Self {
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

    /// Softmax over the last dimension, on the host where the model is [`on_processor`](Self::on_processor) and `x` on no
    /// tape.
    pub fn softmax<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let on_host = self.head.on_host && !x.device().is_autodiff();
        if on_host { host::softmax(x) } else { softmax(x, D - 1) }
    }

    /// The type of products, keys and values.
    pub fn compute_type(&self) -> DType {
        self.head.dense.weight.val().dtype()
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.embedding.tokens.val().device()
    }

    /// Logits over the whole vocabulary, `[B, 1 + N, vocabulary]`, of `tokens [B, 1 + N]`, class token first.
    pub fn forward(&self, tokens: Tensor<2, Int>, sub_model: SubModel) -> Tensor<3> {
        let [batch, length] = tokens.dims();
        let vocabulary = self.config.vocabulary().len();
        let hidden = self.hidden(tokens, sub_model).reshape([batch * length, self.config.width]);
        self.vocabulary_logits(hidden).reshape([batch, length, vocabulary])
    }

    /// The residual stream after the last block, `[B, A, D]`, of `tokens [B, A]` at positions 0 to A - 1.
    pub fn hidden(&self, tokens: Tensor<2, Int>, sub_model: SubModel) -> Tensor<3> {
        self.hidden_of(self.embedded(tokens), sub_model)
    }

    /// The residual stream before the first block, `[B, A, D]`, of `tokens [B, A]` at positions 0 to A - 1: the same for
    /// every sub-model.
    pub fn embedded(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [batch, length] = tokens.dims();
        let shape = [batch, length, self.config.width];
        if batch * length == 0 {
            return nothing(shape, &self.device());
        }
        let (tokens, places) = self.taken(tokens.clone(), places(&tokens));
        self.embed(tokens, places).reshape(shape)
    }

    /// Tokens and positions as the model takes them: of one type, which a kernel reads both in, and on no tape where the
    /// model is on none, since dropout drops wherever its input is on one.
    fn taken(&self, tokens: Tensor<2, Int>, positions: Tensor<2, Int>) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let positions = positions.cast(IntDType::from(tokens.dtype()));
        match self.device().is_autodiff() {
            true => (tokens, positions),
            false => (tokens.inner(), positions.inner()),
        }
    }

    fn embed(&self, tokens: Tensor<2, Int>, positions: Tensor<2, Int>) -> Tensor<3> {
        match self.kernels().filter(|_| !self.device().is_autodiff()) {
            Some(kernels) => {
                let on = GoesOn::Through;
                let normed = self.embedding.forward_by(kernels, tokens, positions, on, DType::F32);
                normed.input.unsqueeze()
            }
            None => match self.learned_by() {
                Some(kernels) => {
                    self.embedding.forward_learning(kernels, tokens, positions, self.dropout_seed)
                }
                None => self.embedding.forward(tokens, positions),
            },
        }
    }

    /// The residual stream after the last block, `[B, A, D]`, of that before the first.
    pub fn hidden_of(&self, embedded: Tensor<3>, sub_model: SubModel) -> Tensor<3> {
        let [batch, length, width] = embedded.dims();
        if batch * length == 0 {
            return embedded;
        }
        let x = embedded.reshape([1, batch * length, width]);
        self.through_blocks(x, batch, None, 0, sub_model).0.reshape([batch, length, width])
    }

    /// The residual stream `[B, A, D]` of the active `tokens` at their `positions` (both `[B, A]`), which attend
    /// over the cached positions and over each other; and a cache of the first `keep` positions of that context:
    /// cached ones first, then the active ones in the order in which they were given. The cache is taken by value, and
    /// where the context has the size of its buffers, as it has in a decode, the new one has the same.
    ///
    /// Position 0 is the class token's, image token i is at position i + 1. The order of the active positions is
    /// the caller's. A cache serves only sub-models of the width that made it
    /// ([`SubModel::shares_cache_with`]).
    pub fn forward_cached(
        &self,
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        cache: Option<KvCache>,
        keep: usize,
        sub_model: SubModel,
    ) -> (Tensor<3>, KvCache) {
        let [batch, active] = tokens.dims();
        let length = keep.min(active + cache.as_ref().map_or(0, KvCache::len));
        let (tokens, positions) = self.taken(tokens, positions);
        let (x, blocks) = match self.by_kernels(&self.device(), batch, sub_model) {
            Some(by_kernels) => {
                let first = by_kernels.embedded(&self.embedding, &self.blocks, [tokens, positions]);
                by_kernels.through_blocks(&self.blocks, self.last_norm.as_ref(), first, cache, length)
            }
            None => self.through_blocks(self.embed(tokens, positions), batch, cache, length, sub_model),
        };
        (x.reshape([batch, active, self.config.width]), KvCache { blocks, length })
    }

    /// `x [1, B * A, D]` before the first block to that after the last, and the blocks' keys and values of the first `keep` positions
    /// of the context, where there are any.
    fn through_blocks(
        &self,
        mut x: Tensor<3>,
        batch: usize,
        cache: Option<KvCache>,
        keep: usize,
        sub_model: SubModel,
    ) -> (Tensor<3>, Vec<KeysValues>) {
        if let Some(by_kernels) = self.by_kernels(&x.device(), batch, sub_model) {
            let first = by_kernels.first(&self.blocks, x.flatten(0, 1));
            return by_kernels.through_blocks(&self.blocks, self.last_norm.as_ref(), first, cache, keep);
        }
        if let Some(kernels) = self.learned_by().filter(|_| cache.is_none() && keep == 0) {
            let (config, compute) = (&self.config, self.compute_type());
            let on_tape = OnTape { kernels, config, sub_model, samples: batch, seed: self.dropout_seed };
            let x = match &self.learned {
                Some(learned) => on_tape.through_blocks(&learned.blocks, x),
                None => {
                    let of = |block| LearnedBlock::new(block, kernels, compute);
                    on_tape.through_blocks(&self.blocks.iter().map(of).collect::<Vec<_>>(), x)
                }
            };
            return (x, Vec::new());
        }
        let positions = x.dims()[1] / batch + cache.as_ref().map_or(0, KvCache::len);
        let beyond = if self.blocks.first().is_some_and(|block| block.attention.takes_whole_rows()) {
            Beyond::new(positions, &x.device())
        } else {
            None
        };
        let device = x.device();
        // A tape holds what was computed, and nothing is written over on it.
        let in_buffers = !device.is_autodiff();
        let buffers = || {
            let room = positions + beyond.as_ref().filter(|_| in_buffers)?.count();
            let shape = [batch, sub_model.heads(&self.config), room, self.config.head_width()];
            Some(Cached { buffer: KeysValues::zeros(shape, &device, self.compute_type()), length: 0 })
        };
        let mut cached = cache.into_iter().flat_map(KvCache::into_blocks);
        let (mut kept, mut written) = (Vec::new(), None);
        for block in &self.blocks {
            // What is not to be kept is written over by the next block.
            let cached = cached.next().or_else(|| written.take()).or_else(buffers);
            let context = Context { batch, cached, beyond: beyond.clone() };
            let (y, all) = block.forward(x, context, &self.config, sub_model);
            x = y;
            if keep > 0 {
                kept.push(all);
            } else if beyond.is_some() && in_buffers {
                written = Some(Cached { buffer: all, length: 0 });
            }
        }
        if let Some(norm) = &self.last_norm {
            x = norm.forward(x);
        }
        (x, kept)
    }

    /// Logits over the whole vocabulary, `[R, vocabulary]`, of rows of the residual stream `[R, D]`.
    pub fn vocabulary_logits(&self, rows: Tensor<2>) -> Tensor<2> {
        self.logits(rows, self.config.vocabulary().len())
    }

    /// Logits over the V codes, `[R, V]`, of rows of the residual stream `[R, D]`.
    pub fn code_logits(&self, rows: Tensor<2>) -> Tensor<2> {
        self.logits(rows, self.config.codes)
    }

    fn logits(&self, rows: Tensor<2>, count: usize) -> Tensor<2> {
        if rows.dims()[0] == 0 {
            return nothing([0, count], &rows.device());
        }
        let table = self.embedding.tokens.val();
        match self.kernels_for_blocks() {
            Some(kernels) if self.is_for_kernels() && !rows.device().is_autodiff() => {
                self.head.forward_by(kernels, rows, table, count)
            }
            Some(kernels) if self.config.is_learned_by_kernels() && rows.device().is_autodiff() => {
                let new = || LearnedHead::new(&self.head, table, kernels, self.compute_type());
                let head = self.learned.as_ref().map_or_else(new, |learned| learned.head.clone());
                head.forward(kernels, rows, count)
            }
            _ => self.head.forward(rows, table, count),
        }
    }
}

/// Numbers of which there are none: backends have no products of such.
fn nothing<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::empty(shape, (device, DType::F32))
}

/// Positions 0 to A - 1 for each sample of `tokens [B, A]`.
fn places(tokens: &Tensor<2, Int>) -> Tensor<2, Int> {
    let [batch, length] = tokens.dims();
    Tensor::arange(0..length as i64, &tokens.device()).unsqueeze().repeat_dim(0, batch)
}
