//! `cargo xtask X …` builds `mgnt` with the features that `--device` asks for and runs `mgnt X …`.
//!
//! Two words are project chores of its own: `test` (the whole test suite) and `ci` (the gate: `.ci/run`).

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND [OPTIONS]

  test            run the whole test suite
  ci              run the gate: format, clippy, docs, tests
  anything else   build mgnt for the --device that is named and run `mgnt COMMAND`
                  (cpu, ndarray, wgpu, cuda[:n]; `cargo xtask help` lists the commands)

  MGNT_FEATURES=cuda-nvrtc,fusion in the environment builds these features instead";

fn main() -> ExitCode {
    let given: Vec<OsString> = env::args_os().skip(1).collect();
    // What decides here is text; what is passed on need not be.
    let arguments: Vec<String> = given.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Some(command) = arguments.first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let asked = env::var("MGNT_FEATURES").ok();
    let features = match asked.as_deref().map(listed) {
        Some(listed) => Ok(listed),
        None => features(&arguments, &|| fuses(&capabilities())),
    };
    let features = match features {
        Ok(features) => features,
        Err(message) => {
            eprintln!("error: {message}");
            return ExitCode::from(2);
        }
    };
    let result = match command.as_str() {
        "test" => test(&arguments[1..]),
        "ci" => run(Command::new("bash").arg(root().join(".ci/run"))),
        _ => build_and_run(&given, &arguments, &features),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(1)
        }
    }
}

/// nextest where it is installed, since it shows progress and runs binaries side by side; cargo's own otherwise.
fn test(arguments: &[String]) -> Result<u8, String> {
    let nextest = Command::new(cargo())
        .args(["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    let of_workspace = |words: &[&str]| {
        run(Command::new(cargo()).current_dir(root()).args(words).arg("--workspace").args(arguments))
    };
    if !nextest {
        // One after the other: Burn's processor has one generator for all threads of a process, which some tests seed.
        let mut command = Command::new(cargo());
        command.current_dir(root()).args(["test", "--no-fail-fast", "--workspace"]).args(arguments);
        return run(command.env("RUST_TEST_THREADS", "1"));
    }
    let code = of_workspace(&["nextest", "run", "--no-fail-fast"])?;
    // nextest leaves out the examples of the documentation; where some tests alone are asked for, they are not meant.
    let is_all = arguments.iter().all(|word| ["--locked", "--offline", "--frozen"].contains(&word.as_str()));
    Ok(if is_all { code.max(of_workspace(&["test", "--quiet", "--doc"])?) } else { code })
}

fn build_and_run(given: &[OsString], arguments: &[String], features: &[&str]) -> Result<u8, String> {
    let target = root().join(target_folder(features));
    let mut build = Command::new(cargo());
    build.current_dir(root()).args(["build", "--quiet", "--release", "--package", "mgnt-cli"]);
    // Else the binary would lie in a folder of that target's name.
    build.arg("--target-dir").arg(&target).env_remove("CARGO_BUILD_TARGET");
    if !features.is_empty() {
        build.args(["--features", &features.join(",")]);
    }
    let binary = target.join("release").join(format!("mgnt{}", env::consts::EXE_SUFFIX));
    if !binary.exists() {
        eprintln!("building mgnt for the first time; this takes some minutes");
    }
    match run(&mut build)? {
        0 => replaced_by(Command::new(binary).args(given).args(shipped(arguments))),
        code => Ok(code),
    }
}

/// The command of mgnt, which options for all commands may come before.
fn command(arguments: &[String]) -> Option<&str> {
    let mut words = arguments.iter().map(String::as_str);
    loop {
        match words.next()? {
            "--threads" => {
                words.next();
            }
            option if option.starts_with('-') => {}
            command => return Some(command),
        }
    }
}

/// The weights of this repository, where a demonstration is not told of others.
fn shipped(arguments: &[String]) -> Vec<OsString> {
    let is_told = arguments.iter().any(|word| word == "--shipped" || word.starts_with("--shipped="));
    if command(arguments) == Some("demo") && !is_told {
        vec!["--shipped".into(), root().join("assets").join("imagenette64").into()]
    } else {
        Vec::new()
    }
}

/// The features of a list with commas.
fn listed(list: &str) -> Vec<&str> {
    let mut features: Vec<_> = list.split(',').map(str::trim).filter(|feature| !feature.is_empty()).collect();
    features.sort_unstable();
    features.dedup();
    features
}

/// What the devices on the command line ask to be built; `fuses` is asked where one is a CUDA device.
fn features(arguments: &[String], fuses: &dyn Fn() -> bool) -> Result<Vec<&'static str>, String> {
    let mut features = Vec::new();
    if command(arguments) == Some("serve-device") {
        features.push("remote");
    }
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) => (option, Some(value)),
            None => (word.as_str(), None),
        };
        if option != "--device" && option != "--devices" {
            continue;
        }
        let Some(list) = value.or_else(|| words.next().map(String::as_str)) else { break };
        for device in list.split(',') {
            features.extend(feature(device, fuses)?);
        }
    }
    features.sort_unstable();
    features.dedup();
    Ok(features)
}

