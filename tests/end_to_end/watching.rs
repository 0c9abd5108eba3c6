//! What a run leaves for whoever looks on, and the page of it.

use std::fs;
use std::path::Path;

use mgnt_data::Picture;

use crate::world::{fail, output, succeed, world};

const SHORT: &str =
    "optimization.steps=6 optimization.log_every=2 optimization.validate_every=3 optimization.draw_every=3";

fn samples(run: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(run.join("samples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The page of a run, which must load nothing.
fn page(run: &str, world: &Path) -> String {
    succeed(&format!("report {run} -o page.html"), world);
    let html = fs::read_to_string(world.join("page.html")).unwrap();
    for outside in ["src=\"http", "href=", "<script", "<link", "url("] {
        assert!(!html.contains(outside), "{outside}");
    }
    html
}

#[test]
fn a_transformers_run_draws_samples_and_becomes_a_page() {
    let own = world();
    let world = own.path();
    let train = "train-imagenet --config transformer.ron --data tokens --validation tokens --out watched";
    succeed(&format!("{train} --tokenizer tokenizer/model --schedule 4x2,1x2 {SHORT}"), world);
    let run = world.join("watched");
    assert_eq!(samples(&run), ["step-00000003.png", "step-00000006.png"]);
    // Eight columns of pictures; two rows of the full model and two of the schedule.
    let grid = Picture::open(&run.join("samples/step-00000006.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (8 * 136 + 8, 4 * 148 + 8));
    let events: Vec<_> = fs::read_dir(run.join("tensorboard")).unwrap().collect();
    assert_eq!(events.len(), 1);
    let bytes = fs::read(events[0].as_ref().unwrap().path()).unwrap();
    for tag in ["brain.Event:2", "training/loss_p8", "held_out/loss_p1", "pace/tokens_a_second", "samples"] {
        assert!(bytes.windows(tag.len()).any(|window| window == tag.as_bytes()), "{tag}");
    }

    let html = page("watched", world);
    for part in
        ["watched: transformer training", "6 of 6 (100 %)", "p = 8", "Lambda", "after 6 steps", "GFLOPs"]
    {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("data:image/png;base64,").count(), 2);
    assert!(!html.contains("Beside other runs"));
    assert!(page("watched --beside run", world).contains("Beside other runs"));
    fs::create_dir(world.join("bare")).unwrap();
    fs::write(world.join("bare/metrics.jsonl"), "{\"step\": 2, \"steps\": 6, \"loss\": 1.0}\n").unwrap();
    let told = output("report watched --beside bare", world).stderr;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("--beside bare: has no held-out figure of watched"), "{told}");
    // Before the first line of its log.
    fs::copy(run.join("run.json"), world.join("bare/run.json")).unwrap();
    fs::write(world.join("bare/metrics.jsonl"), "").unwrap();
    let html = page("bare", world);
    assert!(html.contains("0 of 6 (0 %)") && html.contains(">0 s<"), "{html}");
    fail("report tokens", world, 1, &["tokens/run.json"]);
    fail("report watched --beside nowhere", world, 1, &["nowhere"]);
    fail("report watched --beside tokens", world, 1, &["tokens"]);
    fail("report watched --schedule 3x4", world, 2, &["3"]);
}

#[test]
fn a_tokenizers_run_draws_what_it_rebuilds() {
    let own = world();
    let world = own.path();
    let train = "train-tokenizer --config tokenizer.ron --data store --validation store --out watched";
    succeed(&format!("{train} {SHORT}"), world);
    let grid = Picture::open(&world.join("watched/samples/step-00000003.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (8 * 136 + 8, 4 * 148 + 8));
    let html = page("watched", world);
    for part in ["tokenizer training", "PSNR, dB", "Codes in use", "after 6 steps"] {
        assert!(html.contains(part), "{part}");
    }
}
