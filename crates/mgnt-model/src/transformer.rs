mod computed_by;
mod forms;
mod shapes;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::nn::{DropoutConfig, LayerNorm, LayerNormConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Int, IntDType, Tensor};
use computed_by::By;
use mgnt_weights::directory::ModelDirectory;
use mgnt_weights::{TensorMap, module};

use crate::attention::{Attention, Beyond, Context};
use crate::block::{Block, Mlp};
use crate::cache::{Cached, KeysValues};
use crate::embedding::Embedding;
use crate::head::Head;
use crate::initial::Initial;
use crate::kernels::{Biases, GoesOn, Kernels, Learned, LearnedBlock, LearnedHead, NORM_EPSILON, OnTape};
use crate::{Error, KvCache, ModelConfig, Norm, SubModel, host};

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
        let (d, f, v) = (config.width, config.hidden, config.vocabulary().size());
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
        config.validate().map_err(|error| directory.invalid(error))?;
        Ok(directory.fill(Self::built(&config, Initial::undrawn(device))?)?)
    }

    /// Writes a model directory, whole or not at all. Low-rank updates ([`Module::apply_lora`]) are added to the weights that they
    /// change.
    pub fn save(&self, directory: impl AsRef<Path>) -> Result<(), Error> {
        let mut model = self.clone().materialize();
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
    ///
    /// # Panics
    ///
    /// Where there are more tokens, a token is not of the vocabulary (on accelerators it is read from anywhere instead), or the
    /// sub-model is not of this model.
    pub fn forward(&self, tokens: Tensor<2, Int>, sub_model: SubModel) -> Tensor<3> {
        let [batch, length] = tokens.dims();
        let vocabulary = self.config.vocabulary().size();
        let hidden = self.hidden(tokens, sub_model).reshape([batch * length, self.config.width]);
        self.vocabulary_logits(hidden).reshape([batch, length, vocabulary])
    }

    /// The residual stream after the last block, `[B, A, D]`, of `tokens [B, A]` at positions 0 to A - 1.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward) does.
    pub fn hidden(&self, tokens: Tensor<2, Int>, sub_model: SubModel) -> Tensor<3> {
        self.hidden_of(self.embedded(tokens), sub_model)
    }

    /// The residual stream before the first block, `[B, A, D]`, of `tokens [B, A]` at positions 0 to A - 1: the same for
    /// every sub-model.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward) does.
    pub fn embedded(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.check_length(&tokens);
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
        match self.by(&self.device()) {
            By::Decode(kernels) => {
                let on = GoesOn::Through;
                let normed = self.embedding.forward_by(kernels, tokens, positions, on, DType::F32);
                normed.input.unsqueeze()
            }
            By::Training(kernels) => {
                self.embedding.forward_learning(kernels, tokens, positions, self.dropout_seed)
            }
            By::Operations => self.embedding.forward(tokens, positions),
        }
    }

    /// The residual stream after the last block, `[B, A, D]`, of that before the first.
    ///
    /// # Panics
    ///
    /// Where that is of another width, or the sub-model is not of this model.
    pub fn hidden_of(&self, embedded: Tensor<3>, sub_model: SubModel) -> Tensor<3> {
        self.check_width(embedded.dims());
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
    ///
    /// # Panics
    ///
    /// Where there is no sample or no active position, `positions` has another shape than `tokens`, the cache's batch, width or number
    /// of blocks is another, a token or position is none of the model's (on accelerators it is read from anywhere instead), or the sub-model is
    /// not of this model. A cache that other weights of the same sizes made is not noticed.
    pub fn forward_cached(
        &self,
        tokens: Tensor<2, Int>,
        positions: Tensor<2, Int>,
        cache: Option<KvCache>,
        keep: usize,
        sub_model: SubModel,
    ) -> (Tensor<3>, KvCache) {
        self.check_cached([&tokens, &positions], cache.as_ref(), sub_model);
        let [batch, active] = tokens.dims();
        let length = keep.min(active + cache.as_ref().map_or(0, KvCache::len));
        let (tokens, positions) = self.taken(tokens, positions);
        let place = self.place_of(sub_model);
        let (x, blocks) = match self.by(&self.device()) {
            By::Decode(kernels) => {
                let by_kernels = self.by_kernels(kernels, sub_model, place, batch);
                let first = by_kernels.embedded(&self.embedding, [tokens, positions]);
                by_kernels.through_blocks(first, cache, length)
            }
            _ => self.through_blocks(self.embed(tokens, positions), batch, cache, length, sub_model),
        };
        (x.reshape([batch, active, self.config.width]), KvCache { blocks, length })
    }

    /// From the stream `x [1, B * A, D]` before the first block to that after the last; and, where `keep` is above 0, each block's
    /// buffers, with the keys and values of the first `keep` positions of the context.
    fn through_blocks(
        &self,
        mut x: Tensor<3>,
        batch: usize,
        cache: Option<KvCache>,
        keep: usize,
        sub_model: SubModel,
    ) -> (Tensor<3>, Vec<KeysValues>) {
        let (place, device) = (self.place_of(sub_model), x.device());
        match self.by(&device) {
            By::Decode(kernels) => {
                let by_kernels = self.by_kernels(kernels, sub_model, place, batch);
                return by_kernels.through_blocks(by_kernels.first(x.flatten(0, 1)), cache, keep);
            }
            By::Training(kernels) if cache.is_none() && keep == 0 => {
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
            By::Training(_) | By::Operations => (),
        }
        let positions = x.dims()[1] / batch + cache.as_ref().map_or(0, KvCache::len);
        let beyond = if self.blocks.first().is_some_and(|block| block.attention.takes_whole_rows()) {
            Beyond::new(positions, &device)
        } else {
            None
        };
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
    ///
    /// # Panics
    ///
    /// Where those are of another width.
    pub fn vocabulary_logits(&self, rows: Tensor<2>) -> Tensor<2> {
        self.logits(rows, self.config.vocabulary().size())
    }

    /// Logits over the V codes, `[R, V]`, of rows of the residual stream `[R, D]`.
    ///
    /// # Panics
    ///
    /// As [`vocabulary_logits`](Self::vocabulary_logits) does.
    pub fn code_logits(&self, rows: Tensor<2>) -> Tensor<2> {
        self.logits(rows, self.config.codes)
    }

    fn logits(&self, rows: Tensor<2>, count: usize) -> Tensor<2> {
        self.check_width(rows.dims());
        if rows.dims()[0] == 0 {
            return nothing([0, count], &rows.device());
        }
        let table = self.embedding.tokens.val();
        let device = rows.device();
        match self.by(&device) {
            By::Decode(kernels) => self.head.forward_by(kernels, rows, table, count),
            // What these spare is the way back; off the tape, as in a validation, there is none, and logits are those of operations.
            By::Training(kernels) if device.is_autodiff() => {
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
