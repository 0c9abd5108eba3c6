//! The `mgnt` binary from pictures to numbers, with sizes that a test can afford.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mgnt_data::{Filter, Picture, synthetic};
use mgnt_weights::{DType, NamedTensor, TensorMap, safetensors};
use tempfile::TempDir;

fn mgnt(line: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mgnt"));
    command.current_dir(folder).args(line.split_whitespace());
    command
}

fn output(line: &str, folder: &Path) -> Output {
    mgnt(line, folder).output().unwrap()
}

/// Runs a command that must succeed; returns its standard output.
fn succeed(line: &str, folder: &Path) -> String {
    let output = output(line, folder);
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with this exit code and one line that contains `parts`.
fn fail(line: &str, folder: &Path, code: i32, parts: &[&str]) {
    let output = output(line, folder);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}\n{error}");
    for part in parts {
        assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
    }
    assert!(!error.contains("panicked"), "{line}\n{error}");
}

const TOKENIZER: &str = "(
    tokenizer: (size: 16, filters: 8, multipliers: [1, 1], residual_blocks: 1, embedding: 8, codes: 16, groups: 4,
        shortcut: input),
    l1_weight: 1.0, l2_weight: 1.0, codebook_weight: 1.0, commitment_weight: 0.25, entropy_weight: 0.005,
    revive_every: 5, revive_until: 15,
    optimization: (batch: 4, steps: 20, peak_learning_rate: 2e-3, warm_up_steps: 5, beta1: 0.9, beta2: 0.99,
        weight_decay: 0.0, clip_norm: 1.0, ema_decay: 0.9, seed: 1, log_every: 5, validate_every: 20,
        checkpoint_every: 10, keep: 2),
)";

const TRANSFORMER: &str = "(
    layers: 2, width: 32, heads: 8, hidden: 64, dropout: 0.1, class_dropout: 0.1, label_smoothing: 0.1,
    optimization: (batch: 4, steps: 40, peak_learning_rate: 3e-3, warm_up_steps: 5, beta1: 0.9, beta2: 0.96,
        weight_decay: 0.045, clip_norm: 1.0, ema_decay: 0.9, seed: 1, log_every: 5, validate_every: 20,
        checkpoint_every: 4, keep: 2),
)";

/// A folder of its own for each test with what all need: drawn pictures, stores, a tokenizer, tokens, a transformer.
/// They are made once for a binary, whatever number of processes the tests run in.
fn world() -> TempDir {
    let binary = fs::metadata(env!("CARGO_BIN_EXE_mgnt")).unwrap();
    let age = binary.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("world-{}-{age}", binary.len()));
    let lock = fs::File::create(made.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !made.exists() {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = folder.path();
        synthetic::write_folder(&path.join("pictures"), 3, 24, 1).unwrap();
        fs::write(path.join("tokenizer.ron"), TOKENIZER).unwrap();
        fs::write(path.join("transformer.ron"), TRANSFORMER).unwrap();
        succeed("prepare-imagenet --source pictures --size 16 --out store", path);
        succeed(
            "train-tokenizer --config tokenizer.ron --data store --validation store --out tokenizer",
            path,
        );
        succeed("tokenize --data store --tokenizer tokenizer/model --out tokens", path);
        succeed("train-imagenet --config transformer.ron --data tokens --validation tokens --out run", path);
        stem(&path.join("stem.safetensors"));
        fs::rename(folder.keep(), &made).unwrap();
    }
    drop(lock);
    let own = tempfile::tempdir().unwrap();
    copy(&made, own.path());
    own
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

fn model() -> &'static str {
    "--model run/model --tokenizer tokenizer/model"
}

