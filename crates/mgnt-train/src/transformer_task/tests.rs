use std::sync::mpsc;

use burn::module::{ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::DType;
use burn::train::Interrupter;
use mgnt_data::{TokenStoreInfo, TokenWriter};
use mgnt_model::kernels::Operations;

use super::*;
use crate::objective::Students;
use crate::optimizer::tests::optimization;
use crate::{Event, Optimization, Outcome, RunOptions, part, run};

fn info() -> TokenStoreInfo {
    TokenStoreInfo {
        grid: [3, 3],
        codes: 8,
        classes: vec!["a".into(), "b".into()],
        tokenizer: "none".into(),
        codes_sha256: None,
        source: "test".into(),
    }
}

fn store(folder: &Path) -> Arc<TokenStore> {
    let mut writer = TokenWriter::new(folder, info());
    for i in 0..24u16 {
        let tokens: Vec<u16> =
            (0..9).map(|place| if i % 2 == 0 { place % 4 } else { 7 - place % 4 }).collect();
        writer.push(&tokens, usize::from(i % 2)).unwrap();
    }
    writer.finish().unwrap();
    Arc::new(TokenStore::open(folder).unwrap())
}

fn recipe(steps: usize) -> Recipe {
    Recipe {
        layers: 1,
        width: 16,
        heads: 4,
        hidden: 32,
        sub_models: vec![1, 2, 4],
        norm: Default::default(),
        nesting: Default::default(),
        dropout: 0.1,
        class_dropout: 0.1,
        label_smoothing: 0.1,
        objective: Default::default(),
        precision: Default::default(),
        optimization: Optimization {
            steps,
            warm_up_steps: 3,
            checkpoint_every: 4,
            validate_every: 6,
            ..optimization()
        },
    }
}

fn train(
    store: &Arc<TokenStore>,
    recipe: &Recipe,
    out: &Path,
    resume: bool,
    stop_after: Option<usize>,
) -> (Result<Outcome, Error>, Vec<crate::Line>) {
    let device = Device::flex();
    let task = TransformerTask::new(recipe, store, Some(store), &device).unwrap();
    let stop = Interrupter::new();
    let (tell, told) = mpsc::channel();
    let stopper = stop.clone();
    let watch = move |event: &Event| {
        let (Event::Trained(line) | Event::Validated(line)) = event else { return };
        tell.send(line.clone()).unwrap();
        if stop_after.is_some_and(|n| line.step >= n) {
            stopper.stop(None);
        }
    };
    let options = RunOptions { resume, side_by_side: true, ..RunOptions::new(&device, out, &stop) };
    let outcome = run(task, &recipe.optimization, recipe, options, watch);
    (outcome, told.iter().collect())
}

#[test]
fn losses_of_every_sub_model_fall() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let recipe = recipe(80);
    let (outcome, events) = train(&store, &recipe, &folder.path().join("run"), false, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let validations: Vec<_> =
        events.iter().filter(|e| e.figures.contains_key("validation_loss_p1")).collect();
    for p in [1, 2, 4] {
        let key = format!("validation_loss_p{p}");
        let (first, last) = (validations[0].figures[&key], validations[validations.len() - 1].figures[&key]);
        assert!(last < first - 0.2, "p = {p}: {first} {last}");
    }
    let model = NestedTransformer::load(folder.path().join("run/model"), &Device::flex()).unwrap();
    assert_eq!(model.config().codes, 8);
}

#[test]
fn a_resumed_run_has_the_same_weights_to_the_bit() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let recipe = recipe(14);
    let weights = |run: &str| std::fs::read(folder.path().join(run).join("model/model.safetensors")).unwrap();
    let (outcome, _) = train(&store, &recipe, &folder.path().join("whole"), false, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);

    let parts = folder.path().join("parts");
    assert_eq!(train(&store, &recipe, &parts, false, Some(5)).0.unwrap(), Outcome::Interrupted(5));
    assert_eq!(train(&store, &recipe, &parts, true, Some(9)).0.unwrap(), Outcome::Interrupted(9));
    // As after a kill: the newest checkpoint is torn, the one before it is taken.
    let newest = parts.join("checkpoints/step-00000009/model.bpk");
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(train(&store, &recipe, &parts, true, None).0.unwrap(), Outcome::Finished);
    assert!(weights("parts") == weights("whole"));
}

