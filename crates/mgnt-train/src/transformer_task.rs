use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_data::TokenStore;
use mgnt_data::loader::Order;
use mgnt_model::{ModelConfig, NestedTransformer};

use crate::objective::{Teacher, lambda, mask, nested_loss};
use crate::run::{Figures, PartOutput, Task, number};
use crate::{Error, Recipe};

/// Training of the nested transformer on a token store.
#[derive(Debug)]
pub struct TransformerTask<'a> {
    recipe: &'a Recipe,
    config: ModelConfig,
    store: &'a TokenStore,
    held_out: Option<&'a TokenStore>,
    order: Order,
    device: Device,
}

/// Samples of a validation, at most.
const VALIDATED: usize = 256;
/// Keeps the masks of validation apart from those of training.
const VALIDATION_SEED: u64 = 0x7661_6c69;

impl<'a> TransformerTask<'a> {
    /// A task on `store`, validated on `held_out`, which must have the same tokens.
    pub fn new(
        recipe: &'a Recipe,
        store: &'a TokenStore,
        held_out: Option<&'a TokenStore>,
        device: &Device,
    ) -> Result<Self, Error> {
        recipe.validate()?;
        if store.is_empty() {
            return Err(Error::run("token store", "holds no picture"));
        }
        if let Some(other) = held_out
            && (other.info().grid, other.info().codes, &other.info().classes, &other.info().tokenizer)
                != (store.info().grid, store.info().codes, &store.info().classes, &store.info().tokenizer)
        {
            return Err(Error::run(
                "token store",
                "the validation tokens are of another tokenizer or other classes",
            ));
        }
        let config = recipe.model(store.info());
        config.validate()?;
        let order = Order::new(store.len(), recipe.optimization.batch, recipe.optimization.seed);
        Ok(Self { recipe, config, store, held_out, order, device: device.clone() })
    }

    /// Sizes of the model that is trained.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
}

/// A masked batch as tensors; see [`nested_loss`].
struct Batch {
    tokens: Tensor<2, Int>,
    rows: Tensor<1, Int>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
}

impl TransformerTask<'_> {
    /// `items` stand at the places from `first` on of a batch of `whole` samples.
    #[expect(clippy::too_many_arguments, reason = "what a batch depends on, for training and for validation")]
    fn batch(
        &self,
        store: &TokenStore,
        items: &[usize],
        first: usize,
        whole: usize,
        seed: u64,
        step: usize,
        class_dropout: f64,
        device: &Device,
    ) -> Result<Batch, Error> {
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
        Ok(Batch {
            tokens: Tensor::from_data(TensorData::new(tokens, [items.len(), length]), device),
            rows: Tensor::from_data(TensorData::new(rows, [count]), device),
            targets: Tensor::from_data(TensorData::new(targets, [count]), device),
            weights: Tensor::from_data(TensorData::new(weights, [count]), device),
        })
    }
}

