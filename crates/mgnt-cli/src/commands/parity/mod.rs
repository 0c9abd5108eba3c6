//! `mgnt parity`: the golden cases on a device, and that device against itself and against the CPU.

mod cases;
mod kernels;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::print_json;
use crate::device::{Compute, Dtype};
use crate::failure::bad_use;

/// Arguments of `mgnt parity`.
#[derive(Args)]
pub struct Arguments {
    /// The folder of golden cases
    #[arg(long, value_name = "DIR", default_value = "tests/golden")]
    golden: PathBuf,
    #[command(flatten)]
    compute: Compute,
    /// One JSON object on standard output instead of the table
    #[arg(long)]
    json: bool,
}

/// Columns of a case's name, which is printed before others are known.
const WIDTH: usize = 50;

/// One comparison.
#[derive(Debug, Serialize)]
struct Row {
    case: String,
    #[serde(flatten)]
    outcome: Outcome,
    /// What the difference may be.
    limit: f64,
    measure: Measure,
}

/// What came of a comparison.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The largest difference, as the row's `measure` counts it.
    Worst(f64),
    /// Why it ended before anything could be compared.
    Failed(String),
}

/// How values are held against each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Measure {
    /// `|a - b| / (1 + |b|)`, the tolerance of the golden cases.
    Element,
    /// `|a - b|` over the largest `|b|` of the tensor: half precision errs by the size of what is added up.
    Tensor,
    /// The share of integers that differ.
    Share,
}

#[derive(Serialize)]
struct Report {
    device: String,
    dtype: Dtype,
    rows: Vec<Row>,
    passed: bool,
}

impl Row {
    fn passes(&self) -> bool {
        match self.outcome {
            Outcome::Worst(worst) => worst <= self.limit,
            Outcome::Failed(_) => false,
        }
    }
}

/// Runs every case and says which are within their limits; fails if one is not.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    if !arguments.golden.is_dir() {
        return Err(bad_use(format!("--golden {}: no such folder", arguments.golden.display())));
    }
    if !cases::FOLDERS.iter().any(|case| arguments.golden.join(case).is_dir()) {
        return Err(bad_use(format!(
            "--golden {}: expected golden cases, in folders {}; got none of them",
            arguments.golden.display(),
            cases::FOLDERS.join(", ")
        )));
    }
    let Arguments { golden, compute, json } = arguments;
    let device = compute.open()?;
    if !json {
        println!(
            "{:<WIDTH$} {:>10} {:>8}  verdict",
            format!("{} {:?}", compute.device, compute.dtype),
            "worst",
            "limit"
        );
    }
    let mut rows = Vec::new();
    // Each row as soon as it is known: on a new device, one of the later cases may not come to its end.
    cases::all(&golden, &compute, &device, |row| {
        if !json {
            print(&row);
        }
        rows.push(row);
    });
    let failed = rows.iter().filter(|row| !row.passes()).count();
    let report =
        Report { device: compute.device.to_string(), dtype: compute.dtype, rows, passed: failed == 0 };
    if json {
        print_json(&report)?;
    }
    if failed > 0 {
        anyhow::bail!(
            "{failed} of {} cases are beyond their limits or did not come to their end",
            report.rows.len()
        );
    }
    Ok(())
}

fn print(row: &Row) {
    let (worst, verdict) = match &row.outcome {
        Outcome::Worst(worst) => {
            (format!("{worst:.1e}"), if row.passes() { "ok".to_owned() } else { "BEYOND".to_owned() })
        }
        Outcome::Failed(reason) => ("-".into(), format!("FAILED: {reason}")),
    };
    println!("{:<WIDTH$} {worst:>10} {:>8.0e}  {verdict}", row.case, row.limit);
}
