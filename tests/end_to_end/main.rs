//! The `mgnt` binary from pictures to numbers, with sizes that a test can afford.
#![allow(clippy::unwrap_used)]

mod checkpoints;
mod data;
mod decoding;
#[cfg(feature = "remote")]
mod devices;
mod evaluation;
mod faults;
mod foreign_tokens;
#[path = "../inception_stem.rs"]
mod inception_stem;
mod library;
mod training;
mod videos;
mod watching;
mod world;

use std::fs;
use std::path::Path;

use mgnt_data::synthetic;

use crate::world::{TRANSFORMER, fail, output, succeed, world};

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
    let rejected = fs::read_to_string(world.join("spoilt-store/rejected.jsonl")).unwrap();
    assert!(rejected.contains("text.png"));

    let unknown = TRANSFORMER.replace("layers: 2", "layer: 2");
    fs::write(world.join("unknown.ron"), unknown).unwrap();
    let train = "train-imagenet --data tokens --out x --config";
    fail(&format!("{train} unknown.ron"), world, 1, &["unknown.ron: line 2", "layer"]);
    fs::write(world.join("impossible.ron"), TRANSFORMER.replace("heads: 8", "heads: 12")).unwrap();
    fail(&format!("{train} impossible.ron"), world, 1, &["heads", "12"]);
    fail(&format!("{train} transformer.ron layers=x"), world, 2, &["layers"]);
    fail(&format!("{train} transformer.ron optimization.stpes=2"), world, 2, &["one of", "steps", "`stpes`"]);
    let other_kind =
        ["a store of tokens, which `mgnt tokenize` or `import-tokens` makes", "got a store of pictures"];
    fail("train-imagenet --config transformer.ron --data store --out x", world, 1, &other_kind);

    // What is there already is nobody's to take but its own command's.
    let tokenize = "tokenize --data store --tokenizer tokenizer/model --out";
    fail(&format!("{tokenize} store"), world, 1, &["a store of tokens to replace, got a store of pictures"]);
    fail(&format!("{tokenize} transformer.ron"), world, 1, &["got a file"]);
    fail(&format!("{tokenize} ."), world, 1, &["own name"]);
    fail("prepare-imagenet --source pictures --size 16 --out tokens", world, 1, &["got a store of tokens"]);
    fail("export run/model --directory -o pictures", world, 1, &["a model directory to replace", "got `"]);
    succeed("verify store", world);
    succeed("verify tokens", world);

    let train_tokenizer = "train-tokenizer --config tokenizer.ron --data store --out x";
    let of_many = format!("{train_tokenizer} tokenizer.codes=65536 optimization.batch=1048576");
    let parts = ["not enough memory", "optimization.parts=", "should fit; the entropy term"];
    fail(&of_many, world, 1, &parts);
    let wide = format!("{train_tokenizer} tokenizer.filters=65536");
    fail(&wide, world, 1, &["not enough memory", "no number of parts fits"]);
    fail(&format!("{train_tokenizer} optimization.batch=1048577"), world, 2, &["optimization.batch"]);
    let huge = "(layers: 1024, width: 1048576, heads: 16, hidden: 1048576, tokens: 4, codes: 8, classes: 2)";
    fs::write(world.join("huge.ron"), huge).unwrap();
    fail("init --config huge.ron --out x", world, 1, &["huge.ron: not enough memory", "the device has"]);
    assert!(!world.join("x").exists());
    fail("train-imagenet --config transformer.ron --data tokens", world, 2, &["--out"]);
    fail("train-imagenet --config transformer.ron --out x", world, 2, &["--data"]);
    let on_a_file = "train-imagenet --config transformer.ron --data tokens --out huge.ron";
    fail(on_a_file, world, 2, &["--out huge.ron: is a file, where a folder is expected"]);
    let of_one = format!("{train_tokenizer} --inception none --rfid-pictures 1");
    fail(&of_one, world, 2, &["--rfid-pictures 1: expected 2 at least, or 0"]);

    for (share, told) in [("0", "null class is not trained"), ("1", "no class is trained"), ("0.1", "")] {
        let line = format!("train-imagenet --config transformer.ron --dry-run class_dropout={share}");
        let error = output(&line, world).stderr;
        let error = String::from_utf8_lossy(&error);
        assert!(error.contains(told) && error.is_empty() == told.is_empty(), "{line}: {error}");
    }

    let generate = "generate --model run/model --tokenizer tokenizer/model";
    fail(&format!("{generate} --out x --class 8"), world, 2, &["--class 8", "0 to 7"]);
    fail(&format!("{generate} --out x --schedule 3x4"), world, 2, &["3"]);
    fail(&format!("{generate} --out x --schedule 8x3 --steps 4"), world, 2, &["3 iterations"]);
    fail(&format!("{generate} --out store"), world, 2, &["--out store"]);
    let swapped = "generate --model tokenizer/model --tokenizer run/model --out x";
    fail(swapped, world, 2, &["tokenizer/model: expected a transformer, got an image tokenizer"]);
    fail("generate --model run/model --tokenizer run/model --out x", world, 2, &["got a transformer"]);
    fail(&format!("{generate} --out x --class fish"), world, 2, &["the number of a class"]);
    fail("report tokenizer --schedule 8x3", world, 2, &["of which no strategy"]);
    fail(&format!("{generate} --out x --device cuda:0"), world, 2, &["--features cuda"]);
    fail(&format!("{generate} --out x --device tpu"), world, 2, &["cuda[:n]"]);
    fail(
        "generate --model run --tokenizer tokenizer/model --out x",
        world,
        1,
        &["run/model", "a model directory"],
    );
    fail(
        &format!("{generate} --out x --mask-schedule 18446744073709551615,65 --schedule 1x2"),
        world,
        2,
        &["sum of 64"],
    );
    // What is read is not what is written.
    let edit = "edit --model run/model --tokenizer tokenizer/model --box 2,2,6,6 --out edits --count 1";
    succeed(&format!("{edit} --input pictures/disc/0000.png"), world);
    let again = ["--input edits/edit-000.png", "outside of --out edits"];
    fail(&format!("{edit} --input edits/edit-000.png"), world, 2, &again);
    #[cfg(unix)]
    std::os::unix::fs::symlink("run/model/model.safetensors", world.join("latest")).unwrap();
    let own = ["run/model/config.ron", "run/model/model.safetensors", "run/model --directory --dtype bf16"];
    for out in own.into_iter().chain(cfg!(unix).then_some("latest")) {
        fail(&format!("export run/model --out {out}"), world, 2, &["--out", "the model", "is the same"]);
    }
    fail("export run/model -o pictures", world, 2, &["--out pictures", "got a folder"]);
    fail(
        "export run/model --directory -o transformer.ron",
        world,
        2,
        &["--out transformer.ron", "got a file"],
    );
    succeed("export run/model --dtype bf16 --out run/halves/model.safetensors", world);
    fail("report run --output run/metrics.jsonl", world, 2, &["--output run/metrics.jsonl", ".html"]);
    succeed("report run --output run/page.html", world);
    for option in ["--save-strategy", "--plot"] {
        let line = format!("flops --config run/model/config.ron {option} run/model/../model/config.ron");
        fail(&line, world, 2, &[option, "--config is the same file"]);
    }
    let probe = "probe tokenizer/model --input stem.safetensors --output";
    fail(&format!("{probe} stem.safetensors"), world, 2, &["--output", "--input is the same file"]);
    fail(&format!("{probe} tokenizer/model/model.safetensors"), world, 2, &["--output", "is the same file"]);
    let shared = "train-imagenet --config transformer.ron --data tokens --out x --devices";
    fail(&format!("{shared} cpu,cpu"), world, 2, &["named twice"]);
    fail(&format!("{shared} ws://127.0.0.1:1"), world, 2, &["first device"]);
    if cfg!(not(feature = "remote")) {
        fail(&format!("{shared} cpu,ws://127.0.0.1:1"), world, 2, &["--features remote"]);
        fail("serve-device", world, 2, &["--features remote"]);
    }
    fail("eval-fid --real store --weights stem.safetensors", world, 2, &["--fake"]);
    let measured = "eval-fid --real store --weights stem.safetensors --dims 64 --statistics x";
    let model = "--model run/model --tokenizer tokenizer/model --samples 4";
    fail(&format!("{measured} {model} --out pictures"), world, 2, &["holds something else"]);
    fail(&format!("{measured} --save-reference x.txt"), world, 2, &[".npz or .safetensors"]);
    fail(&format!("{measured} --save-reference x.safetensors --form adm"), world, 2, &["--form"]);
    fail(&format!("{measured} --fake store --seed 4"), world, 2, &["--seed", "--fake"]);
    let beside_torch = "bench-against-torch --config run/model/config.ron --guidance linear:1";
    fail(beside_torch, world, 2, &["--guidance: the PyTorch side"]);
    fail("parity --golden pictures", world, 2, &["--golden pictures", "golden cases"]);
    fail("no-such-command", world, 2, &["no-such-command"]);
    assert!(!world.join("x").exists(), "nothing is left half-written");
}

