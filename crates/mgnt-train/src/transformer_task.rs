use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use mgnt_data::loader::{Order, spread};
use mgnt_data::manifest::sha256_of_file;
use mgnt_data::{TokenStore, TokenStoreInfo};
use mgnt_model::kernels::Kernels;
use mgnt_model::kernels::philox::philox;
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_weights::directory::{ModelDirectory, WEIGHTS};

use crate::objective::{MaskedBatch, Teacher, lambda, mask, nested_loss};
use crate::task::{Description, Figures, PartOutput, Task, number};
use crate::{Error, Precision, Recipe};

/// Training of the nested transformer on a token store.
#[derive(Debug)]
pub struct TransformerTask {
    recipe: Recipe,
    config: ModelConfig,
    store: Arc<TokenStore>,
    held_out: Option<Arc<TokenStore>>,
    order: Order,
    device: Device,
    /// Weights to begin with, instead of random ones.
    start: Option<ModelDirectory>,
    on_processor: bool,
    kernels: Option<Arc<dyn Kernels>>,
}

/// What a part of a batch draws by: its samples stand at the places from `first` on of a batch of `whole` samples.
struct Draws {
    seed: u64,
    step: usize,
    first: usize,
    whole: usize,
}

/// Samples of a validation, at most.
const VALIDATED: usize = 256;
/// Keeps the masks of validation apart from those of training.
const VALIDATION_SEED: u64 = 0x7661_6c69;
/// Keeps dropout apart from what else a seed decides.
const DROPOUT: u32 = 0x6472_6f70;

impl TransformerTask {
    /// A task on `store`, validated on `held_out`, which must have the same tokens.
    pub fn new(
        recipe: &Recipe,
        store: &Arc<TokenStore>,
        held_out: Option<&Arc<TokenStore>>,
        device: &Device,
    ) -> Result<Self, Error> {
        recipe.validate()?;
        if store.is_empty() {
            return Err(Error::run("token store", "holds no picture"));
        }
        if let Some(other) = held_out {
            let refuse = |reason: String| Err(Error::run("validation tokens", reason));
            if other.is_empty() {
                return refuse("hold no picture".into());
            }
            if !other.info().has_tokens_of(store.info()) {
                let of = |info: &TokenStoreInfo| {
                    let [rows, columns] = info.grid;
                    format!(
                        "{rows}x{columns} of {} codes of the tokenizer {}",
                        info.codes,
                        info.tokens_sha256()
                    )
                };
                let (ours, theirs) = (of(store.info()), of(other.info()));
                return refuse(format!(
                    "are of another tokenizer than those to train on: {theirs}, not {ours}"
                ));
            }
            if other.info().classes != store.info().classes {
                return refuse("are of other classes than those to train on".into());
            }
        }
        let config = recipe.model(store.info());
        config.validate()?;
        let order = Order::new(store.len(), recipe.optimization.batch, recipe.optimization.seed);
        Ok(Self {
            recipe: recipe.clone(),
            config,
            store: store.clone(),
            held_out: held_out.cloned(),
            order,
            device: device.clone(),
            start: None,
            on_processor: false,
            kernels: None,
        })
    }

    /// Begins with the weights of a model directory, such as an imported checkpoint whose sub-models were never trained.
    ///
    /// Its sizes must be those of recipe and tokens. Where it has no null class, as published MaskGIT, the model gets
    /// none either: a dropped class is then the mask token.
    pub fn starting_from(mut self, folder: &Path) -> Result<Self, Error> {
        let directory = ModelDirectory::new(folder);
        let given: ModelConfig = directory.config()?;
        let ours = &self.config;
        let sizes = [
            ("layers", ours.layers, given.layers),
            ("width", ours.width, given.width),
            ("heads", ours.heads, given.heads),
            ("hidden", ours.hidden, given.hidden),
            ("tokens", ours.tokens, given.tokens),
            ("codes", ours.codes, given.codes),
            ("classes", ours.classes, given.classes),
        ];
        let named = |field: &str, given: String, ours: String| Error::Recipe {
            field: field.into(),
            expected: format!("{given}, as in {}", folder.display()),
            got: ours,
        };
        if let Some((field, ours, given)) = sizes.iter().find(|(_, ours, given)| ours != given) {
            return Err(named(field, given.to_string(), ours.to_string()));
        }
        if ours.norm != given.norm {
            return Err(named("norm", format!("{:?}", given.norm), format!("{:?}", ours.norm)));
        }
        self.config.null_class = given.null_class;
        self.start = Some(directory);
        Ok(self)
    }

