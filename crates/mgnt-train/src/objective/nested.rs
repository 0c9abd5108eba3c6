use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use mgnt_model::kernels::{Aim, Entropy, Kernels};
use mgnt_model::{Error, NestedTransformer};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::masking::generator;

/// Options of the nested objective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct NestedOptions {
    /// Which sub-model teaches each smaller one.
    #[serde(default)]
    pub teacher: Teacher,
    /// Which sub-models a step trains besides the full model.
    #[serde(default)]
    pub students: Students,
}

/// Which sub-model teaches each smaller one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Teacher {
    /// The next larger one of the step (the paper's).
    #[default]
    Chain,
    /// The full model.
    Full,
    /// None: ground truth only.
    Truth,
}

/// Which sub-models a step trains besides the full model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Students {
    /// Every one (the paper's).
    #[default]
    All,
    /// One, drawn anew for each step: cheaper, as the stochastic student of ELT (arXiv 2604.09168).
    One,
}

impl Students {
    /// Factors of the sub-models of a step, the full model first. A pure function of its arguments.
    pub fn of_step(self, sub_models: &[usize], seed: u64, step: usize) -> Vec<usize> {
        match (self, sub_models) {
            (Self::One, [full, students @ ..]) if !students.is_empty() => {
                vec![*full, students[generator(seed, step, *b"stud").random_range(0..students.len())]]
            }
            _ => sub_models.to_vec(),
        }
    }
}

/// The loss of one batch.
#[derive(Debug)]
pub struct NestedLoss {
    /// What is minimised, `[1]`.
    pub total: Tensor<1>,
    /// Cross-entropy with the truth of each sub-model, by p, off the tape.
    pub truth: Vec<(usize, Tensor<1>)>,
}

/// Weight of the truth beside the teacher: from 1 at the first step to 0 at the last.
pub fn lambda(step: usize, steps: usize) -> f64 {
    if steps > 1 { 1.0 - step.min(steps - 1) as f64 / (steps - 1) as f64 } else { 1.0 }
}

/// Cross-entropy of rows, weighted: `logits [R, V]`, `targets [R]`, `weights [R]` that sum to one. The truth is
/// `onehot (1 - s) + s / V` with `s` the smoothing; beside `teacher`, probabilities `[R, V]` and their share, it counts
/// for the rest.
///
/// The gradient by the logits is `(softmax - what they are held against) weight`, and is computed so from their
/// softmax `probabilities`; these and the teacher's count as fixed, though they may be on the tape.
pub fn cross_entropy(
    logits: Tensor<2>,
    probabilities: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    smoothing: f64,
    teacher: Option<(&Tensor<2>, f64)>,
) -> Entropy {
    let [rows, codes] = logits.dims();
    let fixed = logits.clone().inner();
    let (targets, weights) = (targets.inner().reshape([rows, 1]), weights.inner().reshape([rows, 1]));
    let probabilities = probabilities.inner();
    let teacher = teacher.map(|(taught, share)| (taught.clone().inner(), share));
    // The logarithm of the sum of exponentials, by each row's largest entry.
    let normalizer = fixed.clone().max_dim(1) - probabilities.clone().max_dim(1).log();
    let mean_of = |expected: Tensor<2>| ((normalizer.clone() - expected) * weights.clone()).sum();

    let picked = fixed.clone().gather(1, targets.clone());
    let mut expected = picked * (1.0 - smoothing) + fixed.clone().mean_dim(1) * smoothing;
    let truth = mean_of(expected.clone());
    let of_truth = 1.0 - teacher.as_ref().map_or(0.0, |(_, share)| *share);
    let mut gradient = probabilities.clone() - of_truth * smoothing / codes as f64;
    if let Some((taught, share)) = teacher {
        expected = expected * of_truth + (fixed * taught.clone()).sum_dim(1) * share;
        gradient = gradient - taught.clone() * share;
    }
    let value = mean_of(expected);
    if !logits.device().is_autodiff() {
        return Entropy { loss: value, truth, probabilities };
    }
    let at_targets = Tensor::full([rows, 1], -of_truth * (1.0 - smoothing), &gradient.device());
    let gradient = gradient.scatter(1, targets, at_targets, IndexingUpdateOp::Add) * weights;
    // A term that is zero and has this gradient.
    let moved = (logits * gradient).sum();
    Entropy { loss: moved.clone() - moved.detach() + value, truth, probabilities }
}

/// A masked batch as tensors.
#[derive(Debug, Clone)]
pub struct MaskedBatch {
    /// `[B, 1 + N]`, the class token first and the mask token at hidden places.
    pub tokens: Tensor<2, Int>,
    /// Numbers of the hidden places in the flattened `[B (1 + N)]`, `[R]`, no two alike.
    pub rows: Tensor<1, Int>,
    /// Their codes, `[R]`.
    pub targets: Tensor<1, Int>,
    /// Their shares of the mean, `[R]`.
    pub weights: Tensor<1>,
}

