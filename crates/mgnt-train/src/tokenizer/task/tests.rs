use std::sync::mpsc;

use burn::module::{ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::train::Interrupter;
use mgnt_data::{PrepareOptions, prepare, synthetic};
use mgnt_tokenizer::{ImageTokenizerConfig, Shortcut};
use mgnt_weights::directory::ModelDirectory;

use super::*;
use crate::inception_stem::stem;
use crate::optimizer::tests::optimization;
use crate::tokenizer::{AdversarialLoss, AdversarialWeight, Adversary, DiscriminatorConfig, Judges};
use crate::{Event, Line, Optimization, Outcome, RunOptions, run};

fn drawn_store(folder: &Path, size: usize) -> Arc<PictureStore> {
    synthetic::write_folder(&folder.join("pictures"), 3, 16, 1).unwrap();
    let options = PrepareOptions { size, ..PrepareOptions::default() };
    let path = folder.join("store");
    prepare(&folder.join("pictures"), &options, &path, &mut |_, _| {}).unwrap();
    Arc::new(PictureStore::open(&path).unwrap())
}

fn recipe(steps: usize) -> TokenizerRecipe {
    TokenizerRecipe {
        tokenizer: ImageTokenizerConfig {
            size: 16,
            filters: 8,
            multipliers: vec![1, 1],
            residual_blocks: 1,
            embedding: 8,
            codes: 16,
            groups: 4,
            shortcut: Shortcut::Input,
        },
        trained: Trained::Whole,
        l1_weight: 1.0,
        l2_weight: 1.0,
        perceptual_weight: 0.0,
        adversary: None,
        codebook_weight: 1.0,
        commitment_weight: 0.25,
        entropy_weight: 0.01,
        revive_every: 10,
        revive_until: 40,
        optimization: Optimization {
            steps,
            parts: 2,
            warm_up_steps: 5,
            log_every: 5,
            validate_every: 60,
            ..optimization()
        },
    }
}

/// Trains until the end, or until the first event at or after `stop_after` steps.
fn train(
    store: &Arc<PictureStore>,
    recipe: &TokenizerRecipe,
    out: &Path,
    resume: bool,
    stop_after: Option<usize>,
) -> (Outcome, Vec<Line>) {
    train_from(store, recipe, out, resume, stop_after, None)
}

/// As [`train`], from a tokenizer that is there.
fn train_from(
    store: &Arc<PictureStore>,
    recipe: &TokenizerRecipe,
    out: &Path,
    resume: bool,
    stop_after: Option<usize>,
    from: Option<&Path>,
) -> (Outcome, Vec<Line>) {
    let device = Device::flex();
    let mut task = TokenizerTask::new(recipe, store, Some(store), Networks::default(), &device).unwrap();
    if let Some(folder) = from {
        task = task.starting_from(folder).unwrap();
    }
    let (tell, told) = mpsc::channel();
    let stop = Interrupter::new();
    let stopper = stop.clone();
    let watch = move |event: &Event| {
        let (Event::Trained(line) | Event::Validated(line)) = event else { return };
        tell.send(line.clone()).unwrap();
        if stop_after.is_some_and(|n| line.step >= n) {
            stopper.stop(None);
        }
    };
    let options = RunOptions { resume, side_by_side: true, ..RunOptions::new(&device, out, &stop) };
    let outcome = run(task, &recipe.optimization, recipe, options, watch).unwrap();
    (outcome, told.iter().collect())
}

#[test]
fn reconstruction_improves_and_codes_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let out = folder.path().join("run");
    let (outcome, events) = train(&store, &recipe(60), &out, false, None);
    assert_eq!(outcome, Outcome::Finished);
    let (first, last) = (&events[0].figures, &events[events.len() - 2].figures);
    assert!(last["l1"] < 0.6 * first["l1"], "{} {}", first["l1"], last["l1"]);
    let validation = &events[events.len() - 1].figures;
    assert!(validation["validation_codes_used"] > 0.4, "{validation:?}");
    assert!(validation["validation_psnr"] > 12.0, "{validation:?}");
    ImageTokenizer::load(out.join("model"), &Device::flex()).unwrap();
}

