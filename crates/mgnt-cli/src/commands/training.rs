//! The options and the run that both trainings share.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::Args;
use mgnt_train::{Computed, Optimization, Outcome, RunOptions, Task, parse_with_overrides, run as train};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::configs;
use super::watch::stop_on_interrupt;
use super::watcher::{Draw, RunWatcher};
use crate::device::remote::Place;
use crate::device::{DeviceWord, gib};
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
    /// A store to validate on: of tokens 256 pictures of it at most, of pictures 128, evenly over it
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
            error => configs::of_another_kind(&self.config, "this command's recipe")
                .unwrap_or_else(|| error.into()),
        })
    }

    /// What a check of the recipe says: with single values set, the command line is at fault.
    pub fn checked<T, E: std::error::Error + Send + Sync + 'static>(
        &self,
        check: Result<T, E>,
    ) -> anyhow::Result<T> {
        check.map_err(|error| match self.overrides.is_empty() {
            true => error.into(),
            false => bad_use(error.to_string()),
        })
    }

    /// The same of what may fail in other ways as well.
    pub fn fitting<T>(&self, what: Result<T, mgnt_train::Error>) -> anyhow::Result<T> {
        match what {
            Err(error @ mgnt_train::Error::Recipe { .. }) => self.checked(Err(error)),
            other => Ok(other?),
        }
    }

    /// The store to train on, which all but a forecast needs.
    pub fn data(&self) -> anyhow::Result<&Path> {
        self.data.as_deref().ok_or_else(|| bad_use("--data DIR: the store to train on is missing"))
    }

    /// The run's folder. Refuses what is there and is none.
    fn out(&self) -> anyhow::Result<&Path> {
        let out = self.out.as_deref().ok_or_else(|| bad_use("--out DIR: the run's folder is missing"))?;
        let got = match fs::metadata(out) {
            Ok(there) if !there.is_dir() => "a file",
            Err(_) if out.is_symlink() => "a link to nothing",
            _ => return Ok(out),
        };
        Err(bad_use(format!("--out {}: is {got}, where a folder is expected", out.display())))
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

    /// Parts of a step that are computed at once.
    pub fn at_once(&self) -> anyhow::Result<usize> {
        // Several devices compute a part each.
        let alone = self.devices.len() < 2;
        Ok(if self.home()?.is_cpu() && alone { rayon::current_num_threads() } else { 1 })
    }

    /// How parts of a transformer's step are computed: by kernels where all devices have them.
    pub fn computed(&self) -> anyhow::Result<Computed> {
        let home = self.home()?;
        if self.devices.len() < 2 {
            return Ok(home.computed());
        }
        let has_kernels = |place: &Place| matches!(place, Place::Own(word) if word.has_kernels());
        Ok(match self.devices.iter().all(has_kernels) {
            true => Computed::ByKernels,
            // Each computes a part.
            false => Computed::ByOperations { at_once: 1 },
        })
    }

    /// Fails where one of the devices of this process has less memory than a step `needs`, in bytes by its number of parts.
    /// `besides` is what else another number of parts changes.
    pub fn check_memory(
        &self,
        optimization: &Optimization,
        besides: &str,
        needs: &dyn Fn(usize) -> anyhow::Result<u64>,
    ) -> anyhow::Result<()> {
        let least =
            std::iter::once(self.home()?).chain(self.of_this_process()).filter_map(DeviceWord::memory).min();
        least.map_or(Ok(()), |has| enough(optimization, besides, has, self.devices.len().max(1), needs))
    }

    /// Those of `--devices` that are of this process.
    fn of_this_process(&self) -> impl Iterator<Item = DeviceWord> {
        self.devices.iter().filter_map(|place| match place {
            Place::Own(word) => Some(*word),
            Place::Served(_) => None,
        })
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
        let out = self.out()?;
        let Optimization { steps, warm_up_steps, .. } = *optimization;
        if warm_up_steps >= steps {
            tell!(
                "the learning rate only rises: optimization.warm_up_steps={warm_up_steps} of {steps} steps"
            );
        }
        let stop = stop_on_interrupt()?;
        let others = self.others()?;
        let options = RunOptions {
            others: &others,
            one_generator: self.of_this_process().count() > 1,
            resume: self.resume,
            side_by_side: self.home()?.is_cpu(),
            ..RunOptions::new(device, out, &stop)
        };
        let outcome = train(task, optimization, recipe, options, RunWatcher::new(out, draw))?;
        match outcome {
            Outcome::Finished => tell!("{} holds the trained model", out.join("model").display()),
            Outcome::Interrupted(step) => tell!("stopped after {step} steps; --resume continues"),
        }
        Ok(())
    }
}

/// Fails where a step needs more than so many bytes, and says in how many parts it would fit.
fn enough(
    optimization: &Optimization,
    besides: &str,
    has: u64,
    devices: usize,
    needs: &dyn Fn(usize) -> anyhow::Result<u64>,
) -> anyhow::Result<()> {
    let needed = needs(optimization.parts)?;
    if needed <= has {
        return Ok(());
    }
    let step = format!(
        "not enough memory: a step in {} parts takes about {}, and the device has {}",
        optimization.parts,
        gib(needed),
        gib(has)
    );
    // More parts keep less of the batch at once; fewer, where as many are computed at once, fewer copies of the gradients. Each
    // device has one at least.
    let (more, fewer) = (optimization.parts + 1..=optimization.batch, (devices..optimization.parts).rev());
    for parts in more.chain(fewer) {
        if needs(parts)? <= has {
            anyhow::bail!("{step}; optimization.parts={parts} should fit{besides}");
        }
    }
    anyhow::bail!("{step}; no number of parts fits")
}

#[cfg(test)]
mod tests {
    use mgnt_train::{Forecast, Recipe};

    use super::*;

    #[test]
    fn too_large_a_step_is_refused_with_parts_that_fit() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/image/debug.ron");
        let recipe: Recipe = parse_with_overrides(&path, &["optimization.parts=1".into()]).unwrap();
        let config = recipe.imagenet_model();
        let memory_of = |parts, at_once| {
            let mut recipe = recipe.clone();
            recipe.optimization.parts = parts;
            Forecast::new(&recipe, &config, Computed::ByOperations { at_once }).unwrap().memory.total()
        };
        let memory = |parts| memory_of(parts, 1);
        let enough = |has| enough(&recipe.optimization, "", has, 1, &|parts| Ok(memory(parts)));
        assert!(enough(memory(1)).is_ok());
        let error = enough(memory(1) - 1).unwrap_err().to_string();
        assert!(
            error.contains("in 1 parts") && error.ends_with("optimization.parts=2 should fit"),
            "{error}"
        );
        let error = enough(memory(8)).unwrap_err().to_string();
        assert!(error.ends_with("optimization.parts=8 should fit"), "{error}");
        let error = enough(1).unwrap_err().to_string();
        assert!(error.ends_with("no number of parts fits"), "{error}");

        // On many cores as many parts are computed at once, each with its gradients.
        let all = recipe.optimization.batch;
        let in_parts = Optimization { parts: all, ..recipe.optimization.clone() };
        let has = memory_of(1, all);
        assert!(memory_of(all, all) > has);
        for (devices, said) in [(1, "optimization.parts=1 should fit"), (2, "no number of parts fits")] {
            let needs = |parts| Ok(memory_of(parts, all));
            let error = super::enough(&in_parts, "", has, devices, &needs).unwrap_err();
            assert!(error.to_string().ends_with(said), "{error}");
        }
    }
}
