//! The options and the run that both trainings share.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use mgnt_train::{Optimization, Outcome, RunOptions, Task, parse_with_overrides, run as train};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::watch::stop_on_interrupt;
use super::watcher::{Draw, RunWatcher};
use crate::device::DeviceWord;
use crate::device::remote::Place;
use crate::failure::bad_use;

/// Options of every training.
#[derive(Args)]
pub struct TrainingArguments {
    /// The recipe
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The store to train on
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// A store to validate on
    #[arg(long, value_name = "DIR")]
    pub validation: Option<PathBuf>,
    /// The run's folder
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue the run from its newest checkpoint
    #[arg(long)]
    pub resume: bool,
    /// Device to compute on
    #[arg(long, value_name = "cpu|ndarray|wgpu|cuda[:n]", default_value = "cpu")]
    pub device: DeviceWord,
    /// Devices that share each step with the first of them: local ones, or ws://HOST:PORT of `mgnt serve-device`
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "device")]
    pub devices: Vec<Place>,
    /// Single values of the recipe, as optimization.steps=100
    #[arg(value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl TrainingArguments {
    /// The recipe with its overrides. What is wrong with one of these is the command line's fault.
    pub fn recipe<R: DeserializeOwned + Serialize>(&self) -> anyhow::Result<R> {
        parse_with_overrides(&self.config, &self.overrides).map_err(|error| match error {
            mgnt_train::Error::Recipe { .. } => bad_use(error.to_string()),
            error => error.into(),
        })
    }

    /// The store to train on, which all but a forecast needs.
    pub fn data(&self) -> anyhow::Result<&Path> {
        self.data.as_deref().ok_or_else(|| bad_use("--data DIR: the store to train on is missing"))
    }

    /// The device of the model.
    pub fn home(&self) -> anyhow::Result<DeviceWord> {
        match self.devices.first() {
            None => Ok(self.device),
            Some(Place::Own(word)) => Ok(*word),
            Some(Place::Served(address)) => {
                Err(bad_use(format!("--devices {address}: the first device must be one of this process")))
            }
        }
    }

    /// Opens the devices besides the first.
    fn others(&self) -> anyhow::Result<Vec<Device>> {
        for (i, place) in self.devices.iter().enumerate() {
            if self.devices[..i].contains(place) {
                return Err(bad_use(format!("--devices: {place} is named twice")));
            }
        }
        self.devices.iter().skip(1).map(Place::open).collect()
    }

    /// Runs a task in the run's folder, watched, with samples by `draw` and a clean stop on Ctrl-C.
    pub fn run<T: Task>(
        &self,
        task: T,
        optimization: &Optimization,
        recipe: &impl Serialize,
        device: &Device,
        draw: Option<Draw<T::Model>>,
    ) -> anyhow::Result<()> {
        let out = self.out.as_deref().ok_or_else(|| bad_use("--out DIR: the run's folder is missing"))?;
        let stop = stop_on_interrupt()?;
        let others = self.others()?;
        let options = RunOptions {
            device,
            others: &others,
            out,
            resume: self.resume,
            side_by_side: self.home()?.is_cpu(),
            stop: &stop,
        };
        let outcome = train(task, optimization, recipe, options, RunWatcher::new(out, draw))?;
        match outcome {
            Outcome::Finished => eprintln!("{} holds the trained model", out.join("model").display()),
            Outcome::Interrupted(step) => eprintln!("stopped after {step} steps; --resume continues"),
        }
        Ok(())
    }
}
