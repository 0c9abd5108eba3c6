//! Memory of a long training, counted at the allocator.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use mgnt_train::{
    Description, Error, Event, Figures, Interrupter, Optimization, PartOutput, RunOptions, Task, run,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// A layer that learns, and others that do not, as a discriminator before its game begins, or an encoder that is held.
#[derive(Module, Debug)]
struct Layers {
    learns: Linear,
    held: Vec<Linear>,
}

struct Held;

impl Task for Held {
    type Model = Layers;
    type Extra = ();

    fn describe(&self) -> Result<Description, Error> {
        let (model, data) = (serde_json::json!({}), BTreeMap::new());
        Ok(Description { task: "held", model, data, tokens_a_sample: 1, tokenizer: None })
    }

    fn initial(&self, device: &Device) -> Result<Layers, Error> {
        let layer = || LinearConfig::new(4, 4).init(device);
        Ok(Layers { learns: layer(), held: (0..20).map(|_| layer()).collect() })
    }

    fn draws_on_device(&self) -> bool {
        false
    }

    fn items(&self, _: usize) -> Vec<usize> {
        vec![0, 1]
    }

    fn part(&self, model: &Layers, _: usize, _: Range<usize>) -> Result<PartOutput<()>, Error> {
        let x = Tensor::<2>::ones([1, 4], &model.learns.weight.device());
        Ok(PartOutput { loss: model.learns.forward(x).square().sum(), figures: Vec::new(), extra: () })
    }

    fn figures(&self) -> Vec<String> {
        Vec::new()
    }

    fn validation_figures(&self) -> Vec<String> {
        Vec::new()
    }

    fn validate(&self, _: &Layers) -> Result<Figures, Error> {
        Ok(Vec::new())
    }

    fn score(&self, _: &Figures) -> Option<f64> {
        None
    }

    fn export(&self, _: &Layers, folder: &Path) -> Result<(), Error> {
        std::fs::create_dir_all(folder).unwrap();
        Ok(())
    }
}

/// What a step left on the tape of parameters that none changes would add up from step to step, and each backward pass would go
/// through all of it.
#[test]
fn parameters_that_do_not_learn_leave_nothing_from_step_to_step() {
    let folder = tempfile::tempdir().unwrap();
    let optimization = Optimization {
        batch: 2,
        parts: 2,
        gradient_checkpointing: false,
        steps: 300,
        peak_learning_rate: 1e-3,
        warm_up_steps: 1,
        beta1: 0.9,
        beta2: 0.99,
        weight_decay: 0.0,
        clip_norm: 1.0,
        ema_decay: 0.9,
        seed: 1,
        log_every: 100,
        validate_every: 300,
        checkpoint_every: 300,
        keep: 1,
        draw_every: 0,
        not_finite_limit: 1,
    };
    let (tell, told) = mpsc::channel();
    let watch = move |event: &Event| {
        if let Event::Trained(line) = event {
            tell.send((line.step, ALLOCATOR.current_usage())).unwrap();
        }
    };
    let (device, stop) = (Device::flex(), Interrupter::new());
    for side_by_side in [false, true] {
        let out = folder.path().join(format!("{side_by_side}"));
        let options = RunOptions { saves: false, side_by_side, ..RunOptions::new(&device, &out, &stop) };
        run(Held, &optimization, &optimization, options, watch.clone()).unwrap();
        let lines: Vec<(usize, usize)> = told.try_iter().collect();
        let of = |step: usize| lines.iter().find(|line| line.0 == step).unwrap().1;
        let grown = of(300).saturating_sub(of(100));
        assert!(grown < 200_000, "{grown} bytes in 200 steps, {lines:?}");
    }
}