#[test]
fn flops_prints_the_table_of_scale_l() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = succeed("flops --config configs/model-L.ron --schedule 8x3,4x3,2x3,1x3", &root);
    for part in ["21.2882", "162.1225", "632.13", "3.08x", "1949.30"] {
        assert!(table.contains(part), "{part}\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&succeed(
        "flops --config configs/model-L.ron --schedule 8x3,4x3,2x3,1x3 --cache off --json",
        &root,
    ))
    .unwrap();
    assert_eq!((json["gflops"].as_f64().unwrap() * 100.0).round(), 91836.0);
    assert_eq!(json["iterations"].as_array().unwrap().len(), 12);
}

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
fn one_seed_gives_the_same_tokens_in_every_batch_and_with_any_number_of_threads() {
    let own = world();
    let world = own.path();
    let tokens = |name: &str, options: &str| {
        let line = format!(
            "generate {} --count 6 --seed 3 --guidance 1.5 {options} --out g-{name} \
             --save-tokens {name}.safetensors",
            model()
        );
        succeed(&line, world);
        let map = safetensors::read(&world.join(format!("{name}.safetensors"))).unwrap();
        assert_eq!(map.get("tokens").unwrap().shape(), [6, 64]);
        map.integers("tokens").unwrap()
    };
    let one = tokens("one", "--schedule 8x2,4x2,2x2,1x2 --batch 1 --threads 1");
    assert_eq!(one, tokens("eight", "--schedule 8x2,4x2,2x2,1x2 --batch 8 --threads 2"));
    assert_ne!(one, tokens("baseline", "--batch 8 --schedule 1x8 --cache off"));
}

#[test]
fn generate_leaves_pictures_a_grid_and_the_iterations() {
    let own = world();
    let world = own.path();
    let line = format!("generate {} --class 2 --count 3 --iterations --out g --json", model());
    let json: serde_json::Value = serde_json::from_str(&succeed(&line, world)).unwrap();
    assert_eq!(json["classes"], serde_json::json!([2, 2, 2]));
    assert!(json["ledger"]["milliseconds"].as_f64().unwrap() > 0.0);
    for file in
        ["0002-00000.png", "0002-00002.png", "grid/grid.png", "grid/iterations.gif", "grid/iterations.png"]
    {
        assert!(fs::metadata(world.join("g").join(file)).unwrap().len() > 100, "{file}");
    }
    // Again with fewer: nothing of the first run stays.
    succeed(&format!("generate {} --class 2 --count 1 --out g", model()), world);
    assert!(!world.join("g/0002-00002.png").exists() && world.join("g/0002-00000.png").exists());
}

/// The layers of the Inception network up to its first pooling, with made-up weights.
fn stem(path: &Path) {
    let mut map = TensorMap::new();
    let layers = [
        ("Conv2d_1a_3x3", [32, 3, 3, 3]),
        ("Conv2d_2a_3x3", [32, 32, 3, 3]),
        ("Conv2d_2b_3x3", [64, 32, 3, 3]),
    ];
    for (name, shape) in layers {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 400.0).collect();
        map.insert_f32(&format!("{name}.conv.weight"), &shape, &values).unwrap();
        for (part, value) in [("weight", 1.0), ("bias", 0.1), ("running_mean", 0.0), ("running_var", 1.0)] {
            let values = vec![value; shape[0]];
            map.insert_f32(&format!("{name}.bn.{part}"), &[shape[0]], &values).unwrap();
        }
    }
    safetensors::write(path, &map).unwrap();
}

#[test]
fn eval_fid_measures_a_folder_and_a_model_alike() {
    let own = world();
    let world = own.path();
    let common = "--weights stem.safetensors --dims 64 --statistics statistics --json";
    let report = |line: &str| -> serde_json::Value {
        serde_json::from_str(&succeed(&format!("eval-fid {line} {common}"), world)).unwrap()
    };
    let same = report("--real store --fake store");
    assert!(same["fid"].as_f64().unwrap().abs() < 1e-6, "{same}");
    assert_eq!(fs::read_dir(world.join("statistics")).unwrap().count(), 1);

    let of_model = report(&format!("--real store {} --samples 6 --keep kept --report r.json", model()));
    let of_folder = report("--real store --fake kept");
    let (a, b) = (of_model["fid"].as_f64().unwrap(), of_folder["fid"].as_f64().unwrap());
    assert!(a > 1e-3 && (a - b).abs() < 1e-6 * a, "{a} {b}");
    assert_eq!(of_model["protocol"]["fake_count"], 6);
    assert!(of_model["warnings"][0].as_str().unwrap().contains("only 6"));
    let written: serde_json::Value =
        serde_json::from_slice(&fs::read(world.join("r.json")).unwrap()).unwrap();
    assert_eq!(written["fid"], of_model["fid"]);
    fail(
        "eval-fid --real store --fake store --weights stem.safetensors --dims 768 --statistics statistics",
        world,
        1,
        &["stem.safetensors", "768", "Conv2d_3b_1x1.conv.weight"],
    );
}

