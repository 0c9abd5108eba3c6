use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use mgnt_data::PictureStore;
use mgnt_data::loader::{Order, flipped};
use mgnt_tokenizer::ImageTokenizer;
use mgnt_tokenizer::quantizer::CodeUsage;

use crate::task::{Description, Figures, PartOutput, Task, number};
use crate::{Error, TokenizerRecipe};

/// Training of the image tokenizer on a picture store.
#[derive(Debug)]
pub struct TokenizerTask<'a> {
    recipe: &'a TokenizerRecipe,
    store: &'a PictureStore,
    held_out: Option<&'a PictureStore>,
    order: Order,
    device: Device,
    usage: CodeUsage,
}

/// What a part of a step saw.
#[derive(Debug)]
pub struct Seen {
    codes: Vec<usize>,
    /// Latents, from which unused codes are made anew, where that comes next.
    latents: Vec<f32>,
}

/// Pictures of a validation, at most.
const VALIDATED: usize = 128;

impl<'a> TokenizerTask<'a> {
    /// A task on `store`, validated on `held_out`; both must have the recipe's picture size.
    pub fn new(
        recipe: &'a TokenizerRecipe,
        store: &'a PictureStore,
        held_out: Option<&'a PictureStore>,
        device: &Device,
    ) -> Result<Self, Error> {
        recipe.validate()?;
        for store in std::iter::once(store).chain(held_out) {
            if store.size() != recipe.tokenizer.size || store.is_empty() {
                let got = format!("{} pictures of {} px", store.len(), store.size());
                let expected = format!("pictures of {} px, as in the recipe", recipe.tokenizer.size);
                return Err(Error::Recipe { field: "tokenizer.size".into(), expected, got });
            }
        }
        let order = Order::new(store.len(), recipe.optimization.batch, recipe.optimization.seed);
        let usage = CodeUsage::new(recipe.tokenizer.codes);
        Ok(Self { recipe, store, held_out, order, device: device.clone(), usage })
    }

    fn revives_at(&self, step: usize) -> bool {
        let every = self.recipe.revive_every;
        // The first batch replaces the random codebook, which lies nowhere near the latents.
        every > 0 && step < self.recipe.revive_until && (step == 0 || step.is_multiple_of(every))
    }
}

