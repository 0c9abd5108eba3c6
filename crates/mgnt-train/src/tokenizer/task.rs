use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor};
use mgnt_data::loader::{Order, flipped, spread};
use mgnt_data::picture::mirrored;
use mgnt_data::{Picture, PictureStore};
use mgnt_eval::{Dims, Inception, Moments, Statistics, frechet_distance, psnr, ssim};
use mgnt_tokenizer::quantizer::CodeUsage;
use mgnt_tokenizer::{ImageTokenizer, Rebuilt};
use mgnt_weights::module::numbers;

use super::game::{self, Played, Terms, play};
use super::start::Start;
use super::{Lecam, Perceptual, TokenizerAndJudge, TokenizerRecipe, Trained};
use crate::Error;
use crate::task::{Description, Figures, PartOutput, Task};

/// Training of the image tokenizer on a picture store.
#[derive(Debug)]
pub struct TokenizerTask {
    recipe: TokenizerRecipe,
    store: Arc<PictureStore>,
    held_out: Option<Arc<PictureStore>>,
    networks: Networks,
    start: Option<Start>,
    order: Order,
    device: Device,
    usage: CodeUsage,
    lecam: Lecam,
    reference: OnceLock<Moments>,
}

/// Networks of others that a training looks at its pictures with.
#[derive(Debug, Default)]
pub struct Networks {
    /// For the perceptual term of the loss.
    pub perceptual: Option<Perceptual>,
    /// For the Frechet distance of rebuilt pictures at validations.
    pub rfid: Option<Rfid>,
}

/// How the Frechet distance of rebuilt pictures from their originals is taken.
#[derive(Debug)]
pub struct Rfid {
    /// The network.
    pub network: Arc<Inception>,
    /// Its features.
    pub dims: Dims,
    /// Pictures, at most.
    pub pictures: usize,
}

/// What a pass of a part's pictures gave.
struct Passed {
    terms: Terms,
    /// The discriminator's mean logits of real and of rebuilt pictures.
    logits: Option<[f64; 2]>,
    /// Numbers of the codes.
    indices: Tensor<1, Int>,
    /// Where codes are trained.
    latents: Option<Tensor<2>>,
}

/// What a part of a step saw.
#[derive(Debug)]
pub struct Seen {
    codes: Vec<usize>,
    /// Latents, from which unused codes are made anew, where that comes next.
    latents: Vec<f32>,
    /// Its share of the discriminator's mean logits of real and of rebuilt pictures.
    logits: Option<[f64; 2]>,
}

/// Pictures of a validation, at most; the Frechet distance has a number of its own.
const VALIDATED: usize = 128;

impl TokenizerTask {
    /// A task on `store`, validated on `held_out`; both must have the recipe's picture size.
    pub fn new(
        recipe: &TokenizerRecipe,
        store: &Arc<PictureStore>,
        held_out: Option<&Arc<PictureStore>>,
        networks: Networks,
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
        if recipe.perceptual_weight > 0.0 && networks.perceptual.is_none() {
            let expected = "weights of a perceptual network for it, or 0".into();
            let got = recipe.perceptual_weight.to_string();
            return Err(Error::Recipe { field: "perceptual_weight".into(), expected, got });
        }
        if let (Some(rfid), Some(store)) = (&networks.rfid, held_out)
            && rfid.pictures.min(store.len()) < 2
        {
            let got = format!("{} of {}", rfid.pictures, store.len());
            let (field, expected) = ("pictures of the rFID".into(), "two held-out pictures at least".into());
            return Err(Error::Recipe { field, expected, got });
        }
        let order = Order::new(store.len(), recipe.optimization.batch, recipe.optimization.seed);
        let usage = CodeUsage::new(recipe.tokenizer.codes);
        Ok(Self {
            recipe: recipe.clone(),
            store: store.clone(),
            held_out: held_out.cloned(),
            networks,
            start: None,
            order,
            device: device.clone(),
            usage,
            lecam: Lecam::default(),
            reference: OnceLock::new(),
        })
    }

    /// Begins with the weights of this model directory, whose sizes must be the recipe's; pictures may be of another size.
    pub fn starting_from(mut self, folder: &Path) -> Result<Self, Error> {
        self.start = Some(Start::open(folder, &self.recipe.tokenizer, &self.device)?);
        Ok(self)
    }

    /// Whether codes are made anew after a step.
    fn revives_at(&self, step: usize) -> bool {
        let TokenizerRecipe { trained, revive_every: every, revive_until, .. } = self.recipe;
        // The first batch replaces a random codebook, which lies nowhere near the latents.
        let first = if self.start.is_some() { 1 } else { 0 };
        trained == Trained::Whole
            && every > 0
            && (first..revive_until).contains(&step)
            && step.is_multiple_of(every)
    }

