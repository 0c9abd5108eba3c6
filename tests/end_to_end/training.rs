//! Training: what it logs, what it forecasts, where it starts.

use std::fs;
use std::path::PathBuf;

use mgnt_data::{TokenStoreInfo, TokenWriter};
use mgnt_model::ModelConfig;
use mgnt_weights::directory::read_ron;
use mgnt_weights::safetensors;

use crate::world::{TRANSFORMER, fail, golden, succeed, world};

#[test]
fn losses_are_logged_for_every_sub_model_and_fall() {
    let world = world();
    let log = fs::read_to_string(world.path().join("run/metrics.jsonl")).unwrap();
    let events: Vec<serde_json::Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for p in [1, 2, 4, 8] {
        let key = format!("validation_loss_p{p}");
        let losses: Vec<f64> = events.iter().filter_map(|event| event[&key].as_f64()).collect();
        assert_eq!(losses.len(), 2, "{key}");
        assert!(losses[1] < losses[0], "{key}: {losses:?}");
        assert!(events[0][format!("loss_p{p}")].is_number());
    }
}

#[test]
fn a_dry_run_tells_what_a_run_needs_and_does_nothing() {
    let own = world();
    let world = own.path();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let told = succeed("train-imagenet --config configs/image/imagenet256-L.ron --dry-run", &root);
    for part in
        ["305.70 M parameters", "1281167 samples", "234.9708 TFLOP", "1.884 of a plain step", "222.8 h"]
    {
        assert!(told.contains(part), "`{part}` is not in\n{told}");
    }
    let told = succeed("train-imagenet --config transformer.ron --data tokens --out x --dry-run", world);
    assert!(told.contains("64 tokens of 16 codes, 8 classes, 24 samples"), "{told}");
    assert!(!world.join("x").exists());
    // With a run's files beside it a model could not be replaced any more.
    let line = "train-imagenet --config transformer.ron --data tokens --from run/model --out run/model";
    fail(line, world, 1, &["run/model: holds config.ron of a model"]);
    assert_eq!(fs::read_dir(world.join("run/model")).unwrap().count(), 2);
    let line = "train-imagenet --config transformer.ron --data tokens --from tokenizer/model --out x";
    fail(line, world, 2, &["expected a transformer, got an image tokenizer"]);
    // What is wrong with a word of the command is the command's fault, with or without --dry-run.
    for (line, field) in [
        ("train-imagenet --config transformer.ron --data tokens heads=5", "heads"),
        ("train-imagenet --config transformer.ron --data tokens dropout=2", "dropout"),
        ("train-imagenet --config tokenizer.ron --data tokens", "got a recipe of train-tokenizer"),
        ("train-tokenizer --config transformer.ron --data store", "got a recipe of train-imagenet"),
    ] {
        fail(&format!("{line} --out x"), world, 2, &[field]);
        if line.starts_with("train-imagenet") {
            fail(&format!("{line} --dry-run"), world, 2, &[field]);
        }
    }
    assert!(!world.join("x").exists());
}

/// The checkpoint of the import tests is published MaskGIT's architecture, and was never nested.
#[test]
fn an_imported_checkpoint_is_distilled_into_nested_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let weights = golden("maskgit-transformer/weights.safetensors");
    succeed(
        &format!("import maskgit-flax --transformer {} --classes 10 -o imported", weights.display()),
        path,
    );
    let config: ModelConfig = read_ron(&path.join("imported/config.ron")).unwrap();
    let info = TokenStoreInfo {
        grid: [8, 8],
        codes: config.codes,
        classes: (0..10).map(|class| class.to_string()).collect(),
        tokenizer: "none".into(),
        codes_sha256: None,
        source: "stripes".into(),
    };
    fs::create_dir(path.join("tokens")).unwrap();
    let mut writer = TokenWriter::new(path.join("tokens"), info);
    for sample in 0..40u16 {
        let tokens: Vec<u16> = (0..64).map(|place| (place * (sample % 10 + 1)) % 8 + sample % 3).collect();
        writer.push(&tokens, usize::from(sample % 10)).unwrap();
    }
    writer.finish().unwrap();
    let ModelConfig { layers, width, heads, hidden, .. } = config;
    let recipe = TRANSFORMER
        .replace("layers: 2, width: 32, heads: 8, hidden: 64, dropout: 0.1", "SIZES, sub_models: [1, 2, 4]")
        .replace(
            "SIZES",
            &format!("layers: {layers}, width: {width}, heads: {heads}, hidden: {hidden}, dropout: 0.0"),
        );
    fs::write(path.join("nest.ron"), &recipe).unwrap();
    let train = "train-imagenet --config nest.ron --data tokens --validation tokens --from imported";

    // A step that moves nothing shows the start: the full model is the checkpoint.
    let still = "optimization.steps=1 optimization.peak_learning_rate=1e-30 optimization.warm_up_steps=0";
    succeed(&format!("{train} --out start {still}"), path);
    let read = |file: &str| safetensors::read(&path.join(file).join("model.safetensors")).unwrap();
    let (imported, start) = (read("imported"), read("start/model"));
    assert_eq!(imported.len(), start.len());
    for (name, tensor) in imported.iter() {
        let pairs = tensor.to_f32().into_iter().zip(start.get(name).unwrap().to_f32());
        assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) < 1e-6, "{name}");
    }

    succeed(&format!("{train} --out nested optimization.peak_learning_rate=1e-3"), path);
    let losses = |run: &str, p: usize| -> f64 {
        let log = fs::read_to_string(path.join(run).join("metrics.jsonl")).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.filter_map(|line| line[format!("validation_loss_p{p}")].as_f64()).next_back().unwrap()
    };
    for p in [1, 2, 4] {
        let (before, after) = (losses("start", p), losses("nested", p));
        assert!(after < before - 0.2, "p = {p}: {before} {after}");
    }
    let nested: ModelConfig = read_ron(&path.join("nested/model/config.ron")).unwrap();
    assert_eq!((nested.sub_models, nested.null_class), (vec![1, 2, 4], false));
    fail(&format!("{train} --out x hidden=8"), path, 2, &["`hidden`", "imported"]);
}