#[test]
fn the_demo_leaves_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/imagenette64");
    let demo = format!("demo --out d --pictures 4 --hurry 100 --json --shipped {}", shipped.display());
    let json: serde_json::Value = serde_json::from_str(&succeed(&demo, folder.path())).unwrap();
    for part in [&json, &json["shipped"]] {
        assert!(part["schedule"]["less_compute"].as_f64().unwrap() > 2.0);
    }
    // Weights that learnt something say the same in both decodes more often than by chance.
    let of = |name: &str| json["shipped"][name].as_f64().unwrap();
    assert!(of("code_agreement") > of("agreement_by_chance"), "{}", json["shipped"]);
    let page = fs::read_to_string(folder.path().join("d/index.html")).unwrap();
    assert!(page.contains("data:image/gif;base64,") && page.contains("data:image/png;base64,"));
    assert!(page.contains("<h2>Photos</h2>"));
    fail("demo --out e --shipped .", folder.path(), 1, &["./transformer: "]);
    assert!(!folder.path().join("e").exists());
    fs::create_dir(folder.path().join("mine")).unwrap();
    for name in ["photos.png", "database"] {
        let path = folder.path().join("mine").join(name);
        fs::write(&path, "mine").unwrap();
        fail("demo --out mine", folder.path(), 2, &[name]);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();
    }
}