/// Trained again from where it stands, all of it or the decoder alone.
#[test]
fn a_decoder_alone_learns_and_tokens_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let run = |name: &str| folder.path().join(name);
    train(&store, &recipe(20), &run("first"), false, None);
    let first = run("first/model");
    let decoder = TokenizerRecipe { trained: Trained::Decoder, ..recipe(40) };
    let (_, events) = train_from(&store, &decoder, &run("decoder"), false, None, Some(&first));
    let figures = &events.last().unwrap().figures;
    assert!(!figures.contains_key("codebook") && figures.contains_key("validation_psnr"), "{figures:?}");

    let load = |folder: &Path| ImageTokenizer::load(folder, &Device::flex()).unwrap();
    let (before, after) = (load(&first), load(&run("decoder/model")));
    let maps = [&before, &after].map(|tokenizer| mgnt_weights::module::to_map(tokenizer).unwrap());
    for (name, tensor) in maps[0].iter() {
        let same = maps[1].get(name).unwrap().to_f32() == tensor.to_f32();
        assert_eq!(same, !name.starts_with("decoder"), "{name}");
    }
    let pictures: Vec<&[u8]> = (0..store.len()).map(|i| store.picture(i)).collect();
    let [tokens, kept] = [&before, &after].map(|t| t.tokens(&pictures, &Device::flex()).unwrap());
    assert_eq!(tokens, kept);
    let error = |tokenizer: &ImageTokenizer| -> u64 {
        let rebuilt = tokenizer.pictures(&tokens, &Device::flex()).unwrap();
        let bytes = rebuilt.iter().flatten().zip(pictures.iter().copied().flatten());
        bytes.map(|(&a, &b)| u64::from(a.abs_diff(b))).sum()
    };
    assert!(20 * error(&after) < 19 * error(&before), "{} {}", error(&after), error(&before));

    // Whoever asks whose tokens those are is told the same of both, and the run says what it began with.
    let [codes, of_decoder] = [&first, &run("decoder/model")]
        .map(|folder| mgnt_tokenizer::codes_sha256(&ModelDirectory::new(folder)).unwrap());
    assert_eq!(codes, of_decoder);
    let said: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run("decoder/run.json")).unwrap()).unwrap();
    let sum = mgnt_data::manifest::sha256_of_file(&first.join("model.safetensors")).unwrap();
    assert_eq!((said["tokenizer"].as_str(), said["data"]["from"].as_str()), (Some(&*sum), Some(&*sum)));

    // All of it: the codebook is not made anew at the first step, and moves on.
    let whole = TokenizerRecipe { revive_every: 100, ..recipe(3) };
    train_from(&store, &whole, &run("whole"), false, None, Some(&first));
    let codes = |folder: &Path| {
        let map = mgnt_weights::module::to_map(&load(folder)).unwrap();
        map.get("quantizer.codebook").unwrap().to_f32()
    };
    let (before, after) = (codes(&first), codes(&run("whole/model")));
    let moved = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(moved > 0.0 && moved < 0.3, "{moved}");
}

#[test]
fn a_start_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let device = Device::flex();
    let recipe = TokenizerRecipe { trained: Trained::Decoder, ..recipe(1) };
    let task = || TokenizerTask::new(&recipe, &store, None, Networks::default(), &device).unwrap();
    let error = task().initial(&device.clone().autodiff()).unwrap_err().to_string();
    assert!(error.contains("`trained`") && error.contains("a tokenizer to start from"), "{error}");

    let other = ImageTokenizerConfig { codes: 8, ..recipe.tokenizer.clone() };
    ImageTokenizer::init(&other, 1, &device).unwrap().save(folder.path().join("other")).unwrap();
    let error = task().starting_from(&folder.path().join("other")).unwrap_err().to_string();
    assert!(error.contains("`tokenizer.codes`: expected 8, as in") && error.contains("got 16"), "{error}");

    let spoilt = ModelDirectory::new(folder.path().join("spoilt"));
    let whole = ImageTokenizer::init(&recipe.tokenizer, 1, &device).unwrap();
    let mut weights = mgnt_weights::module::to_map(&whole).unwrap();
    let bias = weights.get("decoder.conv_in.bias").unwrap().shape().to_vec();
    weights.insert_f32("decoder.conv_in.bias", &bias, &vec![f32::NAN; bias[0]]).unwrap();
    spoilt.save(&recipe.tokenizer, &weights).unwrap();
    let error = task().starting_from(spoilt.path()).unwrap_err().to_string();
    assert!(error.ends_with("tensor `decoder.conv_in.bias`: expected finite values, got NaN"), "{error}");

    // Pictures of another size are rebuilt by the same weights.
    let small = ImageTokenizerConfig { size: 8, ..recipe.tokenizer.clone() };
    ImageTokenizer::init(&small, 1, &device).unwrap().save(folder.path().join("small")).unwrap();
    let task = task().starting_from(&folder.path().join("small")).unwrap();
    assert_eq!(task.initial(&device.autodiff()).unwrap().tokenizer.config().size, 16);
}