/// Weights after some steps, without dropout.
fn trained(store: &Arc<TokenStore>, parts: usize, side_by_side: bool, out: &Path) -> Vec<f32> {
    let mut recipe = Recipe { dropout: 0.0, ..recipe(6) };
    recipe.optimization.parts = parts;
    let device = Device::flex();
    let task = TransformerTask::new(&recipe, store, None, &device).unwrap();
    let stop = Interrupter::new();
    let options = RunOptions { side_by_side, ..RunOptions::new(&device, out, &stop) };
    run(task, &recipe.optimization, &recipe, options, |_: &Event| {}).unwrap();
    let weights = mgnt_weights::safetensors::read(&out.join("model/model.safetensors")).unwrap();
    weights.iter().flat_map(|(_, tensor)| tensor.to_f32()).collect()
}

#[test]
fn parts_add_up_to_the_whole_and_threads_change_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let run = |name: &str, parts, side| trained(&store, parts, side, &folder.path().join(name));
    let whole = run("whole", 1, false);
    let parts = run("parts", 3, false);
    assert!(parts == run("side-by-side", 3, true));
    let worst = whole.iter().zip(&parts).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // Adam divides by the root of the second moment: where gradients are near zero, rounding shows.
    assert!(worst < 2e-3, "{worst}");
    assert!(whole != parts, "the parts were not computed apart");
}

/// Loss and gradients of the first step, in the order of the parameters.
fn first_step(store: &Arc<TokenStore>, recipe: &Recipe) -> (f64, Vec<f32>) {
    let task = TransformerTask::new(recipe, store, None, &Device::flex()).unwrap();
    first_step_of(&task, &recipe.optimization, false)
}

fn first_step_of(task: &TransformerTask, optimization: &Optimization, side_by_side: bool) -> (f64, Vec<f32>) {
    let device = Device::flex();
    let model = task.initial(&device.clone().autodiff()).unwrap();
    let workers = part::Workers::new(&device, &[], side_by_side, optimization.parts).unwrap();
    let computed = part::compute(task, &model, optimization, 0, &workers).unwrap();
    struct Flat<'a>(&'a GradientsParams, Vec<f32>);
    impl ModuleVisitor for Flat<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = self.0.get::<D>(param.id).unwrap();
            assert_eq!((gradient.dtype(), param.val().dtype()), (DType::F32, DType::F32));
            self.1.extend(gradient.into_data().try_into_vec::<f32>().unwrap());
        }
    }
    let mut flat = Flat(&computed.gradients, Vec::new());
    model.visit(&mut flat);
    (computed.loss, flat.1)
}

/// Length of the difference of two gradients, relative to the first.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let square = |pairs: &mut dyn Iterator<Item = f32>| pairs.map(|d| f64::from(d * d)).sum::<f64>();
    (square(&mut a.iter().zip(b).map(|(a, b)| a - b)) / square(&mut a.iter().copied())).sqrt()
}

#[test]
fn accumulated_gradients_are_those_of_the_large_batch() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let mut recipe = Recipe { dropout: 0.0, ..recipe(6) };
    recipe.optimization.batch = 10;
    let (loss, whole) = first_step(&store, &recipe);
    for parts in [2, 3, 10] {
        recipe.optimization.parts = parts;
        let (sum, gradient) = first_step(&store, &recipe);
        assert!((sum - loss).abs() < 1e-5 * loss, "{parts}: {sum} {loss}");
        assert!(apart(&whole, &gradient) < 1e-5, "{parts}: {}", apart(&whole, &gradient));
    }
}

