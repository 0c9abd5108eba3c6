//! Tokens of a tokenizer that is none of ours: imported, trained on, and generated without pictures.

use std::fs;
use std::path::Path;

use mgnt_data::TokenStore;
use mgnt_weights::npz::Writer;
use mgnt_weights::{TensorMap, safetensors};

use crate::world::{fail, model, succeed, world};

/// A file of tokens of this shape, which count up below 16, and labels under a name.
fn write(path: &Path, shape: &[usize], name: &str, labels: &[i32]) {
    let mut map = TensorMap::new();
    let tokens: Vec<i32> = (0..shape.iter().product()).map(|i: usize| (i % 16) as i32).collect();
    map.insert_i32("tokens", shape, &tokens).unwrap();
    map.insert_i32(name, &[labels.len()], labels).unwrap();
    safetensors::write(path, &map).unwrap();
}

#[test]
fn they_are_trained_on_and_generated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(&path.join("a.safetensors"), &[5, 3, 4], "labels", &[0, 2, 1, 2, 0]);
    write(&path.join("b.safetensors"), &[2, 3, 4], "class_ids", &[1, 1]);
    succeed("import-tokens a.safetensors b.safetensors --codes 16 --classes 4 --out store", path);
    succeed("verify store", path);
    let store = TokenStore::open(path.join("store")).unwrap();
    assert_eq!((store.len(), store.info().grid, store.info().codes), (7, [3, 4], 16));
    assert_eq!(store.info().classes, ["0", "1", "2", "3"]);
    assert_eq!(store.info().source, "a.safetensors, b.safetensors");
    assert_eq!((0..7).map(|i| store.label(i)).collect::<Vec<_>>(), [0, 2, 1, 2, 0, 1, 1]);
    assert_eq!(store.tokens(1), (12..24).map(|i| i % 16).collect::<Vec<u16>>());
    assert_eq!(store.tokens(5), (0..12).collect::<Vec<u16>>());
    let map = safetensors::read(&path.join("a.safetensors")).unwrap();
    let archive = path.join("a.npz");
    let mut writer = Writer::new(fs::File::create(&archive).unwrap(), &archive);
    for (name, tensor) in map.iter() {
        writer.start(name, tensor.dtype(), tensor.shape()).unwrap();
        writer.write(tensor.bytes()).unwrap();
    }
    writer.finish().unwrap();
    succeed("import-tokens a.npz b.safetensors --codes 16 --classes 4 --out of-numpy", path);
    let shard = |store: &str| fs::read(path.join(store).join("tokens-00000.safetensors")).unwrap();
    assert!(shard("of-numpy") == shard("store"));
    // The second time it replaces itself.
    succeed("import-tokens b.safetensors --codes 16 --classes 4 --tokenizer-name theirs --out store", path);
    assert_eq!(TokenStore::open(path.join("store")).unwrap().info().tokenizer, "theirs");
    succeed("import-tokens a.safetensors --codes 16 --classes 4 --out held-out", path);

    fs::write(path.join("t.ron"), crate::world::TRANSFORMER).unwrap();
    let short = "optimization.steps=2 optimization.warm_up_steps=1 optimization.validate_every=2";
    let line = format!("train-imagenet --config t.ron --data held-out --out run {short}");
    succeed(&line, path);
    let line = format!("train-imagenet --config t.ron --data held-out --validation store --out r {short}");
    fail(&line, path, 1, &["tokenizer"]);
    succeed("generate --model run/model --schedule 1x4 --count 5 --save-tokens t.safetensors", path);
    let map = safetensors::read(&path.join("t.safetensors")).unwrap();
    assert_eq!(map.get("tokens").unwrap().shape(), [5, 12]);
    assert_eq!(map.integers("class_ids").unwrap(), [0, 1, 2, 3, 0]);
    // What is generated can be imported, too.
    succeed("import-tokens t.safetensors --codes 16 --grid 3x4 --out again", path);
}