/// The use of the codes since the last revival goes into the checkpoint.
#[test]
fn a_resumed_run_revives_the_same_codes() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let recipe = recipe(22);
    let run = |name: &str| folder.path().join(name);
    train(&store, &recipe, &run("whole"), false, None);
    let (outcome, _) = train(&store, &recipe, &run("parts"), false, Some(15));
    assert_eq!(outcome, Outcome::Interrupted(15));
    train(&store, &recipe, &run("parts"), true, None);
    let weights = |name: &str| std::fs::read(run(name).join("model/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("parts"));
}

#[test]
fn another_picture_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 24);
    let recipe: TokenizerRecipe = crate::parse_with_overrides(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/image/debug-tokenizer.ron"),
        &[],
    )
    .unwrap();
    let error = TokenizerTask::new(&recipe, &store, None, Networks::default(), &Device::flex())
        .unwrap_err()
        .to_string();
    assert!(error.contains("24 px"), "{error}");
}

fn with_adversary(steps: usize) -> TokenizerRecipe {
    let adversary = Adversary {
        discriminator: DiscriminatorConfig { filters: 4, multipliers: vec![2, 2], judges: Judges::Patches },
        loss: AdversarialLoss::NonSaturating,
        weight: AdversarialWeight::Adaptive(0.5),
        from_step: 6,
        lecam_weight: 0.1,
    };
    TokenizerRecipe { adversary: Some(adversary), ..recipe(steps) }
}

/// The discriminator, its optimiser's moments and LeCAM's means go into the checkpoint as well.
#[test]
fn a_resumed_game_goes_on_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let recipe = with_adversary(22);
    let run = |name: &str| folder.path().join(name);
    let (_, events) = train(&store, &recipe, &run("whole"), false, None);
    // Stopped before the game begins, and within it.
    assert_eq!(train(&store, &recipe, &run("parts"), false, Some(5)).0, Outcome::Interrupted(5));
    assert_eq!(train(&store, &recipe, &run("parts"), true, Some(15)).0, Outcome::Interrupted(15));
    let (_, resumed) = train(&store, &recipe, &run("parts"), true, None);
    let weights = |name: &str| std::fs::read(run(name).join("model/model.safetensors")).unwrap();
    assert!(weights("whole") == weights("parts"));
    // Losses of the game, which come from the discriminator and the means, to the bit.
    let game = |events: &[Line]| -> Vec<_> {
        let later = events.iter().filter(|line| line.step > 15).map(|line| {
            let named = |name: &str| line.figures.get(name).map(|value| value.to_bits());
            (line.step, ["discriminator", "generator", "logits_real", "lecam"].map(named))
        });
        later.collect()
    };
    assert!(!game(&resumed).is_empty());
    assert_eq!(game(&events), game(&resumed));

    let figure = |step: usize, name: &str| {
        let line = events.iter().find(|line| line.step == step).unwrap();
        line.figures.get(name).copied()
    };
    assert_eq!(figure(5, "discriminator"), None);
    for name in ["discriminator", "generator", "logits_real", "logits_rebuilt", "lecam"] {
        assert!(figure(20, name).is_some_and(f64::is_finite), "{name}");
    }
    assert!(figure(20, "adversarial_weight").unwrap() > 0.0);
}

#[test]
fn rebuilt_pictures_are_measured_by_every_network_that_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let weights = folder.path().join("stem.safetensors");
    stem(&weights);
    let device = Device::flex();
    let network = Arc::new(Inception::load(&weights, &device).unwrap());
    let networks = Networks {
        perceptual: Some(Perceptual::inception(network.clone())),
        rfid: Some(Rfid { network: network.clone(), dims: Dims::D64, pictures: 6 }),
    };
    let recipe = TokenizerRecipe { perceptual_weight: 2.0, l2_weight: 0.5, ..recipe(1) };
    let without = TokenizerTask::new(&recipe, &store, None, Networks::default(), &device).unwrap_err();
    assert!(without.to_string().contains("`perceptual_weight`"), "{without}");
    let of_one = Rfid { network: network.clone(), dims: Dims::D64, pictures: 1 };
    let few = Networks { perceptual: Some(Perceptual::inception(network)), rfid: Some(of_one) };
    let few = TokenizerTask::new(&recipe, &store, Some(&store), few, &device).unwrap_err();
    assert!(few.to_string().contains("two held-out pictures at least, got 1 of 24"), "{few}");
    let task = TokenizerTask::new(&recipe, &store, Some(&store), networks, &device).unwrap();
    assert!(task.describe().unwrap().data.contains_key("perceptual"));

    let model = task.initial(&device.clone().autodiff()).unwrap();
    let part = task.part(&model, 0, 0..4).unwrap();
    let figure = |name: &str| {
        let (_, value) = part.figures.iter().find(|(n, _)| n == name).unwrap();
        f64::from(value.clone().into_scalar::<f32>())
    };
    assert!(figure("perceptual") > 0.0);
    let sum = figure("l1")
        + 0.5 * figure("l2")
        + 2.0 * figure("perceptual")
        + 1.25 * figure("codebook")
        + 0.01 * figure("entropy");
    assert!((f64::from(part.loss.into_scalar::<f32>()) - sum).abs() < 1e-4 * sum.abs());

    let average = model.valid();
    let (first, again) = (task.validate(&average).unwrap(), task.validate(&average).unwrap());
    assert_eq!(first, again, "the statistics of the originals are taken once");
    let figure = |name: &str| first.iter().find(|(n, _)| n == name).map(|(_, value)| *value).unwrap();
    assert!(figure("rfid") > 0.0);
    assert!((-1.0..1.0).contains(&figure("ssim")));
    assert_eq!(task.score(&first), Some(figure("rfid")));
}