impl Task for TokenizerTask<'_> {
    type Model = ImageTokenizer;
    type Extra = Seen;

    fn describe(&self) -> Result<Description, Error> {
        let mut data = BTreeMap::from([("train".into(), self.store.sha256()?)]);
        if let Some(store) = self.held_out {
            data.insert("validation".into(), store.sha256()?);
        }
        let config = &self.recipe.tokenizer;
        let model = serde_json::to_value(config).map_err(|e| Error::run("recipe", e))?;
        Ok(Description { task: "tokenizer", model, data, tokens_a_sample: config.grid().pow(2) })
    }

    fn initial(&self, device: &Device) -> Result<ImageTokenizer, Error> {
        Ok(ImageTokenizer::init(&self.recipe.tokenizer, self.recipe.optimization.seed, device)?)
    }

    fn draws_on_device(&self) -> bool {
        false
    }

    fn items(&self, step: usize) -> Vec<usize> {
        self.order.batch(step)
    }

    /// The entropy loss is that of each part by itself: codes are to be spread within a part.
    fn part(
        &self,
        model: &ImageTokenizer,
        step: usize,
        places: Range<usize>,
    ) -> Result<PartOutput<Seen>, Error> {
        let recipe = self.recipe;
        let items = self.order.batch(step);
        let share = places.len() as f64 / items.len() as f64;
        let size = self.store.size();
        let pictures: Vec<Vec<u8>> = places
            .map(|place| {
                let picture = self.store.picture(items[place]);
                if flipped(recipe.optimization.seed, step, place) {
                    mirrored(picture, size)
                } else {
                    picture.to_vec()
                }
            })
            .collect();
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        let input = model.to_tensor(&pictures, &self.device.clone().autodiff())?;
        let out = model.forward_train(input.clone());
        let difference = out.reconstruction - input;
        let l1 = difference.clone().abs().mean() * share;
        let l2 = (difference.clone() * difference).mean() * share;
        let quantized = out.quantized;
        let codebook = quantized.codebook_loss * share;
        let entropy = quantized.entropy_loss * share;
        let loss = l1.clone() * recipe.l1_weight
            + l2.clone() * recipe.l2_weight
            + codebook.clone() * recipe.codebook_weight
            + quantized.commitment_loss * (share * recipe.commitment_weight)
            + entropy.clone() * recipe.entropy_weight;

        let device_error = |e| Error::Device(format!("{e:?}"));
        let codes =
            quantized.indices.into_data().convert::<i64>().try_into_vec::<i64>().map_err(device_error)?;
        let latents = if self.revives_at(step) {
            out.latents.detach().into_data().convert::<f32>().try_into_vec::<f32>().map_err(device_error)?
        } else {
            Vec::new()
        };
        let figures = [("l1", l1), ("l2", l2), ("codebook", codebook), ("entropy", entropy)];
        Ok(PartOutput {
            loss,
            figures: figures.map(|(name, value)| (name.to_owned(), value)).into(),
            extra: Seen { codes: codes.into_iter().map(|code| code as usize).collect(), latents },
        })
    }

    fn between(
        &mut self,
        model: ImageTokenizer,
        step: usize,
        seen: Vec<Seen>,
    ) -> Result<(ImageTokenizer, Figures), Error> {
        let codes = self.recipe.tokenizer.codes;
        let mut batch_usage = CodeUsage::new(codes);
        for seen in &seen {
            batch_usage.add(seen.codes.iter().copied());
            self.usage.add(seen.codes.iter().copied());
        }
        let figures =
            vec![("codes_used".into(), batch_usage.used()), ("perplexity".into(), batch_usage.perplexity())];
        if !self.revives_at(step) {
            return Ok((model, figures));
        }
        let dead = if step == 0 { (0..codes).collect() } else { self.usage.dead() };
        self.usage = CodeUsage::new(codes);
        let seed = self.recipe.optimization.seed ^ step as u64;
        let latents: Vec<f32> = seen.into_iter().flat_map(|seen| seen.latents).collect();
        Ok((model.with_quantizer(|quantizer| quantizer.revive(&dead, &latents, seed)), figures))
    }

    fn memory(&self) -> Vec<u64> {
        self.usage.counts().to_vec()
    }

    fn recall(&mut self, memory: &[u64]) {
        self.usage = CodeUsage::from_counts(memory.to_vec());
    }

    fn validate(&self, average: &ImageTokenizer) -> Result<Figures, Error> {
        let Some(store) = self.held_out else { return Ok(Vec::new()) };
        let count = store.len().min(VALIDATED);
        let items: Vec<usize> = (0..count).map(|i| i * store.len() / count).collect();
        let mut usage = CodeUsage::new(self.recipe.tokenizer.codes);
        let (mut l1, mut l2) = (0.0, 0.0);
        for chunk in items.chunks(self.recipe.optimization.batch) {
            let pictures: Vec<&[u8]> = chunk.iter().map(|&i| store.picture(i)).collect();
            let input = average.to_tensor(&pictures, &self.device)?;
            let tokens = average.tokens(&pictures, &self.device)?;
            usage.add(tokens.iter().flatten().map(|&t| usize::from(t)));
            let out = average.pictures(&tokens, &self.device)?;
            let out: Vec<&[u8]> = out.iter().map(Vec::as_slice).collect();
            let difference: Tensor<4> = average.to_tensor(&out, &self.device)? - input;
            let share = chunk.len() as f64 / count as f64;
            l1 += share * number(difference.clone().abs().mean())?;
            l2 += share * number((difference.clone() * difference).mean())?;
        }
        Ok(vec![
            ("l1".into(), l1),
            ("psnr".into(), -10.0 * l2.max(1e-12).log10()),
            ("codes_used".into(), usage.used()),
            ("perplexity".into(), usage.perplexity()),
        ])
    }

    fn score(&self, validation: &Figures) -> Option<f64> {
        validation.iter().find(|(name, _)| name == "l1").map(|(_, l1)| *l1)
    }

    fn export(&self, average: &ImageTokenizer, folder: &Path) -> Result<(), Error> {
        Ok(average.valid().save(folder)?)
    }
}

/// A picture `[size, size, 3]` with left and right exchanged.
fn mirrored(picture: &[u8], size: usize) -> Vec<u8> {
    picture.chunks(size * 3).flat_map(|row| row.chunks(3).rev().flatten().copied()).collect()
}

#[cfg(test)]
mod tests {
    use burn::train::Interrupter;
    use mgnt_data::{PrepareOptions, prepare, synthetic};
    use mgnt_tokenizer::{ImageTokenizerConfig, Shortcut};