#[test]
fn edit_keeps_what_the_mask_keeps() {
    let own = world();
    let world = own.path();
    let photo = Picture::open(&world.join("pictures/disc/0000.png")).unwrap();
    let edit = |line: &str| format!("edit --input pictures/disc/0000.png {} {line}", model());
    let json: serde_json::Value = serde_json::from_str(&succeed(
        &edit("--box 12,0,12,24 --class 2 --count 2 --feather 0 --schedule 4x2,1x2 --out e --json"),
        world,
    ))
    .unwrap();
    // Half of 8 x 8 tokens.
    assert_eq!(json["painted_tokens"], 32);
    let original = photo.centre_square(16, Filter::Lanczos).unwrap();
    let half = |picture: &Picture, left: bool| -> Vec<u8> {
        let rows = picture.rgb().chunks(16 * 3);
        rows.flat_map(|row| if left { row[..24].to_vec() } else { row[24..].to_vec() }).collect()
    };
    for number in 0..2 {
        let edited = Picture::open(&world.join(format!("e/edit-00{number}.png"))).unwrap();
        assert_eq!(half(&edited, true), half(&original, true));
        assert_ne!(half(&edited, false), half(&original, false));
    }
    assert!(world.join("e/grid/grid.png").exists());
    succeed(&edit("--keep 6,6,12,12 --count 1 --out outpainted"), world);

    let mask = |value: u8, side: usize, name: &str| {
        Picture::new(side, side, vec![value; side * side * 3]).unwrap().save_png(&world.join(name)).unwrap();
    };
    mask(255, 24, "all.png");
    mask(0, 24, "none.png");
    mask(255, 12, "small.png");
    fail(&edit("--mask all.png --out x"), world, 2, &["some pixels to keep"]);
    fail(&edit("--mask none.png --out x"), world, 2, &["some pixels to paint"]);
    fail(&edit("--mask small.png --out x"), world, 2, &["24x24", "12x12"]);
    fail(&edit("--box 20,0,5,5 --out x"), world, 2, &["outside the photo"]);
    fail(&edit("--box 12,0,12,24 --class 8 --out x"), world, 2, &["--class 8"]);
    fail(&edit("--out x"), world, 2, &["--box"]);
    assert!(!world.join("x").exists());
}

