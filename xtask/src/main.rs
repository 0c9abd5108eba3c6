//! `cargo xtask X …` builds `mgnt` with the features that `--device` asks for and runs `mgnt X …`.
//!
//! Two words are project chores of its own: `test` (the whole test suite) and `ci` (the gate: `.ci/run`).

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo xtask COMMAND [OPTIONS]

  test            run the whole test suite
  ci              run the gate: format, clippy, docs, tests
  anything else   build mgnt for the --device that is named and run `mgnt COMMAND`
                  (cpu, ndarray, wgpu, cuda[:n]; `cargo xtask help` lists the commands)";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let Some(command) = arguments.first() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let result = match command.as_str() {
        "test" => test(&arguments[1..]),
        "ci" => run(Command::new("bash").arg(root().join(".ci/run"))),
        _ => build_and_run(&arguments),
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
    let words: &[&str] =
        if nextest { &["nextest", "run", "--no-fail-fast"] } else { &["test", "--no-fail-fast"] };
    run(Command::new(cargo()).current_dir(root()).args(words).arg("--workspace").args(arguments))
}

fn build_and_run(arguments: &[String]) -> Result<u8, String> {
    let backend = Backend::of(arguments)?;
    let target = root().join(backend.target_folder());
    let mut build = Command::new(cargo());
    build.current_dir(root()).args(["build", "--quiet", "--release", "--package", "mgnt-cli"]);
    build.arg("--target-dir").arg(&target);
    if let Some(feature) = backend.feature() {
        build.args(["--features", feature]);
    }
    let binary = target.join("release").join(format!("mgnt{}", env::consts::EXE_SUFFIX));
    if !binary.exists() {
        eprintln!("building mgnt for the first time; this takes some minutes");
    }
    match run(&mut build)? {
        0 => run(Command::new(binary).args(arguments)),
        code => Ok(code),
    }
}

/// What `--device` asks to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Backend {
    Cpu,
    Ndarray,
    Wgpu,
    Cuda,
}

impl Backend {
    fn of(arguments: &[String]) -> Result<Self, String> {
        let mut words = arguments.iter();
        let mut device = None;
        while let Some(word) = words.next() {
            if word == "--device" {
                device = words.next().map(String::as_str);
            } else if let Some(value) = word.strip_prefix("--device=") {
                device = Some(value);
            }
        }
        let Some(device) = device else { return Ok(Self::Cpu) };
        match device.split(':').next().unwrap_or(device) {
            "cpu" => Ok(Self::Cpu),
            "ndarray" => Ok(Self::Ndarray),
            "wgpu" => Ok(Self::Wgpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(format!("--device {device}: expected cpu, ndarray, wgpu or cuda[:n]")),
        }
    }

    fn feature(self) -> Option<&'static str> {
        match self {
            Self::Cpu => None,
            Self::Ndarray => Some("ndarray"),
            Self::Wgpu => Some("wgpu"),
            Self::Cuda => Some("cuda"),
        }
    }

    /// A folder for each, since another set of features would rebuild the tensor crates.
    fn target_folder(self) -> PathBuf {
        match self.feature() {
            None => PathBuf::from("target"),
            Some(feature) => PathBuf::from(format!("target-{feature}")),
        }
    }
}

fn run(command: &mut Command) -> Result<u8, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("{program}: {error}"))?;
    // A child that a signal ended has no code.
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
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

    fn backend(line: &str) -> Result<Backend, String> {
        Backend::of(&line.split(' ').map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_device_chooses_what_is_built() {
        assert_eq!(backend("generate --count 3"), Ok(Backend::Cpu));
        assert_eq!(backend("generate --device cuda:1 --count 3"), Ok(Backend::Cuda));
        assert_eq!(backend("generate --device=wgpu"), Ok(Backend::Wgpu));
        assert!(backend("generate --device tpu").is_err());
    }
}
