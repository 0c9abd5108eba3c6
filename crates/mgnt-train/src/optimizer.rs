//! AdamW as the published recipes use it: decay on matrices only, warm-up and cosine, one global norm.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::{
    AdamWConfig, AdamWState, AdaptiveMomentumState, GradientsParams, LearningRate, ModuleOptimizer, Optimizer,
};
use burn::tensor::{Device, Tensor};
use mgnt_model::kernels::{AdamW, Kernels, Operations, Parameter};

use crate::moments::Moments;
use crate::task::number;
use crate::{Error, Optimization};

/// PyTorch's and Flax's epsilon; Burn's default is larger.
const EPSILON: f32 = 1e-8;

/// Learning rate of step `step`, 0-based: linear warm-up, then a cosine down to zero.
pub fn learning_rate(recipe: &Optimization, step: usize) -> f64 {
    let done = (step + 1) as f64;
    let warm_up = recipe.warm_up_steps as f64;
    if done < warm_up {
        return recipe.peak_learning_rate * done / warm_up;
    }
    let rest = (recipe.steps as f64 - warm_up).max(1.0);
    let share = ((step as f64 - warm_up) / rest).clamp(0.0, 1.0);
    recipe.peak_learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
}

/// A device's kernels for what happens to each parameter between two steps.
#[derive(Debug, Clone)]
pub(crate) struct Updates {
    kernels: Arc<dyn Kernels>,
    /// What gradients are multiplied by on their way into AdamW, as bits of `f32`: [`clip_global_norm`] says it for the step of the
    /// optimizer that follows, so that clipping takes no pass of its own.
    clip: Arc<AtomicU32>,
}

impl Updates {
    pub fn new(kernels: Arc<dyn Kernels>) -> Self {
        Self { kernels, clip: Arc::new(AtomicU32::new(1.0f32.to_bits())) }
    }

    fn clip(&self) -> f32 {
        f32::from_bits(self.clip.load(Ordering::Relaxed))
    }
}

/// AdamW with weight decay on matrices and kernels of `model`, not on vectors (biases and norms among them), embeddings or the
/// codebook, be they within a larger module.
///
/// With kernels each parameter takes one pass; its records are the same.
pub(crate) fn adamw<M: Module>(
    recipe: &Optimization,
    model: &M,
    updates: Option<Updates>,
) -> Result<ModuleOptimizer, Error> {
    let mut vectors = Vectors::default();
    model.visit(&mut vectors);
    let patterns = vec![r"(^|\.)bias$", r"(^|\.)gamma$", r"(^|\.)beta$", r"(^|\.)embedding\.", r"codebook$"];
    let undecayed = ParamGroup::from_any_regexes(patterns).map_err(|e| Error::Recipe {
        field: "weight_decay".into(),
        expected: "a group of parameters".into(),
        got: format!("{e:?}"),
    })?;
    let undecayed = undecayed.fuse(&ParamGroup::from_paths(vectors.names));
    let decay = recipe.weight_decay;
    Ok(match updates {
        Some(updates) => {
            let of = |decay| InOnePass { updates: updates.clone(), recipe: recipe.clone(), decay };
            grouped(undecayed, decay, of)
        }
        None => grouped(undecayed, decay, |decay| {
            let config = AdamWConfig::new()
                .with_beta_1(recipe.beta1)
                .with_beta_2(recipe.beta2)
                .with_epsilon(EPSILON)
                .with_weight_decay(decay);
            ByOperations(config.build())
        }),
    })
}

/// The optimizer of a decay, and of none for a group of parameters.
fn grouped<O: Optimizer>(undecayed: ParamGroup, decay: f32, of: impl Fn(f32) -> O) -> ModuleOptimizer {
    ModuleOptimizer::from(of(decay)).with_group(undecayed, of(0.0), None)
}

/// Names of the parameters that are no matrices.
#[derive(Default)]
struct Vectors {
    path: Vec<String>,
    names: Vec<String>,
}

impl ModuleVisitor for Vectors {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, _: &Param<Tensor<D>>) {
        if D < 2 {
            self.names.push(self.path.join("."));
        }
    }
}

/// Burn's AdamW.
#[derive(Clone)]
struct ByOperations(burn::optim::AdamW);