#[test]
fn dropout_by_kernels_is_of_the_recipe_s_seed_on_any_thread() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let step = |dropout: f64, side_by_side: bool| {
        let mut recipe = Recipe { dropout, ..recipe(6) };
        recipe.optimization.parts = 4;
        let task = TransformerTask::new(&recipe, &store, None, &Device::flex()).unwrap();
        assert_eq!(task.draws_on_device(), dropout > 0.0);
        let task = task.with_kernels(Arc::new(Operations));
        assert!(!task.draws_on_device());
        first_step_of(&task, &recipe.optimization, side_by_side)
    };
    let (loss, gradients) = step(0.3, false);
    // As others of the process would.
    Device::flex().seed(loss.to_bits());
    assert!(step(0.3, true) == (loss, gradients));
    assert!((step(0.0, false).0 - loss).abs() > 1e-3 * loss, "nothing was dropped");
}

#[test]
fn checkpointed_gradients_are_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let mut recipe = recipe(6);
    let kept = first_step(&store, &recipe);
    recipe.optimization.gradient_checkpointing = true;
    let again = first_step(&store, &recipe);
    assert!(kept == again, "{} {}: {}", kept.0, again.0, apart(&kept.1, &again.1));
}

#[test]
fn half_precision_changes_gradients_little_and_parameters_stay_single() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let single = Recipe { dropout: 0.0, ..recipe(6) };
    let (loss, whole) = first_step(&store, &single);
    let (half_loss, half) = first_step(&store, &Recipe { precision: Precision::Bf16, ..single });
    // bf16 has eight bits: a product is off by 2^-9 relative, and some dozens of them follow each other.
    assert!((half_loss - loss).abs() < 1e-2 * loss, "{half_loss} {loss}");
    let apart = apart(&whole, &half);
    assert!((1e-5..5e-2).contains(&apart), "{apart}");
}

#[test]
fn one_student_a_step() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let mut recipe = recipe(12);
    recipe.objective.students = Students::One;
    let (outcome, events) = train(&store, &recipe, &folder.path().join("run"), false, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let mut drawn = BTreeMap::new();
    for line in events.iter().filter(|line| line.learning_rate.is_some()) {
        let losses: Vec<&str> = line.figures.keys().filter_map(|name| name.strip_prefix("loss_p")).collect();
        assert!(losses.len() == 2 && losses[0] == "1", "{losses:?}");
        *drawn.entry(losses[1].to_owned()).or_insert(0) += 1;
    }
    assert_eq!(drawn.keys().collect::<Vec<_>>(), ["2", "4"]);
}

#[test]
fn a_model_without_a_null_class_is_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let recipe = recipe(5);
    let device = Device::flex();
    let task = |recipe| TransformerTask::new(recipe, &store, None, &device).unwrap();
    let config = ModelConfig { null_class: false, sub_models: vec![1], ..task(&recipe).config().clone() };
    let start = NestedTransformer::init(&config, 9, &device).unwrap();
    let path = folder.path().join("start");
    start.save(&path).unwrap();
    let from = task(&recipe).starting_from(&path).unwrap();
    assert_eq!((from.config().null_class, &from.config().sub_models), (false, &recipe.sub_models));
    assert!(from.describe().unwrap().data.contains_key("from"));
    let tokens: Tensor<2, burn::tensor::Int> = Tensor::zeros([1, 10], &device);
    let logits = |model: &NestedTransformer| {
        model.forward(tokens.clone(), model.config().full()).into_data().try_into_vec::<f32>().unwrap()
    };
    assert_eq!(logits(&from.initial(&device).unwrap()), logits(&start));

    let other = Recipe { width: 32, ..recipe.clone() };
    let error = task(&other).starting_from(&path).unwrap_err().to_string();
    assert!(error.contains("`width`") && error.contains("16") && error.contains("32"), "{error}");
}