/// The objective on one masked batch, over the sub-models of `factors`, largest model first:
/// `CE(1, truth) + sum over p > 1 of lambda CE(p, truth) + (1 - lambda) CE(p, stop-gradient softmax of teacher)`.
pub fn nested_loss(
    model: &NestedTransformer,
    batch: &MaskedBatch,
    factors: &[usize],
    teacher: Teacher,
    lambda: f64,
    smoothing: f64,
    kernels: Option<&dyn Kernels>,
) -> Result<NestedLoss, Error> {
    let config = model.config();
    let [samples, length] = batch.tokens.dims();
    let mut total: Option<Tensor<1>> = None;
    let mut truth = Vec::new();
    let mut taught_by: Option<Tensor<2>> = None;
    let embedded = model.embedded(batch.tokens.clone());
    for &p in factors {
        let hidden = model.hidden_of(embedded.clone(), config.sub_model(p)?);
        let (hidden, rows) = (hidden.reshape([samples * length, config.width]), batch.rows.clone());
        let hidden = match kernels {
            Some(kernels) => kernels.picked(hidden, rows),
            None => hidden.select(0, rows),
        };
        let taught = taught_by.as_ref().map(|teacher| (teacher, 1.0 - lambda));
        let taught = taught.filter(|(_, share)| teacher != Teacher::Truth && *share > 0.0);
        let (targets, weights) = (batch.targets.clone(), batch.weights.clone());
        let logits = model.code_logits(hidden);
        // Probabilities are what a smaller model learns of this one, too.
        let Entropy { loss, truth: with_truth, probabilities } = match kernels {
            Some(kernels) => {
                let teacher = taught.map(|(taught, share)| (taught.clone(), share));
                kernels.cross_entropy(logits, Aim { targets, weights, smoothing, teacher })
            }
            None => {
                let probabilities = model.softmax(logits.clone().inner());
                cross_entropy(logits, probabilities, targets, weights, smoothing, taught)
            }
        };
        truth.push((p, with_truth));
        total = Some(match total {
            Some(total) => total + loss,
            None => loss,
        });
        if taught_by.is_none() || teacher == Teacher::Chain {
            taught_by = Some(probabilities);
        }
    }
    let total = total.unwrap_or_else(|| Tensor::zeros([1], &batch.tokens.device()));
    Ok(NestedLoss { total, truth })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::activation::softmax;
    use burn::tensor::{Device, TensorData, s};
    use mgnt_model::ModelConfig;
    use mgnt_model::kernels::Operations;
    use mgnt_weights::safetensors;

    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            layers: 1,
            width: 16,
            heads: 4,
            hidden: 32,
            tokens: 4,
            codes: 6,
            classes: 3,
            null_class: true,
            sub_models: vec![1, 2, 4],
            norm: Default::default(),
            nesting: Default::default(),
            dropout: 0.0,
        }
    }

    fn batch(device: &Device) -> MaskedBatch {
        MaskedBatch {
            tokens: Tensor::from_data([[7, 10, 1, 10, 3], [8, 2, 10, 10, 10]], device),
            rows: Tensor::from_data([1, 3, 7, 8, 9], device),
            targets: Tensor::from_data([0, 5, 1, 2, 3], device),
            weights: Tensor::from_floats([0.25, 0.25, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0], device),
        }
    }

    fn loss(model: &NestedTransformer, lambda: f64, teacher: Teacher) -> NestedLoss {
        nested_loss(model, &batch(&model.device()), &model.config().sub_models, teacher, lambda, 0.1, None)
            .unwrap()
    }

    /// Log-probabilities of the hidden rows of one sub-model, in f64 on the host.
    fn rows_of(model: &NestedTransformer, p: usize) -> Vec<Vec<f64>> {
        let b = batch(&model.device());
        let logits = model.forward(b.tokens, model.config().sub_model(p).unwrap());
        let logits = logits.into_data().try_into_vec::<f32>().unwrap();
        let vocabulary = model.config().vocabulary().size();
        [1, 3, 7, 8, 9]
            .iter()
            .map(|&row: &usize| {
                let row: Vec<f64> = logits[row * vocabulary..][..6].iter().map(|&l| f64::from(l)).collect();
                let sum = row.iter().map(|l| l.exp()).sum::<f64>().ln();
                row.iter().map(|l| l - sum).collect()
            })
            .collect()
    }

    #[test]
    fn the_chain_by_hand() {
        let model = NestedTransformer::init(&config(), 4, &Device::flex()).unwrap();
        let (targets, weights) = ([0, 5, 1, 2, 3], [0.25, 0.25, 1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0]);
        let rows = [1, 2, 4].map(|p| rows_of(&model, p));
        let truth = |rows: &[Vec<f64>]| -> f64 {
            rows.iter()
                .zip(targets)
                .zip(weights)
                .map(|((row, t), w)| -w * (0.9 * row[t] + 0.1 / 6.0 * row.iter().sum::<f64>()))
                .sum()
        };
        let taught = |rows: &[Vec<f64>], teacher: &[Vec<f64>]| -> f64 {
            rows.iter()
                .zip(teacher)
                .zip(weights)
                .map(|((row, t), w)| -w * row.iter().zip(t).map(|(a, b)| a * b.exp()).sum::<f64>())
                .sum()
        };
        for lambda in [1.0, 0.3, 0.0] {
            for (teacher, of_four) in [(Teacher::Chain, 1), (Teacher::Full, 0)] {
                let expected = truth(&rows[0])
                    + lambda * truth(&rows[1])
                    + (1.0 - lambda) * taught(&rows[1], &rows[0])
                    + lambda * truth(&rows[2])
                    + (1.0 - lambda) * taught(&rows[2], &rows[of_four]);
                let got = f64::from(loss(&model, lambda, teacher).total.into_scalar::<f32>());
                assert!((got - expected).abs() < 1e-5, "{lambda} {teacher:?}: {got} {expected}");
            }
            let only_truth = loss(&model, lambda, Teacher::Truth);
            let expected: f64 = rows.iter().map(|rows| truth(rows)).sum();
            assert!((f64::from(only_truth.total.into_scalar::<f32>()) - expected).abs() < 1e-5);
        }
    }

    #[test]
    fn kernels_compute_the_same_loss_and_gradients() {
        let model = NestedTransformer::init(&config(), 4, &Device::flex().autodiff()).unwrap();
        let by = |lambda, kernels| {
            let factors = &model.config().sub_models;
            nested_loss(&model, &batch(&model.device()), factors, Teacher::Chain, lambda, 0.1, kernels)
                .unwrap()
        };
        for lambda in [1.0, 0.3] {
            let [ours, theirs] = [None, Some(&Operations as &dyn Kernels)].map(|kernels| by(lambda, kernels));
            for ((p, a), (_, b)) in ours.truth.iter().zip(&theirs.truth) {
                let off = (a.clone() - b.clone()).abs().into_scalar::<f32>();
                assert!(off < 1e-6, "p = {p}: {off}");
            }
            let [(a, of_a), (b, of_b)] =
                [ours, theirs].map(|loss| (loss.total.clone().inner(), loss.total.backward()));
            assert!((a - b).abs().into_scalar::<f32>() < 1e-5);
            let mut farthest = Farthest { gradients: [&of_a, &of_b], off: 0.0, seen: 0 };
            model.visit(&mut farthest);
            assert!(farthest.off < 1e-6 && farthest.seen > 10, "{} of {}", farthest.off, farthest.seen);
        }
    }

    /// How far gradients of the same parameters are from each other.
    struct Farthest<'a> {
        gradients: [&'a burn::tensor::Gradients; 2],
        off: f32,
        seen: usize,
    }

    impl ModuleVisitor for Farthest<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let [a, b] = self.gradients.map(|gradients| param.val().grad(gradients).unwrap());
            self.off = self.off.max((a - b).abs().max().into_scalar::<f32>());
            self.seen += 1;
        }
    }

    #[test]
    fn a_sub_model_s_gradient_stays_in_its_slice_and_teachers_get_none() {
        let device = Device::flex().autodiff();
        let only_four = ModelConfig { sub_models: vec![1, 4], ..config() };
        let model = NestedTransformer::init(&only_four, 4, &device).unwrap();
        let grads = loss(&model, 0.0, Teacher::Chain).total.backward();
        // The student's share alone: the teacher's own loss is taken out.
        let full = nested_loss(&model, &batch(&device), &[1], Teacher::Chain, 0.0, 0.1, None).unwrap();
        let teachers = full.total.backward();
        let map = mgnt_weights::module::to_map(&model).unwrap();
        assert!(map.len() > 10);
        let mut seen = 0;
        struct Check<'a>([&'a burn::tensor::Gradients; 2], &'a mut usize, Vec<String>);
        impl ModuleVisitor for Check<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.2.push(name.into());
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.2.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let name = self.2.join(".");
                let columns = ["query.weight", "key.weight", "value.weight", "up.weight"];
                let rows = ["output.weight", "down.weight"];
                let axis = if columns.iter().any(|c| name.ends_with(c)) { 1 } else { 0 };
                if axis == 1 || rows.iter().any(|r| name.ends_with(r)) {
                    let [grad, teachers] = self.0.map(|grads| param.val().grad(grads).unwrap());
                    let grad = grad - teachers;
                    let length = grad.dims()[axis];
                    let sum = |from: usize, to: usize| -> f32 {
                        grad.clone().narrow(axis, from, to - from).abs().sum().into_scalar()
                    };
                    let (inside, outside) = (sum(0, length / 4), sum(length / 4, length));
                    assert_eq!(outside, 0.0, "{name}");
                    assert!(inside > 0.0, "{name}");
                    *self.1 += 1;
                }
            }
        }
        Module::visit(&model, &mut Check([&grads, &teachers], &mut seen, Vec::new()));
        assert_eq!(seen, 6);
    }

    #[test]
    fn the_gradient_by_the_logits_is_the_slope_of_the_loss() {
        let device = Device::flex().autodiff();
        let rows = [[0.3f32, -1.2, 2.0, 0.1], [40.0, -3.0, 0.0, 39.0]];
        let taught =
            Tensor::<2>::from_floats([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1]], &device.clone().inner());
        let say = |rows: [[f32; 4]; 2], teacher: Option<f64>| {
            let logits = Tensor::<2>::from_floats(rows, &device).require_grad();
            let (targets, weights) =
                (Tensor::from_data([2, 0], &device), Tensor::from_floats([0.25, 0.75], &device));
            let teacher = teacher.map(|share| (&taught, share));
            // On the tape, as who calls it has it at hand: it counts as fixed.
            let probabilities = softmax(logits.clone(), 1);
            let said = cross_entropy(logits.clone(), probabilities, targets, weights, 0.1, teacher);
            (logits, said)
        };
        for teacher in [None, Some(0.6), Some(1.0)] {
            let (logits, said) = say(rows, teacher);
            let slopes =
                logits.grad(&said.loss.backward()).unwrap().into_data().try_into_vec::<f32>().unwrap();
            for (place, slope) in slopes.into_iter().enumerate() {
                let moved = |by: f32| {
                    let mut moved = rows;
                    moved[place / 4][place % 4] += by;
                    f64::from(say(moved, teacher).1.loss.into_scalar::<f32>())
                };
                let difference = (moved(0.02) - moved(-0.02)) / 0.04;
                assert!(
                    (f64::from(slope) - difference).abs() < 2e-3,
                    "{teacher:?} {place}: {slope} {difference}"
                );
            }
        }
    }

    #[test]
    fn one_student_is_drawn_as_often_as_another() {
        let sizes = [1, 2, 4, 8];
        assert_eq!(Students::All.of_step(&sizes, 1, 5), sizes);
        assert_eq!(Students::One.of_step(&[1], 1, 5), [1]);
        let mut drawn = std::collections::BTreeMap::new();
        for step in 0..3000 {
            let factors = Students::One.of_step(&sizes, 7, step);
            assert_eq!((factors.len(), factors[0]), (2, 1));
            assert_eq!(factors, Students::One.of_step(&sizes, 7, step));
            *drawn.entry(factors[1]).or_insert(0) += 1;
        }
        assert_eq!(drawn.keys().copied().collect::<Vec<_>>(), [2, 4, 8]);
        assert!(drawn.values().all(|count| (900..1100).contains(count)), "{drawn:?}");
    }

    #[test]
    fn lambda_falls_from_one_to_zero() {
        assert_eq!([0, 50, 100, 200].map(|step| lambda(step, 101)), [1.0, 0.5, 0.0, 0.0]);
        assert_eq!(lambda(0, 1), 1.0);
    }

    #[test]
    fn losses_of_the_published_code() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/maskgit-transformer");
        let case = safetensors::read(&golden.join("case.safetensors")).unwrap();
        let device = Device::flex();
        let tensor = |name: &str| {
            let t = case.get(name).unwrap();
            TensorData::new(t.to_f32(), t.shape().to_vec())
        };
        let logits =
            Tensor::<3>::from_data(tensor("logits"), &device).slice(s![.., 1..65, ..]).reshape([256, 43]);
        let targets = case.integers("tokens").unwrap();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [256]), &device);
        let weights = Tensor::<2>::from_data(tensor("loss_weights"), &device);
        let weights = (weights.clone() / (weights.sum_dim(1) * 4.0)).reshape([256]);
        let smoothing = case.get("loss_label_smoothing").unwrap().to_f64();
        for (smoothing, expected) in smoothing.iter().zip(case.get("loss").unwrap().to_f64()) {
            let probabilities = softmax(logits.clone(), 1);
            let said = cross_entropy(
                logits.clone(),
                probabilities,
                targets.clone(),
                weights.clone(),
                *smoothing,
                None,
            );
            let got = said.loss.into_scalar::<f32>();
            assert!((f64::from(got) - expected).abs() < 1e-5 * expected, "{smoothing}: {got} {expected}");
        }
    }
}
