//! Training: what it logs, and that stopping it changes nothing.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::world::{mgnt, world};

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