/// Two recipes are compared by their held-out losses.
#[test]
fn a_validation_is_the_same_in_any_batch() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder.path().join("tokens"));
    let losses = |batch, parts| {
        let mut recipe = recipe(5);
        (recipe.optimization.batch, recipe.optimization.parts) = (batch, parts);
        let task = TransformerTask::new(&recipe, &store, Some(&store), &Device::flex()).unwrap();
        assert_eq!(task.validation_figures(), ["loss_p1", "loss_p2", "loss_p4"]);
        task.validate(&task.initial(&Device::flex()).unwrap()).unwrap()
    };
    let whole = losses(24, 1);
    for (batch, parts) in [(24, 5), (7, 1), (7, 7)] {
        for ((name, one), (_, other)) in whole.iter().zip(losses(batch, parts)) {
            assert!((one - other).abs() < 1e-5 * one, "{name}: {one} {other} in batches of {batch}");
        }
    }
    let task = TransformerTask::new(&recipe(5), &store, None, &Device::flex()).unwrap();
    assert!(task.validation_figures().is_empty(), "nothing is held out");
}

#[test]
fn held_out_tokens_that_say_nothing_of_the_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = store(&folder.path().join("tokens"));
    for (said, info, count) in [
        ("another tokenizer", TokenStoreInfo { tokenizer: "other".into(), ..info() }, 1),
        ("other classes", TokenStoreInfo { classes: vec!["a".into(), "c".into()], ..info() }, 1),
        ("no picture", info(), 0),
    ] {
        let held_out = folder.path().join(said);
        let mut writer = TokenWriter::new(&held_out, info);
        (0..count).for_each(|_| writer.push(&[0; 9], 0).unwrap());
        writer.finish().unwrap();
        let held_out = Arc::new(TokenStore::open(&held_out).unwrap());
        let error = TransformerTask::new(&recipe(1), &ours, Some(&held_out), &Device::flex()).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// Codes are 0 to 7, classes 8 and 9, the null class 10, the mask 11.
#[test]
fn a_batch_shows_and_hides_what_its_masks_say() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let recipe = Recipe { class_dropout: 0.5, ..recipe(1) };
    let device = Device::flex();
    let task = TransformerTask::new(&recipe, &store, None, &device).unwrap();
    let ints = |tensor: TensorData| -> Vec<i64> { tensor.iter::<i64>().collect() };
    let mut dropped = 0;
    for step in 0..8 {
        // Not from the first place on.
        let (places, items) = (1..4, task.items(step));
        let batch = task.masked(step, places.clone(), &device).unwrap();
        let (mut tokens, mut rows, mut targets, mut weights) = (vec![], vec![], vec![], vec![]);
        for (row, place) in places.enumerate() {
            let masked = mask(recipe.optimization.seed, step, place, 9, 0.5);
            let mut codes: Vec<i64> = store.tokens(items[place]).iter().map(|&code| code.into()).collect();
            for &hidden in &masked.places {
                rows.push((10 * row + 1 + hidden) as i64);
                targets.push(codes[hidden]);
                weights.push(1.0 / (4.0 * masked.places.len() as f32));
                codes[hidden] = 11;
            }
            let class = if masked.class_dropped { 10 } else { 8 + store.label(items[place]) as i64 };
            dropped += usize::from(masked.class_dropped);
            tokens.push(class);
            tokens.extend(codes);
        }
        assert_eq!(ints(batch.tokens.into_data()), tokens, "{step}");
        assert_eq!(ints(batch.rows.into_data()), rows, "{step}");
        assert_eq!(ints(batch.targets.into_data()), targets, "{step}");
        assert_eq!(batch.weights.into_data().try_into_vec::<f32>().unwrap(), weights, "{step}");
    }
    assert!((1..24).contains(&dropped), "{dropped}");
}