impl Optimizer for ByOperations {
    type State<const D: usize> = Moments<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Moments<D>>,
    ) -> (Tensor<D>, Option<Moments<D>>) {
        let state = state.map(|state| state.on(&tensor.device()));
        let (tensor, state) = self.0.step(rate, tensor, gradient, state);
        (tensor, state.map(Moments::from))
    }

    fn to_device<const D: usize>(state: Moments<D>, device: &Device) -> Moments<D> {
        state.on(device).into()
    }
}

/// AdamW by kernels of the device.
#[derive(Clone)]
struct InOnePass {
    updates: Updates,
    recipe: Optimization,
    decay: f32,
}

impl Optimizer for InOnePass {
    type State<const D: usize> = Moments<D>;

    fn step<const D: usize>(
        &self,
        rate: LearningRate,
        tensor: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<Moments<D>>,
    ) -> (Tensor<D>, Option<Moments<D>>) {
        let shape = tensor.dims();
        let flat = |tensor: Tensor<D>| tensor.reshape([shape.iter().product::<usize>()]);
        let (first, second, done) = match state.map(|state| state.on(&tensor.device())) {
            Some(AdamWState { momentum, .. }) => {
                (flat(momentum.moment_1), flat(momentum.moment_2), momentum.time)
            }
            None => {
                let zeros = || flat(Tensor::zeros(shape, &tensor.device()));
                (zeros(), zeros(), 0)
            }
        };
        let step = done + 1;
        let Optimization { beta1, beta2, .. } = self.recipe;
        let clip = self.updates.clip();
        let how = AdamW { rate, decay: self.decay, beta1, beta2, epsilon: EPSILON, step, clip };
        let parameter = Parameter { value: flat(tensor), first, second };
        let Parameter { value, first, second } = self.updates.kernels.adamw(parameter, flat(gradient), how);
        let momentum = AdaptiveMomentumState::new(step, first.reshape(shape), second.reshape(shape));
        (value.reshape(shape), Some(AdamWState::new(momentum).into()))
    }

    fn to_device<const D: usize>(state: Moments<D>, device: &Device) -> Moments<D> {
        state.on(device).into()
    }
}

/// Scales all gradients so that their global norm is at most `limit`, or says so to `updates`; returns the norm before.
pub(crate) fn clip_global_norm<M: Module>(
    model: &M,
    grads: &mut GradientsParams,
    limit: f64,
    updates: Option<&Updates>,
) -> Result<f64, Error> {
    let kernels = updates.map_or(&Operations as &dyn Kernels, |updates| updates.kernels.as_ref());
    let sum = squares_by(kernels, model, grads);
    let norm = sum.map_or(Ok(0.0), number)?.sqrt();
    let factor = if norm.is_finite() && norm > limit { limit / norm } else { 1.0 };
    match updates {
        Some(updates) => updates.clip.store((factor as f32).to_bits(), Ordering::Relaxed),
        None if factor < 1.0 => model.visit(&mut Scale { grads, factor }),
        None => {}
    }
    Ok(norm)
}

