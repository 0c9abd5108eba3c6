//! Measuring pictures and models.

use std::fs;

use mgnt_data::Picture;
use mgnt_weights::{DType, NamedTensor, TensorMap, safetensors};

use crate::world::{fail, model, succeed, world};

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