#[test]
fn a_strategy_is_saved_read_and_drawn() {
    let own = world();
    let world = own.path();
    let config = "flops --config run/model/config.ron";
    let line = format!(
        "{config} --schedule shrinking --steps 8 --guidance cosine:2 --mask-schedule arccos --cache every:2 --temperature elt \
         --json --save-strategy s.ron --plot p.svg"
    );
    let written: serde_json::Value = serde_json::from_str(&succeed(&line, world)).unwrap();
    let read: serde_json::Value =
        serde_json::from_str(&succeed(&format!("{config} --strategy s.ron --json"), world)).unwrap();
    assert_eq!(written, read);
    assert_eq!(read["schedule"], "1x2,2x2,4x2,8x2");
    let plot = fs::read_to_string(world.join("p.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.contains("sub-model p = 8"));

    fail(&format!("{config} --top-p 0"), world, 2, &["top-p"]);
    fail(&format!("{config} --temperature NaN"), world, 2, &["token temperature"]);
    fail(&format!("{config} --choice-temperature=-1"), world, 2, &["choice temperature"]);
    fail(&format!("{config} --cache 12"), world, 2, &["iterations below 12"]);
    fail(&format!("{config} --mask-schedule 3,4"), world, 2, &["12 of them"]);
    fs::write(world.join("wrong.ron"), "(models: \"8x3\", mask: cosine, ordr: halton)").unwrap();
    fail(&format!("{config} --strategy wrong.ron"), world, 1, &["wrong.ron", "ordr"]);
}

#[test]
fn a_sweep_is_resumed_and_a_search_stays_in_its_budget() {
    let own = world();
    let world = own.path();
    let sweep = format!(
        "sweep {} --real store --weights stem.safetensors --dims 64 --statistics statistics --samples 4 --batch 4 --real-samples 4 \
         --steps 4 --json",
        model()
    );
    let rows = |line: &str| -> Vec<serde_json::Value> {
        serde_json::from_str(&succeed(&format!("{sweep} {line}"), world)).unwrap()
    };
    let first = rows("--also growing --also 1x4 --seeds 0,1 --out sweep");
    assert_eq!(first.len(), 4);
    let log = world.join("sweep/results.jsonl");
    // As after a kill: the last line is cut off.
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, &text[..text.len() - 20]).unwrap();
    let again = rows("--also growing --also 1x4 --seeds 0,1 --out sweep");
    let numbers = |rows: &[serde_json::Value]| -> Vec<f64> {
        rows.iter().map(|r| r["fid"].as_f64().unwrap()).collect()
    };
    assert_eq!(numbers(&first), numbers(&again));
    assert_eq!(first[..3], again[..3], "what was measured is not measured again");
    let csv = fs::read_to_string(world.join("sweep/results.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5);
    assert!(fs::read_to_string(world.join("sweep/front.svg")).unwrap().contains("<circle"));
    assert_eq!(
        rows("--also 1x4 --seeds 0 --dtype bf16 --out sweep").len(),
        1,
        "of another type, measured anew"
    );

    let found = rows("--schedule growing --search 0.004 --most 3 --out search");
    assert!(found.len() <= 3 && found.iter().all(|r| r["gflops"].as_f64().unwrap() <= 0.004));
    assert!(world.join("search/best.ron").exists());
    fail(&format!("{sweep} --search 0.00000001 --out x"), world, 1, &["smallest sub-model"]);
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

/// Holds every tensor of `expected` that `got` answers against it; returns how many there were.
fn agree(got: &Path, expected: &Path) -> usize {
    let (got, expected) = (safetensors::read(got).unwrap(), safetensors::read(expected).unwrap());
    let mut compared = 0;
    for (name, ours) in got.iter() {
        let Ok(theirs) = expected.get(name) else { continue };
        assert_eq!(ours.shape(), theirs.shape(), "{name}");
        match (ours.to_i64(), theirs.to_i64()) {
            (Some(ours), Some(theirs)) => assert_eq!(ours, theirs, "{name}"),
            _ => {
                let pairs = ours.to_f32().into_iter().zip(theirs.to_f32());
                let worst = pairs.map(|(a, b)| (a - b).abs() / (1.0 + b.abs())).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{name}: {worst}");
            }
        }
        compared += 1;
    }
    compared
}

#[test]
fn imported_transformers_say_what_the_published_code_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let weights = golden("maskgit-transformer/weights.safetensors");
    succeed(&format!("import maskgit-flax --transformer {} --classes 10 -o m", weights.display()), path);
    let case = safetensors::read(&golden("maskgit-transformer/case.safetensors")).unwrap();
    let mut sequences = TensorMap::new();
    let mut expected = TensorMap::new();
    for (group, name) in [("a", "input_ids"), ("b", "input_ids_positive")] {
        sequences.insert(format!("{group}/sequence"), case.get(name).unwrap().clone());
        expected.insert(format!("{group}/logits_p1"), case.get("logits").unwrap().clone());
    }
    safetensors::write(&path.join("in.safetensors"), &sequences).unwrap();
    safetensors::write(&path.join("expected.safetensors"), &expected).unwrap();
    succeed("probe m --input in.safetensors --output out.safetensors --p 1", path);
    assert_eq!(agree(&path.join("out.safetensors"), &path.join("expected.safetensors")), 2);
    fail("probe m --input in.safetensors --output x --p 3", path, 1, &["p = 3"]);
    fail(
        &format!("import maskgit-flax --transformer {} --classes 43 -o x", weights.display()),
        path,
        1,
        &["weights.safetensors", "classes"],
    );

    let nested = safetensors::read(&golden("nested/nested.safetensors")).unwrap();
    let (mut weights, mut input, mut expected) = (TensorMap::new(), TensorMap::new(), TensorMap::new());
    for (name, tensor) in nested.iter() {
        match name.strip_prefix("weights/") {
            Some(name) => weights.insert(name, tensor.clone()),
            None if name == "input_ids" => input.insert("sequence", tensor.clone()),
            None => expected.insert(name, tensor.clone()),
        }
    }
    for (name, map) in [("nested", weights), ("in", input), ("expected", expected)] {
        safetensors::write(&path.join(format!("{name}.safetensors")), &map).unwrap();
    }
    succeed("import maskgit-flax --transformer nested.safetensors --classes 10 -o n", path);
    succeed("probe n --input in.safetensors --output out.safetensors", path);
    assert_eq!(agree(&path.join("out.safetensors"), &path.join("expected.safetensors")), 4);
    for (trace, cache) in [
        ("trace_uncached", "off"),
        ("trace_cached_switch", "on"),
        ("trace_cached_updown", "on"),
        ("trace_cached_explicit_p2", "on"),
        ("trace_batch2_cached_switch", "on"),
    ] {
        let file = golden(&format!("nested/{trace}.safetensors"));
        let line = format!("probe n --input {} --output out.safetensors --cache {cache}", file.display());
        succeed(&line, path);
        assert!(agree(&path.join("out.safetensors"), &file) >= 16, "{trace}");
    }
}

#[test]
fn imported_tokenizers_say_what_the_published_code_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (bin, msgpack) =
        (golden("maskgit-vqgan/pytorch_model.bin"), golden("maskgit-vqgan/checkpoint.msgpack"));
    let case = golden("maskgit-vqgan/case.safetensors");
    succeed(&format!("import maskgit-vqgan-torch {} --size 32 -o torch", bin.display()), path);
    succeed(&format!("import maskgit-flax --tokenizer {} --size 32 -o flax", msgpack.display()), path);
    for model in ["torch", "flax"] {
        succeed(&format!("probe {model} --input {} --output out.safetensors", case.display()), path);
        assert_eq!(agree(&path.join("out.safetensors"), &case), 9, "{model}");
    }
    let weights = |model: &str| fs::read(path.join(model).join("model.safetensors")).unwrap();
    assert!(weights("torch") == weights("flax"));

    succeed("export torch --names port -o port.safetensors", path);
    succeed("import maskgit-vqgan-torch port.safetensors --size 32 -o again", path);
    assert!(weights("again") == weights("torch"));
    succeed("export torch --dtype bf16 -o half.safetensors", path);
    let (half, whole) = (fs::metadata(path.join("half.safetensors")), weights("torch").len() as u64);
    assert!(half.unwrap().len() < whole * 11 / 20);

    for (file, line) in [
        (&bin, "import maskgit-vqgan-torch cut -o x"),
        (&msgpack, "import maskgit-flax --tokenizer cut -o x"),
    ] {
        let bytes = fs::read(file).unwrap();
        fs::write(path.join("cut"), &bytes[..bytes.len() / 2]).unwrap();
        fail(line, path, 1, &["cut"]);
    }
    fail(
        &format!("import magvit-flax --tokenizer {} -o x", msgpack.display()),
        path,
        1,
        &["checkpoint.msgpack"],
    );
    assert!(!path.join("x").exists());
}

#[test]
fn a_network_of_features_is_probed_as_far_as_it_reaches() {
    let own = world();
    let world = own.path();
    let picture = Picture::open(&world.join("pictures/star/0001.png")).unwrap();
    let mut input = TensorMap::new();
    let bytes = NamedTensor::new("images", DType::U8, vec![1, 24, 24, 3], picture.into_rgb()).unwrap();
    input.insert("images", bytes);
    safetensors::write(&world.join("in.safetensors"), &input).unwrap();
    succeed("probe --inception stem.safetensors --input in.safetensors --output out.safetensors", world);
    let said = safetensors::read(&world.join("out.safetensors")).unwrap();
    let names: Vec<&str> = said.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["features_64"]);
    assert_eq!(said.get("features_64").unwrap().shape(), [1, 64]);
    fail("probe run/model --input in.safetensors --output x", world, 2, &["images"]);
}

/// Kills a training at many moments; the weights are those of a training that was left alone.
#[test]
fn a_training_that_is_killed_and_resumed_has_the_same_weights() {
    let own = world();
    let world = own.path();
    let line = "train-imagenet --config transformer.ron --data tokens --validation tokens --out killed";
    let mut kills = 0;
    let mut resume = "";
    let start = Instant::now();
    loop {
        let mut child = mgnt(&format!("{line} {resume}"), world).stderr(Stdio::null()).spawn().unwrap();
        // Moments that differ, whatever the machine's speed; in the end nothing is killed any more.
        let patience = if kills < 8 { 300 + 170 * kills } else { 600_000 };
        let deadline = Instant::now() + Duration::from_millis(patience);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            sleep(Duration::from_millis(10));
        };
        match status {
            Some(status) if status.success() => break,
            Some(_) => panic!("the training failed by itself after {kills} kills"),
            None => kills += 1,
        }
        let checkpoint = |name: &str| name.starts_with("step-") && !name.ends_with(".tmp");
        let mut found = fs::read_dir(world.join("killed/checkpoints")).into_iter().flatten().flatten();
        let any = found.any(|entry| checkpoint(&entry.file_name().to_string_lossy()));
        resume = if any { "--resume" } else { "" };
        assert!(start.elapsed() < Duration::from_secs(900), "no end after {kills} kills");
    }
    assert!(kills > 0);
    let weights = |run: &str| fs::read(world.join(run).join("model/model.safetensors")).unwrap();
    assert!(weights("killed") == weights("run"), "after {kills} kills");
    let steps = |run: &str| -> Vec<u64> {
        let log = fs::read_to_string(world.join(run).join("metrics.jsonl")).unwrap();
        log.lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["step"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(steps("killed"), steps("run"), "no line of the log twice");
}

#[test]
fn bad_input_is_one_clear_error() {
    let own = world();
    let world = own.path();
    fail("prepare-imagenet --source missing --size 16 --out x", world, 1, &["missing"]);
    fs::create_dir_all(world.join("with-empty/a")).unwrap();
    fail("prepare-imagenet --source with-empty --size 16 --out x", world, 1, &["class `a` has no files"]);
    synthetic::write_folder(&world.join("spoilt"), 2, 16, 1).unwrap();
    fs::write(world.join("spoilt/disc/text.png"), "no picture").unwrap();
    fail("prepare-imagenet --source spoilt --size 16 --out x", world, 1, &["1 of 17", "disc/text.png"]);
    succeed("prepare-imagenet --source spoilt --size 16 --out spoilt-store --max-rejected 0.2", world);
    let manifest = fs::read_to_string(world.join("spoilt-store/manifest.json")).unwrap();
    assert!(manifest.contains("text.png"));

    let unknown = TRANSFORMER.replace("layers: 2", "layer: 2");
    fs::write(world.join("unknown.ron"), unknown).unwrap();
    let train = "train-imagenet --data tokens --out x --config";
    fail(&format!("{train} unknown.ron"), world, 1, &["unknown.ron: line 2", "layer"]);
    fs::write(world.join("impossible.ron"), TRANSFORMER.replace("heads: 8", "heads: 12")).unwrap();
    fail(&format!("{train} impossible.ron"), world, 1, &["heads", "12"]);
    fail(&format!("{train} transformer.ron layers=x"), world, 1, &["layers"]);
    fail("train-imagenet --config transformer.ron --data tokens --out run", world, 1, &["--resume"]);
    fail(
        "train-imagenet --config transformer.ron --data tokens --out run --resume optimization.steps=50",
        world,
        1,
        &["another recipe"],
    );
    fail("train-imagenet --config transformer.ron --data store --out x", world, 1, &["manifest.json"]);

    let generate = "generate --model run/model --tokenizer tokenizer/model";
    fail(&format!("{generate} --out x --class 8"), world, 2, &["--class 8", "0 to 7"]);
    fail(&format!("{generate} --out x --schedule 3x4"), world, 2, &["3"]);
    fail(&format!("{generate} --out x --schedule 8x3 --steps 4"), world, 2, &["3 iterations"]);
    fail(&format!("{generate} --out store"), world, 2, &["--out store"]);
    fail(&format!("{generate} --out x --device cuda:0"), world, 2, &["--features cuda"]);
    fail(&format!("{generate} --out x --device tpu"), world, 2, &["cuda[:n]"]);
    fail("generate --model tokenizer/model --tokenizer tokenizer/model --out x", world, 1, &["config.ron"]);
    fail("eval-fid --real store --weights stem.safetensors", world, 2, &["--fake"]);
    fail("no-such-command", world, 2, &["no-such-command"]);
    assert!(!world.join("x").exists(), "nothing is left half-written");
}

#[cfg(unix)]
#[test]
fn the_first_interrupt_finishes_the_step_and_saves() {
    let own = world();
    let world = own.path();
    let line =
        "train-imagenet --config transformer.ron --data tokens --out stopped optimization.steps=100000";
    let mut child = mgnt(line, world).stderr(Stdio::null()).spawn().unwrap();
    while !world.join("stopped/checkpoints").exists() {
        assert!(child.try_wait().unwrap().is_none());
        sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!world.join("stopped/model").exists());
}

#[test]
fn the_demo_leaves_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&succeed("demo --out d --pictures 4 --hurry 100 --json", folder.path()))
            .unwrap();
    assert!(json["schedule"]["less_compute"].as_f64().unwrap() > 2.0);
    let page = fs::read_to_string(folder.path().join("d/index.html")).unwrap();
    assert!(page.contains("data:image/gif;base64,") && page.contains("data:image/png;base64,"));
}