impl Task for TransformerTask<'_> {
    type Model = NestedTransformer;
    type Extra = ();

    fn initial(&self, device: &Device) -> Result<NestedTransformer, Error> {
        Ok(NestedTransformer::init(&self.config, self.recipe.optimization.seed, device)?)
    }

    fn draws_on_device(&self) -> bool {
        self.config.dropout > 0.0
    }

    fn part(
        &self,
        model: &NestedTransformer,
        step: usize,
        places: Range<usize>,
    ) -> Result<PartOutput<()>, Error> {
        let (recipe, seed) = (self.recipe, self.recipe.optimization.seed);
        let items = self.order.batch(step);
        let whole = items.len();
        let device = model.device();
        let first = places.start;
        let batch =
            self.batch(self.store, &items[places], first, whole, seed, step, recipe.class_dropout, &device)?;
        let loss = nested_loss(
            model,
            batch.tokens,
            batch.rows,
            batch.targets,
            batch.weights,
            lambda(step, recipe.optimization.steps),
            recipe.label_smoothing,
            recipe.objective,
        )?;
        let figures = loss.truth.into_iter().map(|(p, loss)| (format!("loss_p{p}"), loss)).collect();
        Ok(PartOutput { loss: loss.total, figures, extra: () })
    }

    fn between(
        &mut self,
        model: NestedTransformer,
        step: usize,
        _: Vec<()>,
    ) -> Result<(NestedTransformer, Figures), Error> {
        let lambda = lambda(step, self.recipe.optimization.steps);
        Ok((model, vec![("lambda".into(), lambda)]))
    }

    /// Cross-entropy without smoothing, of every sub-model, under masks that are the same each time.
    fn validate(&self, average: &NestedTransformer) -> Result<Figures, Error> {
        let Some(store) = self.held_out else { return Ok(Vec::new()) };
        // Evenly over the store, which is sorted by class.
        let count = store.len().min(VALIDATED);
        let items: Vec<usize> = (0..count).map(|i| i * store.len() / count).collect();
        let truth_only = crate::objective::NestedOptions { teacher: Teacher::Truth };
        let mut sums = vec![0.0; self.config.sub_models.len()];
        let chunks = items.chunks(self.recipe.optimization.batch);
        let shares: Vec<f64> = chunks.clone().map(|chunk| chunk.len() as f64 / count as f64).collect();
        for (step, (chunk, share)) in chunks.zip(shares).enumerate() {
            let b = self.batch(store, chunk, 0, chunk.len(), VALIDATION_SEED, step, 0.0, &self.device)?;
            let loss = nested_loss(average, b.tokens, b.rows, b.targets, b.weights, 1.0, 0.0, truth_only)?;
            for (sum, (_, value)) in sums.iter_mut().zip(loss.truth) {
                *sum += share * number(value)?;
            }
        }
        Ok(self.config.sub_models.iter().map(|p| format!("loss_p{p}")).zip(sums).collect())
    }

    fn export(&self, average: &NestedTransformer, folder: &Path) -> Result<(), Error> {
        Ok(average.valid().save(folder)?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use mgnt_data::{TokenStoreInfo, TokenWriter};

    use super::*;
    use crate::optimizer::tests::optimization;
    use crate::{Optimization, Outcome, RunOptions, run};

    fn store(folder: &Path) -> TokenStore {
        let info = TokenStoreInfo {
            grid: [3, 3],
            codes: 8,
            classes: vec!["a".into(), "b".into()],
            tokenizer: "none".into(),
            source: "test".into(),
        };
        let mut writer = TokenWriter::new(folder, info);
        for i in 0..24u16 {
            let tokens: Vec<u16> =
                (0..9).map(|place| if i % 2 == 0 { place % 4 } else { 7 - place % 4 }).collect();
            writer.push(&tokens, usize::from(i % 2)).unwrap();
        }
        writer.finish().unwrap();
        TokenStore::open(folder).unwrap()
    }

    fn recipe(steps: usize) -> Recipe {
        Recipe {
            layers: 1,
            width: 16,
            heads: 4,
            hidden: 32,
            sub_models: vec![1, 2, 4],
            norm: Default::default(),
            nesting: Default::default(),
            dropout: 0.1,
            class_dropout: 0.1,
            label_smoothing: 0.1,
            objective: Default::default(),
            optimization: Optimization {
                steps,
                warm_up_steps: 3,
                checkpoint_every: 4,
                validate_every: 6,
                ..optimization()
            },
        }
    }

    fn train(
        store: &TokenStore,
        recipe: &Recipe,
        out: &Path,
        resume: bool,
        stop_after: Option<usize>,
    ) -> (Result<Outcome, Error>, Vec<crate::Event>) {
        let device = Device::flex();
        let mut task = TransformerTask::new(recipe, store, Some(store), &device).unwrap();
        let stop = AtomicBool::new(false);
        let mut events = Vec::new();
        let mut watch = |event: &crate::Event| {
            events.push(event.clone());
            stop.store(stop_after.is_some_and(|n| event.step >= n), Ordering::Relaxed);
        };
        let options = RunOptions { device: &device, out, resume, side_by_side: true, stop: &stop };
        let outcome = run(&mut task, &recipe.optimization, recipe, options, &mut watch);
        (outcome, events)
    }

    #[test]
    fn losses_of_every_sub_model_fall() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("tokens"));
        let recipe = recipe(80);
        let (outcome, events) = train(&store, &recipe, &folder.path().join("run"), false, None);
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        let validations: Vec<_> =
            events.iter().filter(|e| e.figures.contains_key("validation_loss_p1")).collect();
        for p in [1, 2, 4] {
            let key = format!("validation_loss_p{p}");
            let (first, last) =
                (validations[0].figures[&key], validations[validations.len() - 1].figures[&key]);
            assert!(last < first - 0.2, "p = {p}: {first} {last}");
        }
        let model = NestedTransformer::load(folder.path().join("run/model"), &Device::flex()).unwrap();
        assert_eq!(model.config().codes, 8);
    }

    #[test]
    fn a_resumed_run_has_the_same_weights_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("tokens"));
        let recipe = recipe(14);
        let weights =
            |run: &str| std::fs::read(folder.path().join(run).join("model/model.safetensors")).unwrap();
        let (outcome, _) = train(&store, &recipe, &folder.path().join("whole"), false, None);
        assert_eq!(outcome.unwrap(), Outcome::Finished);

        let parts = folder.path().join("parts");
        assert_eq!(train(&store, &recipe, &parts, false, Some(5)).0.unwrap(), Outcome::Interrupted(5));
        assert_eq!(train(&store, &recipe, &parts, true, Some(9)).0.unwrap(), Outcome::Interrupted(9));
        // As after a kill: the newest checkpoint is torn, the one before it is taken.
        let newest = parts.join("checkpoints/step-00000009/model.bpk");
        let bytes = std::fs::read(&newest).unwrap();
        std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(train(&store, &recipe, &parts, true, None).0.unwrap(), Outcome::Finished);
        assert!(weights("parts") == weights("whole"));
    }

    /// Weights after some steps, without dropout.
    fn trained(store: &TokenStore, parts: usize, side_by_side: bool, out: &Path) -> Vec<f32> {
        let mut recipe = Recipe { dropout: 0.0, ..recipe(6) };
        recipe.optimization.parts = parts;
        let device = Device::flex();
        let mut task = TransformerTask::new(&recipe, store, None, &device).unwrap();
        let stop = AtomicBool::new(false);
        let options = RunOptions { device: &device, out, resume: false, side_by_side, stop: &stop };
        run(&mut task, &recipe.optimization, &recipe, options, &mut |_| {}).unwrap();
        let weights = mgnt_weights::safetensors::read(&out.join("model/model.safetensors")).unwrap();
        weights.iter().flat_map(|(_, tensor)| tensor.to_f32()).collect()
    }

    #[test]
    fn parts_add_up_to_the_whole_and_threads_change_no_bit() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("tokens"));
        let run = |name: &str, parts, side| trained(&store, parts, side, &folder.path().join(name));
        let whole = run("whole", 1, false);
        let parts = run("parts", 3, false);
        assert!(parts == run("side-by-side", 3, true));
        let worst = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Adam divides by the root of the second moment: where gradients are near zero, rounding shows.
        assert!(worst < 2e-3, "{worst}");
        assert!(whole != parts, "the parts were not computed apart");
    }

    #[test]
    fn a_run_is_not_overwritten_nor_resumed_with_another_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder.path().join("tokens"));
        let out = folder.path().join("run");
        assert!(train(&store, &recipe(5), &out, true, None).0.is_err());
        train(&store, &recipe(5), &out, false, None).0.unwrap();
        let again = train(&store, &recipe(5), &out, false, None).0.unwrap_err().to_string();
        assert!(again.contains("--resume"), "{again}");
        let other = train(&store, &recipe(6), &out, true, None).0.unwrap_err().to_string();
        assert!(other.contains("another recipe"), "{other}");
    }
}
