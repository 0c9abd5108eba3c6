//! The first steps of a tiny model are those of a PyTorch script of ours, `tests/golden/training/make_steps.py`: same
//! weights, batches, AdamW, schedule, clipping and average, no dropout.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_model::{ModelConfig, NestedTransformer};
use mgnt_train::objective::{MaskedBatch, Teacher, lambda, nested_loss};
use mgnt_train::{
    Description, Error, Event, Figures, Interrupter, Line, Optimization, Outcome, PartOutput, RunOptions,
    Task, run,
};
use mgnt_weights::{TensorMap, safetensors};

const STEPS: usize = 20;
const BATCH: usize = 4;

/// Steps on the batches of the file.
struct Given {
    file: TensorMap,
    config: ModelConfig,
}

impl Given {
    fn ints<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D, Int> {
        let shape = self.file.get(name).unwrap().shape().to_vec();
        Tensor::from_data(TensorData::new(self.file.integers(name).unwrap(), shape), device)
    }

    fn part_of_file(&self, prefix: &str) -> TensorMap {
        let mut map = TensorMap::new();
        for (name, tensor) in self.file.iter() {
            if let Some(name) = name.strip_prefix(prefix) {
                map.insert(name, tensor.clone());
            }
        }
        map
    }
}

impl Task for Given {
    type Model = NestedTransformer;
    type Extra = ();

    fn describe(&self) -> Result<Description, Error> {
        let model = serde_json::to_value(&self.config).unwrap();
        let (data, tokens_a_sample) = (BTreeMap::new(), self.config.tokens);
        Ok(Description { task: "given", model, data, tokens_a_sample, tokenizer: None })
    }

    fn initial(&self, device: &Device) -> Result<NestedTransformer, Error> {
        Ok(NestedTransformer::from_weights(&self.config, self.part_of_file("weights/"), device)?)
    }

    fn draws_on_device(&self) -> bool {
        false
    }

    fn items(&self, _: usize) -> Vec<usize> {
        (0..BATCH).collect()
    }

    fn part(&self, model: &NestedTransformer, step: usize, _: Range<usize>) -> Result<PartOutput<()>, Error> {
        let device = model.device();
        let name = |part: &str| format!("batch/{step:02}/{part}");
        let weights = self.file.get(&name("weights")).unwrap().to_f32();
        let batch = MaskedBatch {
            tokens: self.ints(&name("tokens"), &device),
            rows: self.ints(&name("rows"), &device),
            targets: self.ints(&name("targets"), &device),
            weights: Tensor::from_floats(weights.as_slice(), &device),
        };
        let lambda = lambda(step, STEPS);
        let loss = nested_loss(model, &batch, &self.config.sub_models, Teacher::Chain, lambda, 0.1, None)?;
        let figures = loss.truth.into_iter().map(|(p, loss)| (format!("p{p}"), loss)).collect();
        Ok(PartOutput { loss: loss.total, figures, extra: () })
    }

    fn figures(&self) -> Vec<String> {
        self.config.sub_models.iter().map(|p| format!("p{p}")).collect()
    }

    fn validation_figures(&self) -> Vec<String> {
        Vec::new()
    }

    fn validate(&self, _: &NestedTransformer) -> Result<Figures, Error> {
        Ok(Vec::new())
    }

    fn score(&self, _: &Figures) -> Option<f64> {
        None
    }

    fn export(&self, average: &NestedTransformer, folder: &Path) -> Result<(), Error> {
        Ok(average.save(folder)?)
    }
}

#[test]
fn twenty_steps_are_those_of_pytorch() {
    let golden =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/training/steps.safetensors");
    let config = ModelConfig {
        layers: 2,
        width: 32,
        heads: 4,
        hidden: 64,
        tokens: 16,
        codes: 24,
        classes: 5,
        null_class: true,
        sub_models: vec![1, 2, 4],
        norm: Default::default(),
        nesting: Default::default(),
        dropout: 0.0,
    };
    let optimization = Optimization {
        batch: BATCH,
        parts: 1,
        gradient_checkpointing: false,
        steps: STEPS,
        peak_learning_rate: 3e-3,
        warm_up_steps: 5,
        beta1: 0.9,
        beta2: 0.96,
        weight_decay: 0.045,
        clip_norm: 1.0,
        ema_decay: 0.9,
        seed: 1,
        log_every: 1,
        validate_every: STEPS,
        checkpoint_every: STEPS,
        keep: 1,
        draw_every: 0,
        not_finite_limit: 1,
    };
    let given = || Given { file: safetensors::read(&golden).unwrap(), config: config.clone() };
    let folder = tempfile::tempdir().unwrap();
    let (device, stop) = (Device::flex(), Interrupter::new());
    let options = RunOptions::new(&device, folder.path(), &stop);
    let (tell, told) = mpsc::channel();
    let watch = move |event: &Event| {
        if let Event::Trained(line) = event {
            tell.send(line.clone()).unwrap();
        }
    };
    let outcome = run(given(), &optimization, &"given", options, watch).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    let (task, lines) = (given(), told.iter().collect::<Vec<Line>>());

    let (losses, norms) =
        (task.file.get("losses").unwrap().to_f64(), task.file.get("norms").unwrap().to_f64());
    assert_eq!((lines.len(), losses.len()), (STEPS, 4 * STEPS));
    for (step, line) in lines.iter().enumerate() {
        let expected = losses[4 * step..][..4].iter().chain(&norms[step..=step]);
        for (name, expected) in ["loss", "p1", "p2", "p4", "gradient_norm"].iter().zip(expected) {
            let got = line.figures[*name];
            let relative = (got - expected).abs() / expected;
            assert!(relative < 1e-4, "step {step}, {name}: {got}, not {expected}");
        }
    }
    let average = safetensors::read(&folder.path().join("model/model.safetensors")).unwrap();
    let theirs = task.part_of_file("average/");
    assert_eq!(average.len(), theirs.len());
    for (name, tensor) in theirs.iter() {
        let pairs = tensor.to_f32().into_iter().zip(average.get(name).unwrap().to_f32());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-4, "{name}: {worst}");
    }
}