    /// The tokenizer that an average stands for: where the decoder alone is trained, the encoder and codebook are those that it
    /// began with, which an average is only but for rounding.
    fn settled(&self, average: &TokenizerAndJudge) -> Result<ImageTokenizer, Error> {
        let tokenizer = average.tokenizer.valid();
        Ok(match (self.recipe.trained, &self.start) {
            (Trained::Decoder, Some(start)) => tokenizer.with_codes_of(start.tokenizer())?,
            _ => tokenizer,
        })
    }

    /// The pictures at places of a step's batch, half of them mirrored.
    fn pictures(&self, step: usize, places: Range<usize>) -> Vec<Vec<u8>> {
        let items = self.order.batch(step);
        let seed = self.recipe.optimization.seed;
        places
            .map(|place| {
                let picture = self.store.picture(items[place]);
                if flipped(seed, step, place) {
                    mirrored(picture, self.store.size())
                } else {
                    picture.to_vec()
                }
            })
            .collect()
    }

    /// The error of rebuilt pictures: of pixels, and as the perceptual network sees them.
    fn error(&self, rebuilt: Tensor<4>, input: &Tensor<4>) -> Result<Terms, Error> {
        let recipe = &self.recipe;
        let difference = rebuilt.clone() - input.clone();
        let l1 = difference.clone().abs().mean();
        let l2 = (difference.clone() * difference).mean();
        let mut loss = l1.clone() * recipe.l1_weight + l2.clone() * recipe.l2_weight;
        let mut figures = vec![("l1", l1), ("l2", l2)];
        if let Some(perceptual) = &self.networks.perceptual
            && recipe.perceptual_weight > 0.0
        {
            let distance = perceptual.distance(rebuilt, input.clone())?;
            loss = loss + distance.clone() * recipe.perceptual_weight;
            figures.push(("perceptual", distance));
        }
        Ok(Terms { loss, figures })
    }

    /// A pass of the whole tokenizer.
    fn whole(&self, model: &TokenizerAndJudge, step: usize, input: Tensor<4>) -> Result<Passed, Error> {
        let recipe = &self.recipe;
        let out = model.tokenizer.forward_train(input.clone());
        let (Terms { loss, mut figures }, logits) = self.over_pictures(model, step, &out.rebuilt, input)?;
        let quantized = out.quantized;
        let loss = loss
            + quantized.codebook_loss.clone() * recipe.codebook_weight
            + quantized.commitment_loss * recipe.commitment_weight
            + quantized.entropy_loss.clone() * recipe.entropy_weight;
        figures.extend([("codebook", quantized.codebook_loss), ("entropy", quantized.entropy_loss)]);
        let (terms, latents) = (Terms { loss, figures }, Some(out.latents.detach()));
        Ok(Passed { terms, logits, indices: quantized.indices, latents })
    }

    /// The loss over pictures, with the game where it is on at this step.
    fn over_pictures(
        &self,
        model: &TokenizerAndJudge,
        step: usize,
        out: &Rebuilt,
        input: Tensor<4>,
    ) -> Result<(Terms, Option<[f64; 2]>), Error> {
        match (&self.recipe.adversary, &model.discriminator) {
            (Some(adversary), Some(discriminator)) if step >= adversary.from_step => {
                let error = |rebuilt| self.error(rebuilt, &input);
                let Played { terms, logits } =
                    play(adversary, &model.tokenizer, discriminator, &self.lecam, out, input.clone(), error)?;
                Ok((terms, Some(logits)))
            }
            _ => Ok((self.error(out.pictures.clone(), &input)?, None)),
        }
    }

    /// Frechet distance of rebuilt held-out pictures from their originals.
    fn rfid(&self, tokenizer: &ImageTokenizer, store: &PictureStore, rfid: &Rfid) -> Result<f64, Error> {
        let items: Vec<usize> = spread(store.len(), rfid.pictures).collect();
        let size = store.size();
        let mut originals = Statistics::new(rfid.dims.count());
        let mut rebuilt = Statistics::new(rfid.dims.count());
        let features = |pictures: Vec<Vec<u8>>| -> Result<Vec<f32>, Error> {
            Ok(rfid.network.activations(&whole(pictures, size)?, rfid.dims)?.features)
        };
        for chunk in items.chunks(self.recipe.optimization.samples_at_once()) {
            let pictures: Vec<&[u8]> = chunk.iter().map(|&i| store.picture(i)).collect();
            let made = tokenizer.pictures(&tokenizer.tokens(&pictures, &self.device)?, &self.device)?;
            rebuilt.add(&features(made)?)?;
            if self.reference.get().is_none() {
                originals.add(&features(pictures.into_iter().map(<[u8]>::to_vec).collect())?)?;
            }
        }
        let reference = self.reference.get_or_init(|| originals.moments());
        Ok(frechet_distance(reference, &rebuilt.moments())?.distance)
    }
}

