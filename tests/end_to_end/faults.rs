//! Trainings that are killed, interrupted, damaged or out of disk, and go on as if nothing had been.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::world::{fail, mgnt, succeed, world};

/// The training that made `run/` in the world, with a line for every step.
const TRAIN: &str =
    "train-imagenet --config transformer.ron --data tokens --validation tokens optimization.log_every=1";

fn weights(world: &Path, run: &str) -> Vec<u8> {
    fs::read(world.join(run).join("model/model.safetensors")).unwrap()
}

fn checkpoints(world: &Path, run: &str) -> Vec<String> {
    let entries = fs::read_dir(world.join(run).join("checkpoints")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.retain(|name| name.starts_with("step-") && !name.contains('.'));
    names.sort();
    names
}

/// A training that is killed: its command without `--out`, which may be another's options, too.
struct Victim<'a> {
    command: &'a str,
    world: &'a Path,
    run: &'a str,
}

impl Victim<'_> {
    /// Starts it and kills it (SIGKILL) once it has told of `lines` steps and a little later; whether it was killed
    /// before it ended by itself.
    fn killed(&self, lines: usize, later: Duration) -> bool {
        let Self { command, world, run } = *self;
        let resume = if checkpoints(world, run).is_empty() { "" } else { "--resume" };
        let line = format!("{command} --out {run} {resume}");
        let mut child = mgnt(&line, world).stderr(Stdio::piped()).spawn().unwrap();
        let told = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut steps = told.filter(|line| line.starts_with("step ") && line.contains(" rate "));
        let ended = lines > 0 && steps.nth(lines - 1).is_none();
        if ended {
            assert!(child.wait().unwrap().success(), "{line}");
            return false;
        }
        sleep(later);
        child.kill().unwrap();
        // The pipe is read to its end by dropping it: the process is gone.
        !child.wait().unwrap().success()
    }

    /// Kills it at `count` moments, from before the first step to after `most` of them, and lets it end then.
    fn survives(&self, count: usize, most: usize) {
        let mut rng = ChaCha8Rng::seed_from_u64(20);
        for kills in 0..count {
            let (lines, later) = (rng.random_range(0..=most), rng.random_range(0..40));
            let killed = self.killed(lines, Duration::from_millis(later));
            assert!(killed, "the training ended before it was killed more than {kills} times");
        }
        succeed(&format!("{} --out {} --resume", self.command, self.run), self.world);
    }
}

fn killed(world: &Path, run: &str, lines: usize, later: Duration) -> bool {
    Victim { command: TRAIN, world, run }.killed(lines, later)
}