    use super::*;
    use crate::optimizer::tests::optimization;
    use crate::{Event, Line, Optimization, Outcome, RunOptions, run};

    #[test]
    fn rows_are_mirrored() {
        assert_eq!(
            mirrored(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 2),
            [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]
        );
    }

    fn drawn_store(folder: &Path, size: usize) -> PictureStore {
        synthetic::write_folder(&folder.join("pictures"), 3, 16, 1).unwrap();
        let options = PrepareOptions { size, ..PrepareOptions::default() };
        let path = folder.join("store");
        prepare(&folder.join("pictures"), &options, &path, &mut |_, _| {}).unwrap();
        PictureStore::open(&path).unwrap()
    }

    fn recipe(steps: usize) -> TokenizerRecipe {
        TokenizerRecipe {
            tokenizer: ImageTokenizerConfig {
                size: 16,
                filters: 8,
                multipliers: vec![1, 1],
                residual_blocks: 1,
                embedding: 8,
                codes: 16,
                groups: 4,
                shortcut: Shortcut::Input,
            },
            l1_weight: 1.0,
            l2_weight: 1.0,
            codebook_weight: 1.0,
            commitment_weight: 0.25,
            entropy_weight: 0.01,
            revive_every: 10,
            revive_until: 40,
            optimization: Optimization {
                steps,
                parts: 2,
                warm_up_steps: 5,
                log_every: 5,
                validate_every: 60,
                ..optimization()
            },
        }
    }

    /// Trains until the end, or until the first event at or after `stop_after` steps.
    fn train(
        store: &PictureStore,
        recipe: &TokenizerRecipe,
        out: &Path,
        resume: bool,
        stop_after: Option<usize>,
    ) -> (Outcome, Vec<Line>) {
        let device = Device::flex();
        let mut task = TokenizerTask::new(recipe, store, Some(store), &device).unwrap();
        let mut events: Vec<Line> = Vec::new();
        let stop = Interrupter::new();
        let mut watch = |event: &Event| {
            let (Event::Trained(line) | Event::Validated(line)) = event else { return };
            events.push(line.clone());
            if stop_after.is_some_and(|n| line.step >= n) {
                stop.stop(None);
            }
        };
        let options =
            RunOptions { device: &device, others: &[], out, resume, side_by_side: true, stop: &stop };
        let outcome = run(&mut task, &recipe.optimization, recipe, options, &mut watch).unwrap();
        (outcome, events)
    }

    #[test]
    fn reconstruction_improves_and_codes_are_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = drawn_store(folder.path(), 16);
        let out = folder.path().join("run");
        let (outcome, events) = train(&store, &recipe(60), &out, false, None);
        assert_eq!(outcome, Outcome::Finished);
        let (first, last) = (&events[0].figures, &events[events.len() - 2].figures);
        assert!(last["l1"] < 0.6 * first["l1"], "{} {}", first["l1"], last["l1"]);
        let validation = &events[events.len() - 1].figures;
        assert!(validation["validation_codes_used"] > 0.4, "{validation:?}");
        assert!(validation["validation_psnr"] > 12.0, "{validation:?}");
        ImageTokenizer::load(out.join("model"), &Device::flex()).unwrap();
    }

    /// The use of the codes since the last revival goes into the checkpoint.
    #[test]
    fn a_resumed_run_revives_the_same_codes() {
        let folder = tempfile::tempdir().unwrap();
        let store = drawn_store(folder.path(), 16);
        let recipe = recipe(22);
        let run = |name: &str| folder.path().join(name);
        train(&store, &recipe, &run("whole"), false, None);
        let (outcome, _) = train(&store, &recipe, &run("parts"), false, Some(15));
        assert_eq!(outcome, Outcome::Interrupted(15));
        train(&store, &recipe, &run("parts"), true, None);
        let weights = |name: &str| std::fs::read(run(name).join("model/model.safetensors")).unwrap();
        assert!(weights("whole") == weights("parts"));
    }

    #[test]
    fn another_picture_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = drawn_store(folder.path(), 24);
        let recipe: TokenizerRecipe = crate::parse_with_overrides(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/image/debug-tokenizer.ron"),
            &[],
        )
        .unwrap();
        let error = TokenizerTask::new(&recipe, &store, None, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("24 px"), "{error}");
    }
}