    /// Takes exponentials on the host ([`NestedTransformer::on_processor`]).
    pub fn on_processor(self) -> Self {
        Self { on_processor: true, ..self }
    }

    /// Computes blocks by kernels of the device ([`NestedTransformer::learning_with`]).
    pub fn with_kernels(self, kernels: Arc<dyn Kernels>) -> Self {
        Self { kernels: Some(kernels), ..self }
    }

    /// Sizes of the model that is trained.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
}

impl TransformerTask {
    /// What these places of the batch of step `step` show and hide.
    pub fn masked(&self, step: usize, places: Range<usize>, device: &Device) -> Result<MaskedBatch, Error> {
        let items = self.order.batch(step);
        let seed = self.recipe.optimization.seed;
        let draws = Draws { seed, step, first: places.start, whole: items.len() };
        self.batch(&self.store, &items[places], draws, self.recipe.class_dropout, device)
    }

    /// The recipe's loss of step `step` on the part of its batch that begins at the place `first`.
    pub fn loss(
        &self,
        model: &NestedTransformer,
        step: usize,
        first: usize,
        batch: &MaskedBatch,
    ) -> Result<PartOutput<()>, Error> {
        let recipe = &self.recipe;
        let model = model.computing_in(match recipe.precision {
            Precision::F32 => FloatDType::F32,
            Precision::Bf16 => FloatDType::BF16,
        })?;
        let model = &model.dropping_by(dropout_seed(recipe.optimization.seed, step, first));
        let objective = recipe.objective;
        let factors = objective.students.of_step(&recipe.sub_models, recipe.optimization.seed, step);
        let lambda = lambda(step, recipe.optimization.steps);
        let loss = nested_loss(
            model,
            batch,
            &factors,
            objective.teacher,
            lambda,
            recipe.label_smoothing,
            self.kernels.as_deref(),
        )?;
        let figures = loss.truth.into_iter().map(|(p, loss)| (format!("loss_p{p}"), loss)).collect();
        Ok(PartOutput { loss: loss.total, figures, extra: () })
    }

    /// What these items of a store show and hide.
    fn batch(
        &self,
        store: &TokenStore,
        items: &[usize],
        Draws { seed, step, first, whole }: Draws,
        class_dropout: f64,
        device: &Device,
    ) -> Result<MaskedBatch, Error> {
        let vocabulary = self.config.vocabulary();
        let length = self.config.positions();
        let (mut tokens, mut rows) = (Vec::with_capacity(items.len() * length), Vec::new());
        let (mut targets, mut weights) = (Vec::new(), Vec::new());
        for (place, &item) in items.iter().enumerate() {
            let masked = mask(seed, step, first + place, self.config.tokens, class_dropout);
            let class =
                if masked.class_dropped { vocabulary.null() } else { vocabulary.class(store.label(item))? };
            let start = tokens.len();
            let codes = store.tokens(item);
            tokens.push(class as i32);
            tokens.extend(codes.iter().map(|&code| i32::from(code)));
            let weight = 1.0 / (whole * masked.places.len()) as f32;
            for hidden in masked.places {
                tokens[start + 1 + hidden] = vocabulary.mask() as i32;
                rows.push((start + 1 + hidden) as i32);
                targets.push(i32::from(codes[hidden]));
                weights.push(weight);
            }
        }
        let count = rows.len();
        Ok(MaskedBatch {
            tokens: Tensor::from_data(TensorData::new(tokens, [items.len(), length]), device),
            rows: Tensor::from_data(TensorData::new(rows, [count]), device),
            targets: Tensor::from_data(TensorData::new(targets, [count]), device),
            weights: Tensor::from_data(TensorData::new(weights, [count]), device),
        })
    }
}

/// What dropout is a function of in the part of a step that begins at the place `first`.
fn dropout_seed(seed: u64, step: usize, first: usize) -> u64 {
    let [low, high] = [step as u32, (step as u64 >> 32) as u32];
    let [a, b, ..] = philox([low, high, first as u32, DROPOUT], [seed as u32, (seed >> 32) as u32]);
    u64::from(a) | u64::from(b) << 32
}

impl Task for TransformerTask {
    type Model = NestedTransformer;
    type Extra = ();

