//! `mgnt devices`: what there is to compute on.

use clap::Args;
use serde::Serialize;

use super::print_json;
use crate::device::{self, Dtype, Listed, gib};

/// Arguments of `mgnt devices`.
#[derive(Args)]
pub struct Arguments {
    /// One JSON list on standard output instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Row {
    /// What to write after `--device`.
    device: String,
    name: Option<String>,
    memory_bytes: Option<u64>,
    /// Types that a transformer can run in there.
    types: Vec<Dtype>,
    /// Why it cannot be used.
    missing: Option<String>,
}

/// Lists them.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let rows: Vec<Row> = device::list().into_iter().map(row).collect();
    if arguments.json {
        return print_json(&rows);
    }
    println!("{:<10} {:<48} {:>9}  types", "device", "name", "memory");
    let has_cuda = rows.iter().any(|row| row.device.starts_with("cuda") && row.missing.is_none());
    for row in rows {
        if let Some(missing) = row.missing {
            println!("{:<10} {missing}", row.device);
            continue;
        }
        let memory = row.memory_bytes.map_or("-".into(), gib);
        let types: Vec<String> = row.types.iter().map(Dtype::to_string).collect();
        println!(
            "{:<10} {:<48} {memory:>9}  {}",
            row.device,
            row.name.unwrap_or_else(|| "-".into()),
            types.join(" ")
        );
    }
    if has_cuda {
        println!("{}", device::products_of_cuda());
    }
    Ok(())
}

fn row(listed: Listed) -> Row {
    let device = listed.word.to_string();
    match listed.found {
        Ok(found) => {
            Row { device, name: found.name, memory_bytes: found.memory, types: found.types, missing: None }
        }
        Err(error) => Row {
            device,
            name: None,
            memory_bytes: None,
            types: Vec::new(),
            missing: Some(format!("{error:#}")),
        },
    }
}