#[test]
fn a_training_goes_on_where_nobody_listens() {
    let own = world();
    let mut child = mgnt(&format!("{TRAIN} --out alone"), own.path()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert!(weights(own.path(), "alone") == weights(own.path(), "run"));
}

/// Moments are counted in steps that the training tells of, so that the machine's speed does not matter.
#[test]
fn a_training_killed_at_twenty_moments_has_the_same_weights() {
    let own = world();
    let world = own.path();
    // The next checkpoint comes every four steps.
    Victim { command: TRAIN, world, run: "killed" }.survives(20, 6);
    assert!(weights(world, "killed") == weights(world, "run"));
    let best = |run: &str| fs::read(world.join(run).join("best/model.safetensors")).unwrap();
    assert!(best("killed") == best("run"));
    let log = fs::read_to_string(world.join("killed/metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines
        .iter()
        .filter(|line| line["learning_rate"].is_number())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (1..=40).collect::<Vec<_>>(), "every step is told of once");
}

/// Its two players, their optimisers and averages, and what the discriminator remembers of its judgements.
#[test]
fn a_tokenizer_with_a_discriminator_killed_at_eight_moments_has_the_same_weights() {
    let own = world();
    let world = own.path();
    let recipe = fs::read_to_string(world.join("tokenizer.ron")).unwrap().replacen(
        "codebook_weight",
        "perceptual_weight: 0.1,
        adversary: (discriminator: (filters: 4, multipliers: [2, 2], judges: patches), loss: non_saturating,
            weight: adaptive(0.1), from_step: 6, lecam_weight: 0.001),
        codebook_weight",
        1,
    );
    fs::write(world.join("game.ron"), recipe).unwrap();
    let command = "train-tokenizer --config game.ron --data store --validation store --inception stem.safetensors \
                   --dims 64 optimization.log_every=1 optimization.checkpoint_every=3 optimization.steps=24";
    succeed(&format!("{command} --out whole"), world);
    Victim { command, world, run: "played" }.survives(8, 5);
    assert!(weights(world, "played") == weights(world, "whole"));
}

#[test]
fn a_damaged_checkpoint_is_named_and_the_one_before_it_taken() {
    let own = world();
    let world = own.path();
    assert!(killed(world, "damaged", 14, Duration::ZERO));
    let whole = checkpoints(world, "damaged");
    assert_eq!(whole.len(), 2, "{whole:?}");
    let newest = world.join("damaged/checkpoints").join(&whole[1]);
    let path = newest.join("optimizer.bpk");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 16;
    fs::write(&path, bytes).unwrap();
    let output = mgnt(&format!("{TRAIN} --out damaged --resume"), world).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("warning: DAMAGED checkpoint") && told.contains("optimizer.bpk"), "{told}");
    assert!(newest.with_extension("damaged").exists());
    assert!(weights(world, "damaged") == weights(world, "run"));
}

/// A limit on the size of files is what a test can have of a full disk without being root.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_full_disk_costs_checkpoints_and_not_the_training() {
    use std::os::unix::process::CommandExt;
    let own = world();
    let world = own.path();
    assert!(killed(world, "full", 10, Duration::ZERO));
    let before = checkpoints(world, "full");
    let mut full = mgnt(&format!("{TRAIN} --out full --resume"), world);
    // SAFETY: the call only sets an attribute of the process, and may be made between fork and exec.
    unsafe {
        full.pre_exec(|| {
            let limit = libc::rlimit { rlim_cur: 48 << 10, rlim_max: libc::RLIM_INFINITY };
            match libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let output = full.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let newest = before.last().unwrap().trim_start_matches("step-").trim_start_matches('0');
    for part in ["warning: checkpoint NOT SAVED after 12 steps", "NOT SAVED after 40 steps", "step 40/40"] {
        assert!(told.contains(part), "`{part}` is not in\n{told}");
    }
    assert!(told.contains(&format!("the checkpoint of step {newest} stays")), "{told}");
    // The end itself has nowhere to go: that is a failure, in one line.
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.lines().last().unwrap().starts_with("error: "), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    assert_eq!(checkpoints(world, "full"), before);

    succeed(&format!("{TRAIN} --out full --resume"), world);
    assert!(weights(world, "full") == weights(world, "run"));
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
    std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!checkpoints(world, "stopped").is_empty());
    assert!(!world.join("stopped/model").exists());
}

#[test]
fn a_run_is_resumed_as_it_began_or_not_at_all() {
    let own = world();
    let world = own.path();
    let train = "train-imagenet --config transformer.ron --validation tokens --out run";
    fail(&format!("{train} --data tokens"), world, 1, &["--resume"]);
    for (field, value) in
        [("optimization.steps", "50"), ("optimization.peak_learning_rate", "0.5"), ("layers", "3")]
    {
        let line = format!("{train} --data tokens --resume {field}={value}");
        fail(&line, world, 1, &[&format!("`recipe.{field}` was "), &format!("is {value} now")]);
    }
    succeed("tokenize --data store --tokenizer tokenizer/model --out other-tokens", world);
    let manifest = world.join("other-tokens/manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen("\"source\": \"", "\"source\": \"other ", 1)).unwrap();
    fail(&format!("{train} --data other-tokens --resume"), world, 1, &["`data.train` was "]);
}

/// As `mgnt flops | head -1`.
#[cfg(unix)]
#[test]
fn a_reader_that_leaves_hears_no_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../../configs/model-L.ron");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut flops = mgnt(&format!("flops --config {config}"), folder.path());
    let told = flops.env_remove("RUST_BACKTRACE").stdout(writer).output().unwrap();
    assert_eq!((told.status.code(), String::from_utf8_lossy(&told.stderr).as_ref()), (Some(1), ""));
}