impl Task for TokenizerTask {
    type Model = TokenizerAndJudge;
    type Extra = Seen;

    fn describe(&self) -> Result<Description, Error> {
        let mut data = BTreeMap::from([("train".into(), self.store.sha256()?)]);
        if let Some(store) = &self.held_out {
            data.insert("validation".into(), store.sha256()?);
        }
        if let Some(perceptual) = &self.networks.perceptual {
            data.insert("perceptual".into(), perceptual.sha256().into());
        }
        // The score of the best validation is of these.
        if let Some(Rfid { network, dims, pictures }) = &self.networks.rfid {
            data.insert("rfid".into(), format!("{} {} {pictures}", network.sha256(), dims.count()));
        }
        let mut tokenizer = None;
        if let Some(start) = &self.start {
            let sha256 = start.sha256().to_owned();
            if self.recipe.trained == Trained::Decoder {
                tokenizer = Some(sha256.clone());
            }
            data.insert("from".into(), sha256);
        }
        let config = &self.recipe.tokenizer;
        let model = serde_json::to_value(config).map_err(|e| Error::run("recipe", e))?;
        let tokens_a_sample = config.grid().pow(2);
        Ok(Description { task: "tokenizer", model, data, tokens_a_sample, tokenizer })
    }

    fn initial(&self, device: &Device) -> Result<TokenizerAndJudge, Error> {
        match (&self.start, self.recipe.trained) {
            (Some(start), _) => {
                Ok(TokenizerAndJudge::starting_from(start.anew(device)?, &self.recipe, device))
            }
            (None, Trained::Whole) => TokenizerAndJudge::init(&self.recipe, device),
            (None, Trained::Decoder) => {
                let expected = "whole, or a tokenizer to start from".into();
                Err(Error::Recipe { field: "trained".into(), expected, got: "decoder".into() })
            }
        }
    }

    fn draws_on_device(&self) -> bool {
        false
    }

    fn items(&self, step: usize) -> Vec<usize> {
        self.order.batch(step)
    }

    /// The entropy loss is that of each part by itself: codes are to be spread within a part. So is the adaptive
    /// weight of the game.
    fn part(
        &self,
        model: &TokenizerAndJudge,
        step: usize,
        places: Range<usize>,
    ) -> Result<PartOutput<Seen>, Error> {
        let recipe = &self.recipe;
        let share = places.len() as f64 / recipe.optimization.batch as f64;
        let pictures = self.pictures(step, places);
        let pictures: Vec<&[u8]> = pictures.iter().map(Vec::as_slice).collect();
        // A part may be computed on another device than the first.
        let device = model.devices().into_iter().next().unwrap_or_else(|| self.device.clone());
        let input = model.tokenizer.to_tensor(&pictures, &device)?;
        let Passed { terms: Terms { loss, figures }, logits, indices, latents } = match recipe.trained {
            Trained::Whole => self.whole(model, step, input)?,
            Trained::Decoder => {
                let (rebuilt, indices) = model.tokenizer.forward_train_decoder(input.clone());
                let (terms, logits) = self.over_pictures(model, step, &rebuilt, input)?;
                Passed { terms, logits, indices, latents: None }
            }
        };
        let codes: Vec<i64> = numbers(indices).map_err(Error::Device)?;
        let latents = match latents.filter(|_| self.revives_at(step)) {
            Some(latents) => numbers(latents).map_err(Error::Device)?,
            None => Vec::new(),
        };
        Ok(PartOutput {
            loss: loss * share,
            figures: figures.into_iter().map(|(name, value)| (name.to_owned(), value * share)).collect(),
            extra: Seen {
                codes: codes.into_iter().map(|code| code as usize).collect(),
                latents,
                logits: logits.map(|logits| logits.map(|mean| mean * share)),
            },
        })
    }

    fn figures(&self) -> Vec<String> {
        let always = ["l1", "l2", "codes_used", "perplexity"];
        let of_codes: &[&str] = match self.recipe.trained {
            Trained::Whole => &["codebook", "entropy"],
            Trained::Decoder => &[],
        };
        let perceptual = self.networks.perceptual.iter().map(|_| "perceptual");
        let game = self.recipe.adversary.iter().flat_map(|_| game::FIGURES);
        always
            .into_iter()
            .chain(of_codes.iter().copied())
            .chain(perceptual)
            .chain(game)
            .map(str::to_owned)
            .collect()
    }

