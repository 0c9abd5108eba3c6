//! Published checkpoints, held against what the published code says.

use std::fs;
use std::path::Path;
use std::process::Output;

use mgnt_weights::{DType, NamedTensor, TensorMap, safetensors};

use crate::world::{fail, golden, output, succeed};

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

    let line = format!("import magvit-flax --transformer {} --classes 10 -o x", weights.display());
    fail(&line, path, 2, &["weights.safetensors: expected names of magvit-flax, got those of maskgit-flax"]);
    for (line, parts) in [
        ("maskgit-flax --tokenizer f --classes 10", ["--classes", "--tokenizer"]),
        ("maskgit-flax --transformer f --classes 10 --size 256", ["--size", "--transformer"]),
        ("maskgit-flax --tokenizer f --size 0", ["--size", "0"]),
        ("maskgit-flax --transformer f --classes 0", ["--classes", "0"]),
        ("magvit-flax --tokenizer f --classes 10", ["--classes", "--tokenizer"]),
        ("magvit-flax --transformer f --classes 10 --size 128", ["--size", "--transformer"]),
        ("magvit-flax --transformer f --classes 10 --frames 16", ["--frames", "--transformer"]),
        (
            "magvit-flax --transformer f --classes 10 --temporal-downsample true",
            ["--temporal-downsample", "--transformer"],
        ),
    ] {
        fail(&format!("import {line} -o x"), path, 2, &parts);
    }
    let published = safetensors::read(&weights).unwrap();
    let bias = "MlmLayer_0/mlm_dense/bias";
    let mut spoilt = published.clone();
    spoilt.insert_f32(bias, &[64], &[f32::NAN; 64]).unwrap();
    safetensors::write(&path.join("spoilt.safetensors"), &spoilt).unwrap();
    let line = "import maskgit-flax --transformer spoilt.safetensors --classes 10 -o x";
    fail(line, path, 1, &["spoilt.safetensors: tensor `head.dense.bias`: expected finite values, got NaN"]);
    assert!(!path.join("x").exists());
    let mut large = published;
    large.insert_f32(bias, &[64], &[1e5; 64]).unwrap();
    safetensors::write(&path.join("large.safetensors"), &large).unwrap();
    let line = "import maskgit-flax --transformer large.safetensors --classes 10 -o large";
    let said = String::from_utf8(output(line, path).stderr).unwrap();
    assert!(said.contains("8 heads; 64 tokens of 32 codes, 10 classes, no null class"), "{said}");
    succeed("export large --dtype bf16 -o large-bf16.safetensors", path);
    fail(
        "export large --dtype f16 -o x",
        path,
        1,
        &["large", "`head.dense.bias`: 1e5 is beyond what F16 can hold"],
    );
    fs::create_dir(path.join("run")).unwrap();
    fs::rename(path.join("large"), path.join("run/model")).unwrap();
    fail("export run -o x", path, 1, &["the folder of a training, whose model is run/model"]);
    assert!(!path.join("x").exists());

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
    succeed(
        "import maskgit-flax --transformer nested.safetensors --classes 10 --sub-models 1,4 -o few",
        path,
    );
    succeed("probe few --input in.safetensors --output few.safetensors", path);
    assert_eq!(agree(&path.join("few.safetensors"), &path.join("expected.safetensors")), 2);
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
    let trace = safetensors::read(&golden("nested/trace_cached_explicit_p2.safetensors")).unwrap();
    let steps = trace.get("p").unwrap().shape()[0];
    let wrong = |name: &str, shape: &[usize], values: &[i32], part: &str| {
        let mut input = trace.clone();
        input.insert_i32(name, shape, values).unwrap();
        safetensors::write(&path.join("wrong.safetensors"), &input).unwrap();
        fail("probe n --input wrong.safetensors --output x", path, 1, &[part]);
    };
    wrong("refresh", &[1], &[1], &format!("`refresh`: expected {steps} values, one for each of `p`, got 1"));
    wrong("refresh", &[steps], &vec![2; steps], "`refresh`: expected 0 or 1, got 2");
    wrong("class_ids", &[0], &[], "`class_ids`: expected at least one");
    wrong("sequence", &[0, 65], &[], "`sequence`: expected shape [B, 65], B at least 1, got [0, 65]");
    assert!(!path.join("x").exists());
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
    succeed("export torch --dtype bf16 --directory -o small", path);
    assert!(fs::metadata(path.join("small/model.safetensors")).unwrap().len() < whole * 11 / 20);
    succeed(&format!("probe small --input {} --output out.safetensors", case.display()), path);
    fail("export torch --names port --directory -o x", path, 2, &["--directory", "--names"]);
    #[cfg(unix)]
    {
        // A file that standard output is appended to keeps what it has.
        let log = path.join("log");
        fs::write(&log, "before\n").unwrap();
        let file = fs::File::options().append(true).open(&log).unwrap();
        assert!(
            crate::world::mgnt("export torch -o /dev/stdout", path).stdout(file).status().unwrap().success()
        );
        let written = fs::read(&log).unwrap();
        let behind = written.strip_prefix(b"before\n").unwrap();
        assert!(!safetensors::from_bytes(behind, &log).unwrap().is_empty());
    }

    // What a killed one left beside is told of.
    let config = "(layers: 1, width: 16, heads: 8, hidden: 32, tokens: 4, codes: 8, classes: 2)";
    fs::write(path.join("config.ron"), config).unwrap();
    for (line, out) in [
        ("export torch --dtype bf16 -o half.safetensors", "half.safetensors"),
        ("export torch --dtype bf16 --directory -o small", "small"),
        ("import maskgit-vqgan-torch port.safetensors --size 32 -o again", "again"),
        ("init --config config.ron -o drawn", "drawn"),
    ] {
        fs::create_dir(path.join(format!("{out}.7.tmp"))).unwrap();
        let Output { status, stderr, .. } = output(line, path);
        let told = String::from_utf8(stderr).unwrap();
        assert!(
            status.success() && told.contains(&format!("--out {out}: {out}.7.tmp beside it is")),
            "{told}"
        );
    }

    let said = safetensors::read(&path.join("out.safetensors")).unwrap();
    let (name, indices) = said.iter().find(|(name, _)| name.ends_with("indices")).unwrap();
    let rebuilt = said.get(&name.replace("indices", "reconstruction")).unwrap();
    let [batch, height, width] = *indices.shape() else { panic!("{:?}", indices.shape()) };
    let mut tokens = TensorMap::new();
    let codes: Vec<i32> = indices.to_i64().unwrap().into_iter().map(|code| code as i32).collect();
    tokens.insert_i32("tokens", &[batch, height * width], &codes).unwrap();
    safetensors::write(&path.join("tokens.safetensors"), &tokens).unwrap();
    succeed("probe small --input tokens.safetensors --output pictures.safetensors", path);
    let pictures = safetensors::read(&path.join("pictures.safetensors")).unwrap();
    assert!(pictures.get("reconstruction").unwrap() == rebuilt);
    tokens.insert_i32("tokens", &[1, 3], &[0, 1, 2]).unwrap();
    safetensors::write(&path.join("tokens.safetensors"), &tokens).unwrap();
    let wrong = format!("`tokens`: expected shape [B, {}], got [1, 3]", height * width);
    fail("probe small --input tokens.safetensors --output x", path, 1, &[&wrong]);

    // A model that no command would take is not given on.
    let file = path.join("small/model.safetensors");
    let whole_model = safetensors::read(&file).unwrap();
    let name = whole_model.iter().next().unwrap().0.to_owned();
    let mut fewer = whole_model.clone();
    fewer.remove(&name).unwrap();
    safetensors::write(&file, &fewer).unwrap();
    fail("export small -o x", path, 1, &["small", &name]);
    let mut infinite = whole_model.clone();
    let shape = infinite.get(&name).unwrap().shape().to_vec();
    infinite.insert_f32(&name, &shape, &vec![f32::NAN; shape.iter().product()]).unwrap();
    safetensors::write(&file, &infinite).unwrap();
    fail("export small --directory -o x", path, 1, &["small", &name]);
    let line = "probe small --input tokens.safetensors --output x";
    fail(line, path, 1, &["model.safetensors: tensor", &name, "expected finite values, got NaN"]);

    let mut bytes = TensorMap::new();
    bytes.insert(
        "image",
        NamedTensor::new("image", DType::U8, vec![1, 32, 32, 3], vec![200; 32 * 32 * 3]).unwrap(),
    );
    safetensors::write(&path.join("bytes.safetensors"), &bytes).unwrap();
    let line = "probe torch --input bytes.safetensors --output x";
    fail(line, path, 1, &["`image`: expected floats in 0 to 1, got U8"]);
    let mut first = TensorMap::new();
    first.insert_f32("image", &[1, 3, 32, 32], &vec![0.5; 3 * 32 * 32]).unwrap();
    safetensors::write(&path.join("bytes.safetensors"), &first).unwrap();
    fail(line, path, 1, &["`image`: expected shape [B, H, W, 3], none of it 0, got [1, 3, 32, 32]"]);

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
fn the_golden_cases_are_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let report = |dtype: &str| -> serde_json::Value {
        let line = format!("parity --golden {} --dtype {dtype} --json", golden("").display());
        serde_json::from_str(&succeed(&line, path)).unwrap()
    };
    let (single, half) = (report("f32"), report("bf16"));
    let rows = |report: &serde_json::Value| report["rows"].as_array().unwrap().len();
    assert!(single["passed"] == true && rows(&single) == rows(&half) && rows(&single) > 15);
    let worst = |report: &serde_json::Value| report["rows"][1]["worst"].as_f64().unwrap();
    assert!(worst(&single) < worst(&half), "half precision is told apart");
    fail("parity --golden nowhere", path, 2, &["nowhere"]);

    let devices: serde_json::Value = serde_json::from_str(&succeed("devices --json", path)).unwrap();
    assert_eq!(devices[0]["device"], "cpu");
    assert_eq!(devices[0]["types"], serde_json::json!(["f32", "bf16", "f16"]));
}
