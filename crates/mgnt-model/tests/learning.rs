//! A model whose blocks are computed by kernels learns what one computed by operations does.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Int, Tensor};
use mgnt_model::kernels::Operations;
use mgnt_model::{ModelConfig, NestedTransformer, Nesting, Norm};

fn config() -> ModelConfig {
    ModelConfig {
        layers: 2,
        width: 32,
        heads: 4,
        hidden: 48,
        tokens: 9,
        codes: 12,
        classes: 3,
        null_class: true,
        sub_models: vec![1, 2, 4],
        norm: Norm::Post,
        nesting: Nesting::HeadsAndHidden,
        dropout: 0.0,
    }
}

/// Logits of all sub-models, and the gradients of a sum over them by parameter.
fn learned(model: &NestedTransformer, compute: FloatDType) -> (Vec<f32>, BTreeMap<ParamId, Vec<f32>>) {
    let device = model.device();
    let tokens = Tensor::<2, Int>::from_data(
        [[12, 1, 2, 16, 4, 16, 6, 7, 8, 16], [13, 16, 16, 3, 0, 11, 16, 2, 5, 16]],
        &device,
    );
    let computing = model.computing_in(compute).unwrap();
    let mut all = Vec::new();
    for &p in &model.config().sub_models {
        all.push(computing.forward(tokens.clone(), model.config().sub_model(p).unwrap()));
    }
    let logits = Tensor::cat(all, 0);
    let probe: Tensor<3> =
        Tensor::arange(0..logits.shape().num_elements() as i64, &device).float().reshape(logits.dims()).sin();
    let mut gradients = (logits.clone() * probe).sum().backward();
    let gradients = GradientsParams::from_module(&mut gradients, model);
    let mut collected = Collected { gradients: &gradients, all: BTreeMap::new() };
    model.visit(&mut collected);
    (logits.into_data().try_into_vec().unwrap(), collected.all)
}

struct Collected<'a> {
    gradients: &'a GradientsParams,
    all: BTreeMap<ParamId, Vec<f32>>,
}

impl ModuleVisitor for Collected<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id).expect("every parameter has a gradient");
        self.all.insert(param.id, gradient.into_data().try_into_vec().unwrap());
    }
}

/// Largest |a - b| over the largest |b|.
fn farthest(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0.0f32, |largest, b| largest.max(b.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest.max(1e-3)
}

#[test]
fn logits_and_gradients_are_those_of_operations() {
    let device = Device::flex().autodiff();
    for nesting in [Nesting::HeadsAndHidden, Nesting::Hidden] {
        let config = ModelConfig { nesting, ..config() };
        let plain = NestedTransformer::init(&config, 5, &device).unwrap();
        let by_kernels = plain.clone().learning_with(Arc::new(Operations));
        for (compute, bound) in [(FloatDType::F32, 2e-5), (FloatDType::BF16, 3e-2)] {
            let (logits, gradients) = learned(&plain, compute);
            let (ours, by_ours) = learned(&by_kernels, compute);
            let difference = farthest(&ours, &logits);
            assert!(difference < bound, "{nesting:?}, {compute:?}: logits are {difference} off");
            // Sums in another order; bf16 may round them to the same.
            let is_same = difference == 0.0 && compute == FloatDType::F32;
            assert!(!is_same, "{nesting:?}: nothing was computed by kernels");
            assert_eq!(by_ours.len(), gradients.len());
            for (id, ours) in &by_ours {
                let difference = farthest(ours, &gradients[id]);
                assert!(difference < bound, "{nesting:?}, {compute:?}: a gradient is {difference} off");
            }
        }
    }
}

/// A part that is frozen in place stands on the tape too.
#[test]
fn what_is_frozen_drops_nothing() {
    let device = Device::flex().autodiff();
    let config = ModelConfig { dropout: 0.5, ..config() };
    let frozen = NestedTransformer::init(&config, 5, &device).unwrap().freeze();
    let tokens = Tensor::<2, Int>::from_data([[12, 1, 2, 16, 4, 16, 6, 7, 8, 16]], &device);
    let logits = |model: &NestedTransformer| -> Vec<f32> {
        model.forward(tokens.clone(), config.full()).into_data().try_into_vec().unwrap()
    };
    let (by_operations, by_kernels) =
        (logits(&frozen), logits(&frozen.clone().learning_with(Arc::new(Operations))));
    let difference = farthest(&by_kernels, &by_operations);
    assert!(difference < 2e-5, "{difference} off");
}

#[test]
fn softmax_stays_on_the_tape() {
    let device = Device::flex().autodiff();
    let model = NestedTransformer::init(&config(), 5, &device).unwrap();
    let x = Tensor::<2>::from_floats([[1.0, 3.0, -2.0]], &device).require_grad();
    let slopes = |model: &NestedTransformer| -> Vec<f32> {
        let grads = model.softmax(x.clone()).powf_scalar(2.0).sum().backward();
        x.grad(&grads).expect("softmax has a gradient").into_data().try_into_vec().unwrap()
    };
    assert!(farthest(&slopes(&model.clone().on_processor()), &slopes(&model)) < 1e-6);
}

#[test]
fn some_is_dropped_on_the_tape_alone() {
    let device = Device::flex().autodiff();
    let config = ModelConfig { dropout: 0.5, ..config() };
    let model = NestedTransformer::init(&config, 5, &device).unwrap().learning_with(Arc::new(Operations));
    let (one, gradients) = learned(&model, FloatDType::F32);
    let (other, _) = learned(&model, FloatDType::F32);
    assert!(one.iter().chain(gradients.values().flatten()).all(|number| number.is_finite()));
    assert!(farthest(&one, &other) > 1e-2, "two forwards on a tape dropped the same");
    let by_seed = |seed| learned(&model.clone().dropping_by(seed), FloatDType::F32);
    assert!(by_seed(7) == by_seed(7), "a seed is not all that dropout depends on");
    assert!(farthest(&by_seed(7).0, &by_seed(8).0) > 1e-2, "two seeds dropped the same");
    let tokens = Tensor::<2, Int>::from_data([[12, 1, 2, 16, 4, 16, 6, 7, 8, 16]], &Device::flex());
    let valid = model.valid();
    let forward =
        || -> Vec<f32> { valid.forward(tokens.clone(), config.full()).into_data().try_into_vec().unwrap() };
    assert_eq!(forward(), forward());
}

/// Copies of a form for accelerators take no gradients that the weights, which are saved, should have.
#[test]
fn a_model_for_accelerators_learns_by_its_weights() {
    let device = Device::flex();
    let model = NestedTransformer::init(&config(), 5, &device).unwrap().on_accelerator().train();
    let tokens =
        Tensor::<2, Int>::from_data([[12, 1, 2, 16, 4, 16, 6, 7, 8, 16]], &device.clone().autodiff());
    let logits = model.forward(tokens, config().full());
    let grads = GradientsParams::from_grads(logits.square().mean().backward(), &model);
    struct Named<'a> {
        grads: &'a GradientsParams,
        path: Vec<String>,
        learns: Vec<String>,
    }
    impl ModuleVisitor for Named<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.grads.get::<D>(param.id).is_some() {
                self.learns.push(self.path.join("."));
            }
        }
    }
    let mut named = Named { grads: &grads, path: Vec::new(), learns: Vec::new() };
    model.visit(&mut named);
    let has = |part: &str| named.learns.iter().any(|name| name.contains(part));
    assert!(["query", "key", "value"].into_iter().all(has) && !has("joined"), "{:?}", named.learns);
}