/// Names of the parameters that a loss moves.
fn moved(model: &TokenizerAndJudge, loss: Tensor<1>) -> Vec<String> {
    struct Named {
        grads: GradientsParams,
        path: Vec<String>,
        moved: Vec<String>,
    }
    impl ModuleVisitor for Named {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let Some(gradient) = self.grads.get::<D>(param.id) else { return };
            if gradient.abs().max().into_scalar::<f32>() > 0.0 {
                self.moved.push(self.path.join("."));
            }
        }
    }
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let mut named = Named { grads, path: Vec::new(), moved: Vec::new() };
    model.visit(&mut named);
    named.moved
}

#[test]
fn each_weight_is_of_its_own_term() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let device = Device::flex();
    let none = TokenizerRecipe {
        l1_weight: 0.0,
        l2_weight: 0.0,
        codebook_weight: 0.0,
        commitment_weight: 0.0,
        entropy_weight: 0.0,
        ..recipe(1)
    };
    for (recipe, [encoder, codebook, decoder]) in [
        (TokenizerRecipe { l1_weight: 1.0, ..none.clone() }, [true, false, true]),
        (TokenizerRecipe { l2_weight: 1.0, ..none.clone() }, [true, false, true]),
        (TokenizerRecipe { codebook_weight: 1.0, ..none.clone() }, [false, true, false]),
        (TokenizerRecipe { commitment_weight: 1.0, ..none.clone() }, [true, false, false]),
        (TokenizerRecipe { entropy_weight: 1.0, ..none.clone() }, [true, true, false]),
    ] {
        let task = TokenizerTask::new(&recipe, &store, None, Networks::default(), &device).unwrap();
        let model = task.initial(&device.clone().autodiff()).unwrap();
        let moved = moved(&model, task.part(&model, 0, 0..4).unwrap().loss);
        let has = |part: &str| moved.iter().any(|name| name.contains(part));
        assert_eq!(["encoder", "codebook", "decoder"].map(has), [encoder, codebook, decoder], "{moved:?}");
    }
    // Of unequal parts the losses add up to that of the whole.
    let recipe = TokenizerRecipe { entropy_weight: 0.0, ..recipe(1) };
    let task = TokenizerTask::new(&recipe, &store, None, Networks::default(), &device).unwrap();
    let model = task.initial(&device.clone().autodiff()).unwrap();
    let loss = |places| f64::from(task.part(&model, 0, places).unwrap().loss.into_scalar::<f32>());
    let (whole, parts) = (loss(0..4), loss(0..1) + loss(1..4));
    assert!((whole - parts).abs() < 1e-5 * whole, "{whole} {parts}");
}

#[test]
fn half_of_the_pictures_are_mirrored() {
    let folder = tempfile::tempdir().unwrap();
    let store = drawn_store(folder.path(), 16);
    let task = TokenizerTask::new(&recipe(1), &store, None, Networks::default(), &Device::flex()).unwrap();
    let mut turned = 0;
    for step in 0..16 {
        let items = task.items(step);
        for (item, picture) in items.into_iter().zip(task.pictures(step, 0..4)) {
            let (kept, other) = (store.picture(item), mirrored(store.picture(item), 16));
            assert!(kept != other && (picture == kept || picture == other));
            turned += usize::from(picture == other);
        }
    }
    assert!((16..48).contains(&turned), "{turned} of 64");
}
