use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use mgnt_data::PictureStore;
use mgnt_data::loader::{Order, flipped};
use mgnt_tokenizer::ImageTokenizer;
use mgnt_tokenizer::quantizer::CodeUsage;

use crate::run::{StepOutput, Task, number};
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
    /// Latents of the last step, from which unused codes are made anew.
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
        Ok(Self { recipe, store, held_out, order, device: device.clone(), usage, latents: Vec::new() })
    }

    fn revives_at(&self, step: usize) -> bool {
        let every = self.recipe.revive_every;
        // The first batch replaces the random codebook, which lies nowhere near the latents.
        every > 0 && step < self.recipe.revive_until && (step == 0 || step.is_multiple_of(every))
    }
}

impl Task for TokenizerTask<'_> {
    type Model = ImageTokenizer;

    fn initial(&self, device: &Device) -> Result<ImageTokenizer, Error> {
        Ok(ImageTokenizer::init(&self.recipe.tokenizer, self.recipe.optimization.seed, device)?)
    }

    fn step(&mut self, model: &ImageTokenizer, step: usize) -> Result<StepOutput, Error> {
        let recipe = self.recipe;
        let items = self.order.batch(step);
        let size = self.store.size();
        let pictures: Vec<Vec<u8>> = items
            .iter()
            .enumerate()
            .map(|(place, &item)| {
                let picture = self.store.picture(item);
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
        let l1 = difference.clone().abs().mean();
        let l2 = (difference.clone() * difference).mean();
        let quantized = out.quantized;
        let loss = l1.clone() * recipe.l1_weight
            + l2.clone() * recipe.l2_weight
            + quantized.codebook_loss.clone() * recipe.codebook_weight
            + quantized.commitment_loss.clone() * recipe.commitment_weight
            + quantized.entropy_loss.clone() * recipe.entropy_weight;

        let device_error = |e| Error::Device(format!("{e:?}"));
        let indices =
            quantized.indices.into_data().convert::<i64>().try_into_vec::<i64>().map_err(device_error)?;
        let mut batch_usage = CodeUsage::new(recipe.tokenizer.codes);
        batch_usage.add(indices.iter().map(|&i| i as usize));
        self.usage.add(indices.iter().map(|&i| i as usize));
        if self.revives_at(step) {
            let latents = out.latents.detach().into_data().convert::<f32>();
            self.latents = latents.try_into_vec::<f32>().map_err(device_error)?;
        }
        Ok(StepOutput {
            loss,
            figures: vec![
                ("l1".into(), l1),
                ("l2".into(), l2),
                ("codebook".into(), quantized.codebook_loss),
                ("entropy".into(), quantized.entropy_loss),
            ],
            numbers: vec![
                ("codes_used".into(), batch_usage.used()),
                ("perplexity".into(), batch_usage.perplexity()),
            ],
        })
    }

    fn between(&mut self, model: ImageTokenizer, step: usize) -> Result<ImageTokenizer, Error> {
        if !self.revives_at(step) {
            return Ok(model);
        }
        let codes = self.recipe.tokenizer.codes;
        let dead = if step == 0 { (0..codes).collect() } else { self.usage.dead() };
        self.usage = CodeUsage::new(codes);
        let seed = self.recipe.optimization.seed ^ step as u64;
        let latents = std::mem::take(&mut self.latents);
        Ok(model.with_quantizer(|quantizer| quantizer.revive(&dead, &latents, seed)))
    }

    fn validate(&self, average: &ImageTokenizer) -> Result<Vec<(String, f64)>, Error> {
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
    use std::sync::atomic::AtomicBool;

    use mgnt_data::{PrepareOptions, prepare, synthetic};
    use mgnt_tokenizer::{ImageTokenizerConfig, Shortcut};

    use super::*;
    use crate::optimizer::tests::optimization;
    use crate::{Event, Optimization, Outcome, run};

    #[test]
    fn rows_are_mirrored() {
        assert_eq!(
            mirrored(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 2),
            [4, 5, 6, 1, 2, 3, 10, 11, 12, 7, 8, 9]
        );
    }

    #[test]
    fn reconstruction_improves_and_codes_are_used() {
        let folder = tempfile::tempdir().unwrap();
        synthetic::write_folder(&folder.path().join("pictures"), 3, 16, 1).unwrap();
        let options = PrepareOptions { size: 16, ..PrepareOptions::default() };
        let path = folder.path().join("store");
        prepare(&folder.path().join("pictures"), &options, &path, &mut |_, _| {}).unwrap();
        let store = PictureStore::open(&path).unwrap();
        let recipe = TokenizerRecipe {
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
                steps: 60,
                warm_up_steps: 5,
                log_every: 5,
                validate_every: 60,
                ..optimization()
            },
        };
        let device = Device::flex();
        let mut task = TokenizerTask::new(&recipe, &store, Some(&store), &device).unwrap();
        let mut events: Vec<Event> = Vec::new();
        let out = folder.path().join("run");
        let mut watch = |event: &Event| events.push(event.clone());
        let stop = AtomicBool::new(false);
        let outcome =
            run(&mut task, &recipe.optimization, &recipe, &device, &out, false, &stop, &mut watch).unwrap();
        assert_eq!(outcome, Outcome::Finished);
        let (first, last) = (&events[0].figures, &events[events.len() - 2].figures);
        assert!(last["l1"] < 0.6 * first["l1"], "{} {}", first["l1"], last["l1"]);
        let validation = &events[events.len() - 1].figures;
        assert!(validation["validation_codes_used"] > 0.4, "{validation:?}");
        assert!(validation["validation_psnr"] > 12.0, "{validation:?}");
        ImageTokenizer::load(out.join("model"), &device).unwrap();
    }

    #[test]
    fn another_picture_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        synthetic::write_folder(&folder.path().join("pictures"), 1, 16, 1).unwrap();
        let options = PrepareOptions { size: 24, ..PrepareOptions::default() };
        let path = folder.path().join("store");
        prepare(&folder.path().join("pictures"), &options, &path, &mut |_, _| {}).unwrap();
        let store = PictureStore::open(&path).unwrap();
        let recipe: TokenizerRecipe = crate::parse_with_overrides(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/image/debug-tokenizer.ron"),
            &[],
        )
        .unwrap();
        let error = TokenizerTask::new(&recipe, &store, None, &Device::flex()).unwrap_err().to_string();
        assert!(error.contains("24 px"), "{error}");
    }
}