/// The features that build a device in, and make it fast; none for the CPU, which always is.
fn feature(device: &str, fuses: &dyn Fn() -> bool) -> Result<&'static [&'static str], String> {
    match device.split(':').next().unwrap_or(device) {
        "cpu" => Ok(&[]),
        "ndarray" => Ok(&["ndarray"]),
        "wgpu" => Ok(&["wgpu"]),
        // Kernels by NVIDIA's compiler, which all that was measured was compiled by, not by CubeCL's own of LLVM. Burn tunes
        // products with fusion, and joins what is not a block's.
        "cuda" if fuses() => Ok(&["cuda-nvrtc", "fusion"]),
        "cuda" => Ok(&["cuda-nvrtc"]),
        "ws" => Ok(&["remote"]),
        _ => Err(format!("--device {device}: expected cpu, ndarray, wgpu or cuda[:n]")),
    }
}

/// Whether cards of these compute capabilities run what fusion tunes. From 9.0 on Burn's tuner may take a kernel that copies
/// by tensor maps for a size whose boxes the hardware refuses (docs/results.md, "On an H100").
fn fuses(capabilities: &str) -> bool {
    let major = |line: &str| line.trim().split('.').next().and_then(|major| major.parse::<u32>().ok());
    capabilities.lines().filter_map(major).all(|major| major < 9)
}

/// The compute capability of each card, a line each, as the driver's tool says it; nothing where it is not there.
fn capabilities() -> String {
    let asked =
        Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output();
    asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// A folder for each set, since another set of features would rebuild the tensor crates.
fn target_folder(features: &[&str]) -> PathBuf {
    let mut name = vec!["target"];
    name.extend(features);
    PathBuf::from(name.join("-"))
}

/// Runs a command in the place of this one, so that an interrupt, and whatever else is told to this process, is told to that.
#[cfg(unix)]
fn replaced_by(command: &mut Command) -> Result<u8, String> {
    use std::os::unix::process::CommandExt;
    let program = command.get_program().to_string_lossy().into_owned();
    Err(format!("{program}: {}", command.exec()))
}

/// Runs a command where none can take this one's place.
#[cfg(not(unix))]
fn replaced_by(command: &mut Command) -> Result<u8, String> {
    run(command)
}

fn run(command: &mut Command) -> Result<u8, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("{program}: {error}"))?;
    match status.code() {
        Some(code) => Ok(u8::try_from(code).unwrap_or(1)),
        // By a signal, of which nobody else tells.
        None => Err(format!("{program}: {status}")),
    }
}

fn cargo() -> String {
    env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Vec<&'static str>, String> {
        features(&line.split(' ').map(String::from).collect::<Vec<_>>(), &|| true)
    }

    #[test]
    fn a_demonstration_shows_the_weights_of_this_repository() {
        let words = |line: &str| line.split(' ').map(String::from).collect::<Vec<_>>();
        let given = shipped(&words("demo --hurry 2"));
        assert_eq!(given[0], "--shipped");
        assert!(Path::new(&given[1]).join("classes.txt").exists());
        assert_eq!(shipped(&words("--threads 2 demo")), given);
        for line in ["demo --shipped other", "demo --shipped=other", "generate"] {
            assert!(shipped(&words(line)).is_empty(), "{line}");
        }
    }

    #[test]
    fn cards_that_copy_by_tensor_maps_are_built_for_without_fusion() {
        assert!(fuses("8.0\n8.6\n") && fuses("7.5") && fuses("") && fuses("N/A\n"));
        assert!(!fuses("9.0\n") && !fuses("8.9\n12.0\n") && !fuses(" 10.0"));
    }

    #[test]
    fn the_devices_choose_what_is_built() {
        assert_eq!(of("generate --count 3"), Ok(vec![]));
        assert_eq!(of("generate --device cuda:1 --count 3"), Ok(vec!["cuda-nvrtc", "fusion"]));
        assert_eq!(of("generate --device=wgpu"), Ok(vec!["wgpu"]));
        assert_eq!(
            of("train-imagenet --devices cuda:0,cuda:1,ws://host:3000"),
            Ok(vec!["cuda-nvrtc", "fusion", "remote"])
        );
        for line in ["serve-device", "--threads 2 serve-device", "--threads=2 serve-device"] {
            assert_eq!(of(line), Ok(vec!["remote"]), "{line}");
        }
        assert_eq!(listed("fusion, cuda,,cuda"), ["cuda", "fusion"]);
        let on_hopper = features(&["bench".into(), "--device".into(), "cuda".into()], &|| false);
        assert_eq!(on_hopper, Ok(vec!["cuda-nvrtc"]));
        assert!(of("generate --device tpu").is_err());
        assert_eq!(target_folder(&[]), Path::new("target"));
        assert_eq!(target_folder(&["cuda", "remote"]), Path::new("target-cuda-remote"));
    }
}
