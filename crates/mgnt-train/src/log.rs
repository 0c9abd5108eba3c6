//! Logs of one JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use mgnt_weights::atomic;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A file of JSON lines that each name a `step`.
pub(crate) struct JsonLines {
    file: File,
    path: PathBuf,
    length: u64,
}

impl JsonLines {
    /// Opens a log, and drops the lines of steps that `keep` refuses and lines that are cut off.
    pub fn open(path: &Path, keep: impl Fn(usize) -> bool) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Step {
            step: usize,
        }
        if path.exists() {
            let bytes = fs::read(path).map_err(mgnt_weights::Error::io(path))?;
            let kept: Vec<u8> = bytes
                .split_inclusive(|&byte| byte == b'\n')
                .filter(|line| line.ends_with(b"\n"))
                .filter(|line| serde_json::from_slice::<Step>(line).is_ok_and(|line| keep(line.step)))
                .flatten()
                .copied()
                .collect();
            if kept != bytes {
                atomic::write_bytes(path, &kept)?;
            }
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(mgnt_weights::Error::io(path))?;
        let length = file.metadata().map_err(mgnt_weights::Error::io(path))?.len();
        Ok(Self { file, path: path.into(), length })
    }

    /// Adds a line, or nothing: a part of it, as a full disk leaves, is taken back.
    pub fn write(&mut self, line: &impl Serialize) -> Result<(), Error> {
        let mut text = serde_json::to_string(line).map_err(|e| Error::run(&self.path, e))?;
        text.push('\n');
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            // The first error is the one to report; a rest that stays is dropped when the log is opened again.
            let _ = self.file.set_len(self.length);
            return Err(mgnt_weights::Error::io(&self.path)(error).into());
        }
        self.length += text.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_lost_steps_and_torn_ones_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        fs::write(&path, "{\"step\":1}\nnoise\n{\"step\":2,\"x\":1}\n{\"step\":3}\n{\"step\":2,\"x\"")
            .unwrap();
        let mut log = JsonLines::open(&path, |step| step <= 2).unwrap();
        log.write(&serde_json::json!({"step": 4})).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2,\"x\":1}\n{\"step\":4}\n");
    }
}
