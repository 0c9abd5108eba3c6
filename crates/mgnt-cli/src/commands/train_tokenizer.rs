//! `mgnt train-tokenizer`: a packed store becomes an image tokenizer.

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use clap::Args;
use mgnt_data::PictureStore;
use mgnt_eval::{Dims, Resize};
use mgnt_train::Optimization;
use mgnt_train::tokenizer::{
    Networks, Perceptual, Rfid, TokenizerAndJudge, TokenizerRecipe, TokenizerTask, Trained,
};

use super::evaluation::{network, parse_dims};
use super::samples::rebuilt;
use super::training::TrainingArguments;
use crate::device::DeviceWord;
use crate::failure::bad_use;
use crate::model_kind::ModelKind;

/// Arguments of `mgnt train-tokenizer`.
#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    training: TrainingArguments,
    /// Begin with this tokenizer's weights: to train it on, or, by `trained=decoder`, its decoder alone
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    #[command(flatten)]
    networks: NetworkArguments,
}

/// Weights of other networks, which look at the pictures.
#[derive(Args)]
#[command(next_help_heading = "Networks that look at the pictures")]
struct NetworkArguments {
    /// Weights of the perceptual loss: VGG-16 (torchvision's names) and LPIPS' linear layers, in one file or one after
    /// the other [default: the features of --inception]
    #[arg(long, value_name = "FILE")]
    perceptual: Vec<PathBuf>,
    /// Weights of the Inception network, as eval-fid takes them: for rFID at validations, and for the perceptual loss
    /// where --perceptual is not given
    #[arg(long, value_name = "FILE")]
    inception: Option<PathBuf>,
    /// Dimensions of the features for rFID: 64, 192, 768 or 2048
    #[arg(long, value_name = "N", default_value = "2048", value_parser = parse_dims, requires = "inception")]
    dims: Dims,
    /// Validation pictures for rFID, at most; 0 takes none
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "inception")]
    rfid_pictures: usize,
}

/// Trains the tokenizer.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let training = arguments.training;
    let recipe: TokenizerRecipe = training.recipe()?;
    training.checked(recipe.validate())?;
    if recipe.trained == Trained::Decoder && arguments.from.is_none() {
        return Err(bad_use(
            "the recipe's `trained: decoder` needs --from, the tokenizer whose decoder that is",
        ));
    }
    let store = Arc::new(PictureStore::open(training.data()?)?);
    let held_out = training.validation.as_ref().map(PictureStore::open).transpose()?.map(Arc::new);
    let word = training.home()?;
    let device = word.open_to_train()?;
    let networks = arguments.networks.open(&recipe, held_out.is_some(), word, &device)?;
    if networks.perceptual.is_some() && training.devices.len() > 1 {
        return Err(bad_use("--devices: a perceptual loss is computed on one device only"));
    }
    // What does not fit together is told before what does not fit into memory: nothing is drawn yet.
    let task = TokenizerTask::new(&recipe, &store, held_out.as_ref(), networks, &device);
    let mut task = training.checked(task)?;
    let at_once = training.at_once()?;
    let besides = "; the entropy term is then that of smaller parts (docs/tokenizer.md)";
    training.check_memory(&recipe.optimization, besides, &|parts| {
        let mut recipe = recipe.clone();
        recipe.optimization.parts = parts;
        Ok(recipe.step_bytes(at_once))
    })?;
    tell_of_what_is_missing(&recipe, held_out.is_some());
    if let Some(folder) = &arguments.from {
        let started = training.fitting(task.starting_from(folder));
        task = started.map_err(|error| ModelKind::ImageTokenizer.missed(folder, error))?;
    }
    let (shown, place) = (held_out.unwrap_or(store), device.clone());
    let draw = move |model: &TokenizerAndJudge| rebuilt(&model.tokenizer, &shown, &place);
    training.run(task, &recipe.optimization, &recipe, &device, Some(Box::new(draw)))
}

/// What a recipe asks for and will not have.
fn tell_of_what_is_missing(recipe: &TokenizerRecipe, validates: bool) {
    let Optimization { draw_every, steps, .. } = recipe.optimization;
    if draw_every > 0 && !validates {
        tell!("grids show pictures of the training store: --validation is not given");
    }
    if let Some(adversary) = &recipe.adversary
        && adversary.from_step >= steps
    {
        tell!("the discriminator never plays: adversary.from_step={} of {steps} steps", adversary.from_step);
    }
}

impl NetworkArguments {
    fn open(
        &self,
        recipe: &TokenizerRecipe,
        validates: bool,
        word: DeviceWord,
        device: &Device,
    ) -> anyhow::Result<Networks> {
        if self.rfid_pictures == 1 {
            return Err(bad_use("--rfid-pictures 1: expected 2 at least, or 0"));
        }
        let inception =
            self.inception.as_ref().map(|path| network(path, Resize::default(), word, device)).transpose()?;
        let takes_rfid = validates && self.rfid_pictures > 0;
        if let Some(network) = &inception
            && takes_rfid
            && !network.reaches(self.dims)
        {
            let (file, dims) = (network.path().display(), self.dims.count());
            return Err(bad_use(format!(
                "{file} does not reach features of {dims} dimensions; --dims says which"
            )));
        }
        let inception = inception.map(Arc::new);
        if recipe.perceptual_weight == 0.0 && !self.perceptual.is_empty() {
            return Err(bad_use(
                "--perceptual: the recipe's perceptual_weight is 0, so that nothing would use it",
            ));
        }
        let perceptual = if recipe.perceptual_weight == 0.0 {
            None
        } else if !self.perceptual.is_empty() {
            Some(Perceptual::lpips(&self.perceptual, device)?)
        } else if let Some(network) = &inception {
            Some(Perceptual::inception(network.clone()))
        } else {
            return Err(bad_use(
                "the recipe's perceptual_weight needs --perceptual or --inception; perceptual_weight=0 goes without",
            ));
        };
        if inception.is_some() && self.rfid_pictures > 0 && !validates {
            tell!("no rFID is taken: --validation is not given");
        }
        let rfid = inception.filter(|_| takes_rfid);
        let rfid = rfid.map(|network| Rfid { network, dims: self.dims, pictures: self.rfid_pictures });
        Ok(Networks { perceptual, rfid })
    }
}