#[test]
fn tokens_alone_are_those_of_the_pictures() {
    let own = world();
    let world = own.path();
    let options = "--schedule 4x2,1x2 --count 5 --batch 2 --seed 3 --json";
    succeed(&format!("generate {} {options} --out g --save-tokens a.safetensors", model()), world);
    let line = format!("generate --model run/model {options} --save-tokens b.safetensors");
    let json: serde_json::Value = serde_json::from_str(&succeed(&line, world)).unwrap();
    assert_eq!((&json["out"], &json["count"]), (&"b.safetensors".into(), &5.into()));
    assert!(json.get("tokenizer").is_none() && json["ledger"]["gflops"].as_f64().unwrap() > 0.0);
    let bytes = |name: &str| fs::read(world.join(name)).unwrap();
    assert!(bytes("a.safetensors") == bytes("b.safetensors"));
    for (options, part) in [
        ("--tokenizer tokenizer/model --save-tokens c.safetensors", "--out"),
        ("--out c", "--tokenizer"),
        ("--save-tokens c.safetensors --iterations", "--out"),
        ("--save-tokens run/model/config.ron", "the model's config is the same file"),
        ("", "--out"),
    ] {
        fail(&format!("generate --model run/model {options}"), world, 2, &[part]);
    }

    // A store of our own tokenizer's tokens goes with those that `tokenize` makes.
    let line = "import-tokens b.safetensors --tokenizer tokenizer/model --classes 8 --out ours";
    succeed(line, world);
    let [ours, tokens] = ["ours", "tokens"].map(|name| TokenStore::open(world.join(name)).unwrap());
    assert!(ours.info().has_tokens_of(tokens.info()));
}

#[test]
fn what_is_wrong_with_them_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write(&path.join("a.safetensors"), &[2, 6], "labels", &[0, 7]);
    write(&path.join("flat.safetensors"), &[12], "labels", &[0]);
    write(&path.join("few.safetensors"), &[2, 6], "labels", &[0]);
    write(&path.join("unnamed.safetensors"), &[2, 6], "numbers", &[0, 1]);
    write(&path.join("negative.safetensors"), &[2, 6], "labels", &[0, -1]);
    write(&path.join("other.safetensors"), &[2, 3, 2], "labels", &[0, 1]);
    let mut floats = TensorMap::new();
    floats.insert_f32("tokens", &[1, 4], &[0.0; 4]).unwrap();
    floats.insert_i32("labels", &[1], &[0]).unwrap();
    safetensors::write(&path.join("floats.safetensors"), &floats).unwrap();
    fs::write(path.join("names"), "\u{feff}zero\none\n\n").unwrap();
    fs::write(path.join("gap"), "zero\n\none\n").unwrap();
    for (files, options, code, part) in [
        ("a", "--codes 11", 1, "a.safetensors: `tokens`: expected 0 to 10, got 11"),
        ("a", "--codes 16", 2, "--grid: 6 tokens are no square"),
        ("a", "--codes 16 --grid 4x2", 2, "--grid is 4x2, and a picture has 6 tokens"),
        ("other", "--codes 16 --grid 2x3", 2, "--grid is 2x3, and the files' shape is 3x2"),
        ("a", "--codes 16 --grid 3x2 --classes 7", 2, "--classes 7: label 7 is used"),
        ("a", "--codes 16 --grid 3x2 --class-names names", 2, "label 7 is used, and there are 2 classes"),
        ("a", "--codes 16 --grid 3x2 --class-names gap", 1, "gap: line 2 is empty"),
        ("flat", "--codes 16", 1, "`tokens`: expected shape [n, N], [n, h, w] or [n, t, h, w], got [12]"),
        ("few", "--codes 16", 1, "`labels`: expected shape [2], got [1]"),
        ("unnamed", "--codes 16", 1, "`labels` and `class_ids` are missing"),
        ("negative", "--codes 16", 1, "`labels`: expected 0 to 65535, got -1"),
        ("floats", "--codes 16", 1, "`tokens`: expected integers, got F32"),
        ("nosuch", "--codes 16", 1, "nosuch.safetensors: "),
        ("a", "", 2, "--codes"),
        ("a", "--codes 70000", 2, "--codes"),
    ] {
        fail(&format!("import-tokens {files}.safetensors {options} --out x"), path, code, &[part]);
    }
    write(&path.join("turned.safetensors"), &[2, 2, 3], "labels", &[0, 1]);
    let line = "import-tokens other.safetensors turned.safetensors --codes 16 --out x";
    fail(
        line,
        path,
        1,
        &["turned.safetensors: `tokens`: expected 3x2 of a picture, as in the files before, got 2x3"],
    );
    write(&path.join("longer.safetensors"), &[2, 8], "labels", &[0, 1]);
    fail("import-tokens . --codes 16 --out x", path, 2, &["expected a file"]);
    let line = "import-tokens a.safetensors longer.safetensors --codes 16 --grid 3x2 --out x";
    fail(line, path, 1, &["longer.safetensors: `tokens`: expected 6 of a picture, as in the files before"]);
    assert!(!path.join("x").exists());
}