    fn describe(&self) -> Result<Description, Error> {
        let mut data = BTreeMap::from([("train".into(), self.store.sha256()?)]);
        if let Some(store) = &self.held_out {
            data.insert("validation".into(), store.sha256()?);
        }
        if let Some(start) = &self.start {
            data.insert("from".into(), sha256_of_file(&start.path().join(WEIGHTS))?);
        }
        let model = serde_json::to_value(&self.config).map_err(|e| Error::run("recipe", e))?;
        let (tokens_a_sample, tokenizer) =
            (self.config.tokens, Some(self.store.info().tokens_sha256().to_owned()));
        Ok(Description { task: "transformer", model, data, tokens_a_sample, tokenizer })
    }

    fn initial(&self, device: &Device) -> Result<NestedTransformer, Error> {
        let model = match &self.start {
            Some(start) => {
                let (weights, path) = (start.weights()?, start.path().join(WEIGHTS));
                weights.check_finite().map_err(|error| error.at(&path))?;
                let model = NestedTransformer::from_weights(&self.config, weights, device);
                model.map_err(|error| match error {
                    mgnt_model::Error::Weights(error) => Error::from(error.at(path)),
                    other => other.into(),
                })?
            }
            None => NestedTransformer::init(&self.config, self.recipe.optimization.seed, device)?,
        };
        let model = if self.on_processor { model.on_processor() } else { model };
        Ok(match &self.kernels {
            Some(kernels) => model.learning_with(kernels.clone()),
            None => model,
        })
    }

    fn kernels(&self) -> Option<Arc<dyn Kernels>> {
        self.kernels.clone()
    }

    fn draws_on_device(&self) -> bool {
        // Kernels drop by the recipe's seed.
        self.config.dropout > 0.0 && !(self.kernels.is_some() && self.config.is_learned_by_kernels())
    }

    fn items(&self, step: usize) -> Vec<usize> {
        self.order.batch(step)
    }

    fn part(
        &self,
        model: &NestedTransformer,
        step: usize,
        places: Range<usize>,
    ) -> Result<PartOutput<()>, Error> {
        let first = places.start;
        self.loss(model, step, first, &self.masked(step, places, &model.device())?)
    }

    fn figures(&self) -> Vec<String> {
        let losses = self.config.sub_models.iter().map(|p| format!("loss_p{p}"));
        losses.chain(["lambda".into()]).collect()
    }

    fn validation_figures(&self) -> Vec<String> {
        if self.held_out.is_none() {
            return Vec::new();
        }
        self.config.sub_models.iter().map(|p| format!("loss_p{p}")).collect()
    }

    fn between(
        &mut self,
        _: &NestedTransformer,
        step: usize,
        _: Vec<()>,
    ) -> Result<(Option<NestedTransformer>, Figures), Error> {
        let lambda = lambda(step, self.recipe.optimization.steps);
        Ok((None, vec![("lambda".into(), lambda)]))
    }

    /// Cross-entropy without smoothing, of every sub-model, under masks that are the same each time.
    fn validate(&self, average: &NestedTransformer) -> Result<Figures, Error> {
        let Some(store) = &self.held_out else { return Ok(Vec::new()) };
        let items: Vec<usize> = spread(store.len(), VALIDATED).collect();
        let count = items.len();
        let mut sums = vec![0.0; self.config.sub_models.len()];
        let at_once = self.recipe.optimization.samples_at_once();
        for (first, chunk) in (0..).step_by(at_once).zip(items.chunks(at_once)) {
            // A sample's mask is of its place among all, and its weight its share of them.
            let draws = Draws { seed: VALIDATION_SEED, step: 0, first, whole: count };
            let b = self.batch(store, chunk, draws, 0.0, &self.device)?;
            let loss = nested_loss(
                average,
                &b,
                &self.config.sub_models,
                Teacher::Truth,
                1.0,
                0.0,
                self.kernels.as_deref(),
            )?;
            for (sum, (_, value)) in sums.iter_mut().zip(loss.truth) {
                *sum += number(value)?;
            }
        }
        Ok(self.config.sub_models.iter().map(|p| format!("loss_p{p}")).zip(sums).collect())
    }

    /// The mean over sub-models: a schedule uses them all.
    fn score(&self, validation: &Figures) -> Option<f64> {
        let sum: f64 = validation.iter().map(|(_, loss)| loss).sum();
        (!validation.is_empty()).then(|| sum / validation.len() as f64)
    }

    fn export(&self, average: &NestedTransformer, folder: &Path) -> Result<(), Error> {
        Ok(average.valid().save(folder)?)
    }
}

#[cfg(test)]
mod tests;
