//! What a sweep measured, a row a line: each is appended when it is known, and outlives the process.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use mgnt_weights::atomic::Lock;
use mgnt_weights::{Error, atomic};
use serde::{Deserialize, Serialize};

use crate::commands::output_folder;
use crate::failure::bad_use;

/// One strategy with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) schedule: String,
    pub(super) seed: u64,
    pub(super) samples: u32,
    pub(super) dims: usize,
    pub(super) gflops: f64,
    pub(super) less_compute: f64,
    pub(super) fid: f64,
    pub(super) images_per_second: f64,
    /// The whole strategy, as RON.
    pub(super) strategy: String,
    /// What the numbers hold for, beside the fields above: the files, and the arithmetic.
    pub(super) world: String,
}

const ROWS: &str = "results.jsonl";
/// What else a sweep writes, each as a whole.
const WRITTEN: [&str; 3] = ["results.csv", "front.svg", "best.ron"];

/// The rows of a folder, which no other sweep works in meanwhile.
pub(super) struct Log {
    path: PathBuf,
    rows: Vec<Row>,
    /// Held until the sweep ends, however it ends.
    lock: Lock,
}

impl Log {
    /// Opens the log of a folder, or makes the folder. A last line that a kill cut off is dropped; a file with any other
    /// line that is no row is left alone, as is what a sweep would write over where no log says that a sweep wrote it.
    pub(super) fn open(out: &Path) -> anyhow::Result<Self> {
        output_folder::check_named(out)?;
        let path = out.join(ROWS);
        let written = WRITTEN.map(|name| out.join(name));
        if let Some(other) = written.iter().find(|other| other.exists() && !path.exists()) {
            return Err(bad_use(format!(
                "{}: is there already, and no results.jsonl of an earlier sweep; another --out starts anew",
                other.display()
            )));
        }
        let lock = output_folder::lock(out, "sweep")?;
        let bytes = match path.exists() {
            true => fs::read(&path).map_err(Error::io(&path))?,
            false => Vec::new(),
        };
        let (mut rows, mut torn) = (Vec::new(), 0);
        for (i, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            match serde_json::from_slice(line) {
                Ok(row) => rows.push(row),
                // Only what ends in the middle was cut off, and only the last line has no end.
                Err(error) if error.is_eof() && !line.ends_with(b"\n") => torn = line.len(),
                Err(error) => {
                    return Err(bad_use(format!(
                        "{}: line {}: expected a row of a sweep of this version: {error}; another --out starts anew",
                        path.display(),
                        i + 1
                    )));
                }
            }
        }
        let mut whole = bytes[..bytes.len() - torn].to_vec();
        if whole.last().is_some_and(|&byte| byte != b'\n') {
            whole.push(b'\n');
        }
        if whole != bytes {
            atomic::write_bytes(&path, &whole)?;
        }
        // Of a sweep that was killed.
        atomic::remove_leftovers_of(out, |name| name == ROWS || WRITTEN.contains(&name))?;
        Ok(Self { path, rows, lock })
    }

    /// Fails where the folder was removed, or is another sweep's, since it was opened: before anything is written there.
    pub(super) fn check(&self) -> Result<(), Error> {
        self.lock.check()
    }