    fn validation_figures(&self) -> Vec<String> {
        if self.held_out.is_none() {
            return Vec::new();
        }
        let always = ["l1", "psnr", "ssim", "codes_used", "perplexity"];
        let rfid = self.networks.rfid.iter().map(|_| "rfid");
        always.into_iter().chain(rfid).map(str::to_owned).collect()
    }

    fn between(
        &mut self,
        model: &TokenizerAndJudge,
        step: usize,
        seen: Vec<Seen>,
    ) -> Result<(Option<TokenizerAndJudge>, Figures), Error> {
        let sum = |which: usize| seen.iter().filter_map(|seen| seen.logits).map(|logits| logits[which]).sum();
        if seen.iter().any(|seen| seen.logits.is_some()) {
            self.lecam.update(sum(0), sum(1));
        }
        let codes = self.recipe.tokenizer.codes;
        let mut batch_usage = CodeUsage::new(codes);
        for seen in &seen {
            batch_usage.add(seen.codes.iter().copied());
            self.usage.add(seen.codes.iter().copied());
        }
        let figures =
            vec![("codes_used".into(), batch_usage.used()), ("perplexity".into(), batch_usage.perplexity())];
        if !self.revives_at(step) {
            return Ok((None, figures));
        }
        let dead = if step == 0 { (0..codes).collect() } else { self.usage.dead() };
        self.usage = CodeUsage::new(codes);
        let seed = self.recipe.optimization.seed ^ step as u64;
        let latents: Vec<f32> = seen.into_iter().flat_map(|seen| seen.latents).collect();
        let mut model = model.clone();
        model.tokenizer = model.tokenizer.with_quantizer(|quantizer| quantizer.revive(&dead, &latents, seed));
        Ok((Some(model), figures))
    }

    /// LeCAM's means, then the use of each code.
    fn memory(&self) -> Vec<u64> {
        self.lecam.memory().iter().chain(self.usage.counts()).copied().collect()
    }

    fn recall(&mut self, memory: &[u64]) {
        if let Some((&lecam, counts)) = memory.split_first_chunk() {
            self.lecam = Lecam::from_memory(lecam);
            self.usage = CodeUsage::from_counts(counts.to_vec());
        }
    }

    fn validate(&self, average: &TokenizerAndJudge) -> Result<Figures, Error> {
        let Some(store) = &self.held_out else { return Ok(Vec::new()) };
        let tokenizer = &self.settled(average)?;
        let size = store.size();
        let items: Vec<usize> = spread(store.len(), VALIDATED).collect();
        let mut usage = CodeUsage::new(self.recipe.tokenizer.codes);
        let (mut l1, mut decibels, mut alike) = (0.0, 0.0, Vec::new());
        for chunk in items.chunks(self.recipe.optimization.samples_at_once()) {
            let pictures: Vec<&[u8]> = chunk.iter().map(|&i| store.picture(i)).collect();
            let tokens = tokenizer.tokens(&pictures, &self.device)?;
            usage.add(tokens.iter().flatten().map(|&t| usize::from(t)));
            for (ours, theirs) in tokenizer.pictures(&tokens, &self.device)?.iter().zip(pictures) {
                let sum: u64 = ours.iter().zip(theirs).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
                l1 += sum as f64 / (255 * ours.len()) as f64;
                decibels += psnr(ours, theirs)?;
                // Pictures smaller than a window have no structure to compare.
                alike.extend(ssim(ours, theirs, size, size).ok());
            }
        }
        let count = items.len() as f64;
        let mut figures = vec![
            ("l1".into(), l1 / count),
            ("psnr".into(), decibels / count),
            ("codes_used".into(), usage.used()),
            ("perplexity".into(), usage.perplexity()),
        ];
        if !alike.is_empty() {
            figures.push(("ssim".into(), alike.iter().sum::<f64>() / count));
        }
        if let Some(rfid) = &self.networks.rfid {
            figures.push(("rfid".into(), self.rfid(tokenizer, store, rfid)?));
        }
        Ok(figures)
    }

    /// The Frechet distance where it is taken, else the error of pixels.
    fn score(&self, validation: &Figures) -> Option<f64> {
        let figure = |name| validation.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        figure("rfid").or_else(|| figure("l1"))
    }

    fn export(&self, average: &TokenizerAndJudge, folder: &Path) -> Result<(), Error> {
        Ok(self.settled(average)?.save(folder)?)
    }
}

fn whole(pictures: Vec<Vec<u8>>, size: usize) -> Result<Vec<Picture>, Error> {
    pictures.into_iter().map(|rgb| Ok(Picture::new(size, size, rgb)?)).collect()
}

#[cfg(test)]
mod tests;