/// The sum of the squares of all gradients.
fn squares_by<M: Module>(kernels: &dyn Kernels, model: &M, grads: &GradientsParams) -> Option<Tensor<1>> {
    struct Gathered<'a> {
        grads: &'a GradientsParams,
        all: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Gathered<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.grads.get::<D>(param.id) else { return };
            let count = gradient.shape().num_elements();
            self.all.push(gradient.reshape([count]));
        }
    }
    let mut gathered = Gathered { grads, all: Vec::with_capacity(grads.len()) };
    model.visit(&mut gathered);
    kernels.squares(gathered.all)
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register::<D>(param.id, grad * self.factor);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use burn::module::ModuleMapper;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Distribution};
    use mgnt_model::{ModelConfig, NestedTransformer, Preset};

    use super::*;
    use crate::TokenizerRecipe;
    use crate::tokenizer::TokenizerAndJudge;

    pub(crate) fn optimization() -> Optimization {
        Optimization {
            batch: 4,
            parts: 1,
            gradient_checkpointing: false,
            steps: 110,
            peak_learning_rate: 0.01,
            warm_up_steps: 10,
            beta1: 0.9,
            beta2: 0.96,
            weight_decay: 0.045,
            clip_norm: 1.0,
            ema_decay: 0.99,
            seed: 1,
            log_every: 1,
            validate_every: 50,
            checkpoint_every: 50,
            keep: 2,
            draw_every: 0,
            not_finite_limit: 3,
        }
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let recipe = optimization();
        assert!((learning_rate(&recipe, 0) - 0.001).abs() < 1e-12);
        assert!((learning_rate(&recipe, 4) - 0.005).abs() < 1e-12);
        assert!((learning_rate(&recipe, 10) - 0.01).abs() < 1e-12);
        assert!((learning_rate(&recipe, 60) - 0.005).abs() < 1e-12);
        assert!(learning_rate(&recipe, 109) < 1e-5);
    }

    #[test]
    fn the_norm_is_global() {
        let device = Device::flex().autodiff();
        let layers: Vec<Linear> =
            vec![LinearConfig::new(2, 1).init(&device), LinearConfig::new(1, 1).init(&device)];
        let x = Tensor::<2>::from_floats([[3.0, 4.0]], &device);
        let y = layers[1].forward(layers[0].forward(x));
        let mut grads = GradientsParams::from_grads(y.sum().backward(), &layers);
        let all = |grads: &GradientsParams| -> f64 {
            f64::from(squares_by(&Operations, &layers, grads).unwrap().into_scalar::<f32>()).sqrt()
        };
        let before = all(&grads);
        let updates = Updates::new(Arc::new(Operations));
        for (limit, clip) in [(2.0 * before, 1.0), (before / 2.0, 0.5)] {
            let by_kernels = clip_global_norm(&layers, &mut grads, limit, Some(&updates)).unwrap();
            assert!((by_kernels - before).abs() < 1e-6, "{by_kernels} {before}");
            assert!((updates.clip() - clip).abs() < 1e-6 && (all(&grads) - before).abs() < 1e-6);
        }
        let norm = clip_global_norm(&layers, &mut grads, before / 2.0, None).unwrap();
        assert!((norm - before).abs() < 1e-6);
        assert!((all(&grads) - before / 2.0).abs() < 1e-5);
        clip_global_norm(&layers, &mut grads, before, None).unwrap();
        assert!((all(&grads) - before / 2.0).abs() < 1e-5, "a small gradient stays");
    }

    /// Names of the parameters that a step without gradients moves.
    fn decayed<M: Module>(model: M) -> Vec<String> {
        struct Ones;
        impl ModuleMapper for Ones {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                param.map(|value| Tensor::ones(value.dims(), &value.device()).require_grad())
            }
        }
        struct Zeros(GradientsParams);
        impl ModuleVisitor for Zeros {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val().inner();
                self.0.register::<D>(param.id, Tensor::zeros(value.dims(), &value.device()));
            }
        }
        let model = model.map(&mut Ones);
        let mut zeros = Zeros(GradientsParams::new());
        model.visit(&mut zeros);
        let mut optimizer =
            adamw(&Optimization { weight_decay: 0.5, ..optimization() }, &model, None).unwrap();
        let after = optimizer.step(0.1, model, zeros.0);
        let map = mgnt_weights::module::to_map(&after).unwrap();
        map.iter().filter(|(_, t)| t.to_f32()[0] != 1.0).map(|(name, _)| name.to_owned()).collect()
    }

    #[test]
    fn kernels_step_as_burn_does() {
        let device = Device::flex().autodiff();
        let recipe = optimization();
        device.seed(3);
        let start: Linear = LinearConfig::new(5, 3).init(&device);
        let x = Tensor::<2>::random([4, 5], Distribution::Normal(0.0, 1.0), &device);
        let run = |updates: Option<Updates>| {
            let (mut layer, mut optimizer) =
                (start.clone(), adamw(&recipe, &start, updates.clone()).unwrap());
            for step in 0..6 {
                // In the middle another optimiser takes the record over.
                if step == 3 {
                    let record = optimizer.to_record();
                    optimizer = adamw(&recipe, &layer, updates.clone()).unwrap().load_record(record);
                }
                let loss = layer.forward(x.clone()).square().sum();
                let mut grads = GradientsParams::from_grads(loss.backward(), &layer);
                // Of each other step the gradients are too large.
                let limit = if step % 2 == 0 { 0.1 } else { 1e3 };
                let norm = clip_global_norm(&layer, &mut grads, limit, updates.as_ref()).unwrap();
                assert!((0.1..1e3).contains(&norm), "{norm}");
                layer = optimizer.step(0.05, layer, grads);
            }
            (layer, optimizer)
        };
        let (by_burn, optimizer) = run(None);
        let (by_kernels, _) = run(Some(Updates::new(Arc::new(Operations))));
        let off = (by_burn.weight.val() - by_kernels.weight.val()).abs().max().into_scalar::<f32>();
        let moved = (by_burn.weight.val() - start.weight.val()).abs().max().into_scalar::<f32>();
        assert!(off < 1e-5 && moved > 0.1, "{off} of {moved}");
        // A run that was begun by one goes on by the other.
        let updates = Updates::new(Arc::new(Operations));
        let mut other = adamw(&recipe, &start, Some(updates)).unwrap().load_record(optimizer.to_record());
        let mut same = adamw(&recipe, &start, None).unwrap().load_record(optimizer.to_record());
        let grads = || {
            let loss = by_burn.forward(x.clone()).square().sum();
            GradientsParams::from_grads(loss.backward(), &by_burn)
        };
        let [a, b] = [&mut other, &mut same].map(|optimizer| optimizer.step(0.05, by_burn.clone(), grads()));
        let off = (a.weight.val() - b.weight.val()).abs().max().into_scalar::<f32>();
        assert!(off < 1e-5, "{off}");
    }

    fn small() -> ModelConfig {
        ModelConfig {
            layers: 1,
            width: 8,
            heads: 2,
            hidden: 16,
            tokens: 4,
            codes: 6,
            classes: 2,
            sub_models: vec![1, 2],
            ..ModelConfig::preset(Preset::B)
        }
    }

    #[test]
    fn of_a_transformer_its_matrices_decay() {
        let model = NestedTransformer::init(&small(), 1, &Device::flex().autodiff()).unwrap();
        let mut expected: Vec<String> = ["query", "key", "value", "output"]
            .map(|name| format!("blocks.0.attention.{name}.weight"))
            .into_iter()
            .chain(
                ["blocks.0.mlp.up.weight", "blocks.0.mlp.down.weight", "head.dense.weight"].map(String::from),
            )
            .collect();
        expected.sort();
        assert_eq!(decayed(model), expected);
    }

    #[derive(Module, Debug)]
    struct Within {
        transformer: NestedTransformer,
        scale: Param<Tensor<1>>,
    }

    #[test]
    fn within_a_larger_module_the_same_decay() {
        let transformer = NestedTransformer::init(&small(), 1, &Device::flex().autodiff()).unwrap();
        let alone = decayed(transformer.clone());
        let scale = Param::from_tensor(Tensor::ones([1], &transformer.device()));
        let expected: Vec<_> = alone.iter().map(|name| format!("transformer.{name}")).collect();
        assert_eq!(decayed(Within { transformer, scale }), expected);
    }

    #[test]
    fn of_a_tokenizer_its_kernels_decay_and_not_its_codes() {
        let recipe: TokenizerRecipe =
            ron::from_str(include_str!("../../../configs/image/demo-tokenizer.ron")).unwrap();
        let decayed = decayed(TokenizerAndJudge::init(&recipe, &Device::flex().autodiff()).unwrap());
        assert!(decayed.iter().all(|name| name.ends_with("weight") && !name.contains("norm")), "{decayed:?}");
        assert!(decayed.iter().any(|name| name.contains("encoder")) && decayed.len() > 8, "{decayed:?}");
    }

    #[test]
    fn decay_reaches_matrices_only() {
        let device = Device::flex().autodiff();
        let layer: Linear = LinearConfig::new(2, 2).init(&device);
        let mut optimizer =
            adamw(&Optimization { weight_decay: 0.5, ..optimization() }, &layer, None).unwrap();
        // A gradient of zero: all that moves is what decays.
        let zero = (layer.weight.val() * 0.0).sum() + (layer.bias.as_ref().unwrap().val() * 0.0).sum();
        let grads = GradientsParams::from_grads(zero.backward(), &layer);
        let with_bias = layer.clone();
        let after = optimizer.step(0.1, layer, grads);
        let ratio = (after.weight.val() / with_bias.weight.val()).mean().into_scalar::<f32>();
        assert!((ratio - 0.95).abs() < 1e-4, "{ratio}");
        let moved =
            (after.bias.unwrap().val() - with_bias.bias.unwrap().val()).abs().sum().into_scalar::<f32>();
        assert_eq!(moved, 0.0);
    }
}