    /// All rows, in the order in which they were measured.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Adds a row.
    pub(super) fn keep(&mut self, row: Row) -> anyhow::Result<()> {
        self.check()?;
        let line = serde_json::to_string(&row)? + "\n";
        let mut file =
            File::options().create(true).append(true).open(&self.path).map_err(Error::io(&self.path))?;
        file.write_all(line.as_bytes()).map_err(Error::io(&self.path))?;
        self.rows.push(row);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::exit_code;

    impl Row {
        /// Of a strategy, for tests.
        pub(in crate::commands::sweep) fn of(strategy: &str, seed: u64, fid: f64) -> Self {
            Self {
                name: format!("größer {strategy}"),
                schedule: "1x2".into(),
                seed,
                samples: 4,
                dims: 64,
                gflops: 1.5,
                less_compute: 2.0,
                fid,
                images_per_second: 3.0,
                strategy: strategy.into(),
                world: "w".into(),
            }
        }
    }

    fn row(seed: u64) -> Row {
        Row::of("s", seed, 0.1)
    }

    fn refused(out: &Path, part: &str) {
        let Err(error) = Log::open(out) else { panic!("{part}: opened") };
        assert!(exit_code(&error) == 2 && error.to_string().contains(part), "{part}: {error}");
    }

    #[test]
    fn a_line_that_was_cut_off_is_dropped_wherever_it_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("sweep");
        let mut log = Log::open(&out).unwrap();
        (0..2).for_each(|seed| log.keep(row(seed)).unwrap());
        drop(log);
        let path = out.join("results.jsonl");
        let bytes = fs::read(&path).unwrap();
        let first = bytes.len() / 2;
        for cut in first..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let mut log = Log::open(&out).unwrap();
            // The last row is whole without the end of its line too.
            let whole = cut + 1 >= bytes.len();
            assert_eq!(log.rows(), &[row(0), row(1)][..1 + usize::from(whole)], "{cut}");
            if !whole {
                log.keep(row(1)).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), bytes, "{cut}");
        }
    }

    /// A search that is continued would else find another best.
    #[test]
    fn numbers_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path()).unwrap();
        let rows: Vec<Row> =
            (0..1000).map(|i| Row::of("s", i, 1.039_041_302_381_670_4 * (1.0 + i as f64 / 7.0))).collect();
        rows.iter().for_each(|row| log.keep(row.clone()).unwrap());
        drop(log);
        assert_eq!(Log::open(folder.path()).unwrap().rows(), rows);
    }

    #[test]
    fn the_file_of_another_tool_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let own = serde_json::to_string(&row(0)).unwrap();
        let cut = &own[..30];
        for (text, part) in [
            ("{\"loss\": 1}\n".to_owned(), "line 1: expected a row"),
            ("{\"loss\": 1}".into(), "line 1: expected a row"),
            (format!("{own}\nmine\n"), "line 2: expected a row"),
            (format!("{cut}\n{own}\n"), "line 1: expected a row"),
            (format!("{own}\n{cut}\n"), "line 2: expected a row"),
        ] {
            fs::write(&path, &text).unwrap();
            refused(folder.path(), part);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::remove_file(&path).unwrap();
        for name in ["results.csv", "front.svg", "best.ron"] {
            let other = folder.path().join(name);
            fs::write(&other, "mine").unwrap();
            refused(folder.path(), &format!("{name}: is there already, and no results.jsonl"));
            fs::remove_file(&other).unwrap();
        }
    }

    #[test]
    fn what_a_killed_sweep_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["results.jsonl.7.tmp", "results.csv.7.tmp", "front.svg.8.tmp", "best.ron.9.tmp"] {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        fs::write(folder.path().join("notes.7.tmp"), "mine").unwrap();
        drop(Log::open(folder.path()).unwrap());
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["lock", "notes.7.tmp"]);
    }

    /// Elsewhere a folder stays where it is while a file of it is open.
    #[cfg(unix)]
    #[test]
    fn a_sweep_whose_folder_is_gone_does_not_write_into_the_next_ones() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("sweep");
        let mut first = Log::open(&out).unwrap();
        fs::remove_dir_all(&out).unwrap();
        let second = Log::open(&out).unwrap();
        let error = first.keep(row(0)).unwrap_err().to_string();
        assert!(error.contains("lock: was removed or replaced"), "{error}");
        second.check().unwrap();
        assert!(!out.join("results.jsonl").exists());
    }

    #[test]
    fn two_sweeps_do_not_work_in_one_folder() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(folder.path()).unwrap();
        refused(folder.path(), "another sweep works in it");
        drop(log);
        assert!(Log::open(folder.path()).is_ok());
    }
}
