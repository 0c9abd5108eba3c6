//! What the loop trains.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};
use mgnt_model::kernels::Kernels;
use serde::Serialize;

use crate::Error;

/// Figures for the log, by name.
pub type Figures = Vec<(String, f64)>;

/// What the loop trains: a model, and what one step of it computes.
///
/// Everything random in it must be a function of the step and the recipe's seed, or be drawn from the device.
pub trait Task: Send + Sync + 'static {
    /// The module that is trained.
    type Model: Module + ModuleDisplay + Sync + 'static;
    /// What a part leaves for the work between two steps.
    type Extra: Send;

    /// What is trained, on what.
    fn describe(&self) -> Result<Description, Error>;

    /// The module before the first step, on a device with a tape.
    fn initial(&self, device: &Device) -> Result<Self::Model, Error>;

    /// Kernels that move parameters and their averages, where the device has them.
    fn kernels(&self) -> Option<Arc<dyn Kernels>> {
        None
    }

    /// Whether a step draws random numbers from the device, as dropout by operations does.
    fn draws_on_device(&self) -> bool;

    /// Numbers of the samples of step `step`, 0-based, in the order of their places.
    fn items(&self, step: usize) -> Vec<usize>;

    /// The share of the loss of step `step`, 0-based, that these places of its batch make. Shares of all places add
    /// up to the loss of the whole batch.
    fn part(
        &self,
        model: &Self::Model,
        step: usize,
        places: Range<usize>,
    ) -> Result<PartOutput<Self::Extra>, Error>;

    /// Names of the figures that parts and [`between`](Self::between) may tell.
    fn figures(&self) -> Vec<String>;

    /// Names of the figures that [`validate`](Self::validate) may tell.
    fn validation_figures(&self) -> Vec<String>;

    /// The model with a change after a step that is no gradient's, if there is one, and figures of the whole step. Not
    /// called after a step that is skipped.
    fn between(
        &mut self,
        model: &Self::Model,
        step: usize,
        extras: Vec<Self::Extra>,
    ) -> Result<(Option<Self::Model>, Figures), Error> {
        let _ = (model, step, extras);
        Ok((None, Vec::new()))
    }

    /// What it remembers from step to step besides the model, for checkpoints.
    fn memory(&self) -> Vec<u64> {
        Vec::new()
    }

    /// Goes on with what [`Task::memory`] gave.
    fn recall(&mut self, memory: &[u64]) {
        let _ = memory;
    }

    /// Figures of the averaged model on data that is not trained on, by name.
    fn validate(&self, average: &Self::Model) -> Result<Figures, Error>;

    /// How good the model of these figures of a validation is, lower is better: which one `best/` holds. `None` where
    /// there is no telling.
    fn score(&self, validation: &Figures) -> Option<f64>;

    /// Writes the averaged model as a model directory.
    fn export(&self, average: &Self::Model, folder: &Path) -> Result<(), Error>;
}

/// What a task trains, and on what; with the recipe it makes `run.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// `transformer` or `tokenizer`.
    pub task: &'static str,
    /// Sizes of the model.
    pub model: serde_json::Value,
    /// Checksums of its data by use: `train`, `validation`, `from`.
    pub data: BTreeMap<String, String>,
    /// Tokens of a sample.
    pub tokens_a_sample: usize,
    /// What tells the tokens from others', where it is trained on tokens ([`mgnt_data::TokenStoreInfo::tokens_sha256`]); of a tokenizer
    /// that keeps another's tokens the SHA-256 of that one's weights, by which older stores know them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
}

/// What a part of a step computed.
#[derive(Debug)]
pub struct PartOutput<E> {
    /// Its share of what is minimised, `[1]`.
    pub loss: Tensor<1>,
    /// Its share of parts of the loss and other figures for the log, by name.
    pub figures: Vec<(String, Tensor<1>)>,
    /// For [`Task::between`].
    pub extra: E,
}

pub(crate) fn number(tensor: Tensor<1>) -> Result<f64, Error> {
    let value = tensor.try_into_scalar::<f32>().map_err(|e| Error::Device(format!("{e:?}")))?;
    Ok(f64::from(value))
}
