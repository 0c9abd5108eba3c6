use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
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
    /// Cross-entropy with the truth of each sub-model, by p.
    pub truth: Vec<(usize, Tensor<1>)>,
}

/// Weight of the truth beside the teacher: from 1 at the first step to 0 at the last.
pub fn lambda(step: usize, steps: usize) -> f64 {
    if steps > 1 { 1.0 - step.min(steps - 1) as f64 / (steps - 1) as f64 } else { 1.0 }
}

/// Cross-entropy of rows with smoothed labels, weighted: `log_probabilities [R, V]`, `targets [R]`, `weights [R]`
/// that sum to one. The target is `onehot (1 - s) + s / V`.
pub fn cross_entropy(
    log_probabilities: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    smoothing: f64,
) -> Tensor<1> {
    let [rows, _] = log_probabilities.dims();
    let picked = log_probabilities.clone().gather(1, targets.reshape([rows, 1])).reshape([rows]);
    let mut each = picked * (1.0 - smoothing);
    if smoothing > 0.0 {
        each = each + log_probabilities.mean_dim(1).reshape([rows]) * smoothing;
    }
    -(each * weights).sum()
}

/// A masked batch as tensors.
#[derive(Debug, Clone)]
pub struct MaskedBatch {
    /// `[B, 1 + N]`, the class token first and the mask token at hidden places.
    pub tokens: Tensor<2, Int>,
    /// Numbers of the hidden places in the flattened `[B (1 + N)]`, `[R]`.
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
) -> Result<NestedLoss, Error> {
    let config = model.config();
    let [samples, length] = batch.tokens.dims();
    let mut total: Option<Tensor<1>> = None;
    let mut truth = Vec::new();
    let mut taught_by: Option<Tensor<2>> = None;
    for &p in factors {
        let hidden = model.hidden(batch.tokens.clone(), config.sub_model(p)?);
        let hidden = hidden.reshape([samples * length, config.width]).select(0, batch.rows.clone());
        let log_probabilities = log_softmax(model.code_logits(hidden), 1);
        let with_truth =
            cross_entropy(log_probabilities.clone(), batch.targets.clone(), batch.weights.clone(), smoothing);
        truth.push((p, with_truth.clone()));
        let term = match &taught_by {
            Some(probabilities) if teacher != Teacher::Truth && lambda < 1.0 => {
                let each = (probabilities.clone() * log_probabilities.clone()).sum_dim(1);
                let [count, _] = each.dims();
                let with_teacher = -(each.reshape([count]) * batch.weights.clone()).sum();
                with_truth * lambda + with_teacher * (1.0 - lambda)
            }
            _ => with_truth,
        };
        total = Some(match total {
            Some(total) => total + term,
            None => term,
        });
        if taught_by.is_none() || teacher == Teacher::Chain {
            taught_by = Some(log_probabilities.detach().exp());
        }
    }
    let total = total.unwrap_or_else(|| Tensor::zeros([1], &batch.tokens.device()));
    Ok(NestedLoss { total, truth })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::{Device, TensorData, s};
    use mgnt_model::ModelConfig;
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
        nested_loss(model, &batch(&model.device()), &model.config().sub_models, teacher, lambda, 0.1).unwrap()
    }

    /// Log-probabilities of the hidden rows of one sub-model, in f64 on the host.
    fn rows_of(model: &NestedTransformer, p: usize) -> Vec<Vec<f64>> {
        let b = batch(&model.device());
        let logits = model.forward(b.tokens, model.config().sub_model(p).unwrap());
        let logits = logits.into_data().try_into_vec::<f32>().unwrap();
        let vocabulary = model.config().vocabulary().len();
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
    fn a_sub_model_s_gradient_stays_in_its_slice_and_teachers_get_none() {
        let device = Device::flex().autodiff();
        let only_four = ModelConfig { sub_models: vec![1, 4], ..config() };
        let model = NestedTransformer::init(&only_four, 4, &device).unwrap();
        let out = loss(&model, 0.0, Teacher::Chain);
        // The student's share alone: the teacher's own loss is taken out.
        let grads = (out.total - out.truth[0].1.clone()).backward();
        let map = mgnt_weights::module::to_map(&model).unwrap();
        assert!(map.len() > 10);
        let mut seen = 0;
        struct Check<'a>(&'a burn::tensor::Gradients, &'a mut usize, Vec<String>);
        impl burn::module::ModuleVisitor for Check<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.2.push(name.into());
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.2.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
                let name = self.2.join(".");
                let columns = ["query.weight", "key.weight", "value.weight", "up.weight"];
                let rows = ["output.weight", "down.weight"];
                let axis = if columns.iter().any(|c| name.ends_with(c)) { 1 } else { 0 };
                if axis == 1 || rows.iter().any(|r| name.ends_with(r)) {
                    let grad = param.val().grad(self.0).unwrap();
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
        burn::module::Module::visit(&model, &mut Check(&grads, &mut seen, Vec::new()));
        assert_eq!(seen, 6);
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
            let lp = log_softmax(logits.clone(), 1);
            let got = cross_entropy(lp, targets.clone(), weights.clone(), *smoothing).into_scalar::<f32>();
            assert!((f64::from(got) - expected).abs() < 1e-5 * expected, "{smoothing}: {got} {expected}");
        }
    }
}
