//! Running the binary, and the small world of pictures, stores and models that most tests start from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mgnt_data::synthetic;
use tempfile::TempDir;

use crate::inception_stem::stem;

pub fn mgnt(line: &str, folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mgnt"));
    command.current_dir(folder).args(line.split_whitespace());
    command
}

pub fn output(line: &str, folder: &Path) -> Output {
    mgnt(line, folder).output().unwrap()
}

/// Runs a command that must succeed; returns its standard output.
pub fn succeed(line: &str, folder: &Path) -> String {
    let output = output(line, folder);
    assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with this exit code and one line that contains `parts`.
pub fn fail(line: &str, folder: &Path, code: i32, parts: &[&str]) {
    let output = output(line, folder);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{line}\n{error}");
    for part in parts {
        assert!(error.contains(part), "{line}: `{part}` is not in\n{error}");
    }
    assert!(!error.contains("panicked"), "{line}\n{error}");
}

pub const TOKENIZER: &str = "(
    tokenizer: (size: 16, filters: 8, multipliers: [1, 1], residual_blocks: 1, embedding: 8, codes: 16, groups: 4,
        shortcut: input),
    l1_weight: 1.0, l2_weight: 1.0, codebook_weight: 1.0, commitment_weight: 0.25, entropy_weight: 0.005,
    revive_every: 5, revive_until: 15,
    optimization: (batch: 4, steps: 20, peak_learning_rate: 2e-3, warm_up_steps: 5, beta1: 0.9, beta2: 0.99,
        weight_decay: 0.0, clip_norm: 1.0, ema_decay: 0.9, seed: 1, log_every: 5, validate_every: 20,
        checkpoint_every: 10, keep: 2),
)";

pub const TRANSFORMER: &str = "(
    layers: 2, width: 32, heads: 8, hidden: 64, dropout: 0.1, class_dropout: 0.1, label_smoothing: 0.1,
    optimization: (batch: 4, steps: 40, peak_learning_rate: 3e-3, warm_up_steps: 5, beta1: 0.9, beta2: 0.96,
        weight_decay: 0.045, clip_norm: 1.0, ema_decay: 0.9, seed: 1, log_every: 5, validate_every: 20,
        checkpoint_every: 4, keep: 2),
)";

/// A folder of its own for each test with what all need: drawn pictures, stores, a tokenizer, tokens, a transformer.
/// They are made once for a binary, whatever number of processes the tests run in.
pub fn world() -> TempDir {
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

pub fn model() -> &'static str {
    "--model run/model --tokenizer tokenizer/model"
}

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}
