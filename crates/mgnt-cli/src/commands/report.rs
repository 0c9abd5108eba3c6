//! `mgnt report`: a run becomes one page that opens from disk.

mod charts;
mod samples;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use mgnt_decode::Ledger;
use mgnt_model::ModelConfig;
use mgnt_train::watch::{DESCRIPTION, History, SAMPLES};
use mgnt_weights::atomic;
use serde::Deserialize;
use serde_json::Value;

use super::output_folder::is_within;
use super::strategy::StrategyArguments;
use crate::failure::bad_use;
use crate::output::page::Page;
use crate::output::words::{short, spoken};

/// Arguments of `mgnt report`.
#[derive(Args)]
pub struct Arguments {
    /// The run's folder
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Another run, whose held-out figures are drawn beside this one's; may be given several times
    #[arg(long, value_name = "RUN")]
    beside: Vec<PathBuf>,
    /// The page [default: report.html in the run's folder]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    strategy: StrategyArguments,
}

/// The part of `run.json` that a page shows.
#[derive(Deserialize)]
struct Description {
    task: String,
    recipe: Value,
    model: Value,
    tokens_a_sample: usize,
}

/// Writes the page.
pub fn run(arguments: Arguments) -> anyhow::Result<()> {
    let run = &arguments.run;
    let description: Description = read_json(&run.join(DESCRIPTION))?;
    if description.task != "transformer" && arguments.strategy != StrategyArguments::default() {
        return Err(bad_use(format!(
            "{}: a training of the {}, of which no strategy says anything",
            run.display(),
            description.task
        )));
    }
    let is_page = |path: &Path| path.extension().is_some_and(|ending| ending == "html");
    if let Some(output) = arguments.output.as_ref().filter(|output| !is_page(output))
        && let Some(run) = [run].into_iter().chain(&arguments.beside).find(|run| is_within(output, run))
    {
        return Err(bad_use(format!(
            "--output {}: expected a name that ends in .html within the run {}",
            output.display(),
            run.display()
        )));
    }
    let history = History::read(run)?;
    let mut runs = vec![run];
    runs.extend(&arguments.beside);
    let mut names = names_of(&runs)?.into_iter();
    let name = names.next().unwrap_or_default();
    let mut others = Vec::new();
    for (other, name) in arguments.beside.iter().zip(names) {
        let read = History::read(other)?;
        if !charts::held_out(&history).any(|figure| read.last(figure).is_some()) {
            tell!("--beside {}: has no held-out figure of {}", other.display(), run.display());
        }
        others.push((name, read));
    }

    let mut page = Page::new(&format!("{name}: {} training", description.task));
    summary(&mut page, &description, &history);
    if !others.is_empty() {
        charts::beside(&mut page, &name, &history, &others)?;
    }
    charts::add(&mut page, &history)?;
    samples::add(&mut page, &run.join(SAMPLES))?;
    if description.task == "transformer" {
        let config: ModelConfig =
            serde_json::from_value(description.model.clone()).context("run.json: model")?;
        ledger(&mut page, &Ledger::new(&arguments.strategy.plan(&config)?, 1));
    }
    page.heading("Configuration");
    page.folded("The recipe, with what was set on the command line", &pretty(&description.recipe)?);
    page.folded("The model", &pretty(&description.model)?);

    let output = arguments.output.unwrap_or_else(|| run.join("report.html"));
    atomic::write_bytes(&output, page.finish().as_bytes())?;
    println!("open {}", output.display());
    Ok(())
}

/// The ends of the runs' paths, of as many folders as tell them apart.
fn names_of(runs: &[&PathBuf]) -> anyhow::Result<Vec<String>> {
    let whole = |run: &&PathBuf| fs::canonicalize(run).with_context(|| run.display().to_string());
    let paths = runs.iter().map(whole).collect::<anyhow::Result<Vec<PathBuf>>>()?;
    let deepest = paths.iter().map(|path| path.components().count()).max().unwrap_or_default();
    let ends = |folders: usize| -> Vec<String> {
        let end = |path: &PathBuf| {
            let count = path.components().count();
            path.components().skip(count.saturating_sub(folders)).collect::<PathBuf>().display().to_string()
        };
        paths.iter().map(end).collect()
    };
    let apart = |names: &Vec<String>| names.iter().collect::<HashSet<_>>().len() == names.len();
    Ok((1..=deepest).map(ends).find(apart).unwrap_or_else(|| ends(1)))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

fn pretty(value: &Value) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

fn summary(page: &mut Page, description: &Description, history: &History) {
    // The log knows it from its first line on only.
    let steps = description.recipe["optimization"]["steps"].as_u64().unwrap_or(history.steps() as u64);
    let share = 100.0 * history.done() as f64 / steps.max(1) as f64;
    let mut rows = vec![("steps".to_owned(), format!("{} of {steps} ({share:.0} %)", history.done()))];
    if let Some(batch) = description.recipe["optimization"]["batch"].as_u64() {
        let tokens = batch * description.tokens_a_sample as u64;
        rows.push(("a step".to_owned(), format!("{batch} pictures, {} tokens", short(tokens as f64))));
    }
    let seconds = time_of_steps(history.figure("seconds_a_step"));
    rows.push(("time in steps".to_owned(), spoken(seconds)));
    if let Some(pace) = history.last("tokens_a_second") {
        rows.push(("tokens a second, last".to_owned(), short(pace)));
    }
    let memory = history.figure("memory").iter().map(|point| point.1).fold(0.0, f64::max);
    if memory > 0.0 {
        rows.push(("most memory seen".to_owned(), format!("{:.2} GiB", memory / f64::from(1 << 30))));
    }
    for name in charts::held_out(history) {
        if let Some(value) = history.last(name) {
            // As the terminal has it.
            let text = if name.contains("loss_p") { format!("{value:.3}") } else { short(value) };
            rows.push((format!("{}, last", charts::label(name)), text));
        }
    }
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name, value]).collect();
    page.table("Where it stands", &["", ""], &rows);
}

/// Seconds of all steps, from those of a step at each line of the log.
fn time_of_steps(pace: &[(usize, f64)]) -> f64 {
    let before = std::iter::once(0).chain(pace.iter().map(|point| point.0));
    let times = pace.iter().zip(before).map(|((step, s), before)| step.saturating_sub(before) as f64 * s);
    // A sum of nothing is -0.
    times.fold(0.0, |sum, seconds| sum + seconds)
}

fn ledger(page: &mut Page, ledger: &Ledger) {
    let is_cached = ledger.iterations.iter().any(|line| line.cache_bytes > 0);
    page.heading("What a decode will cost");
    page.paragraph(&format!(
        "Planned compute of one picture under {} {} cache: {} GFLOPs, {:.2} times less than the full model in \
         every iteration without a cache ({} GFLOPs).",
        ledger.schedule,
        if is_cached { "with its" } else { "without a" },
        short(ledger.gflops),
        ledger.less_compute,
        short(ledger.baseline_gflops),
    ));
    let row = |line: &mgnt_decode::Line| {
        vec![
            format!("{}{}", line.iteration, if line.refresh { " *" } else { "" }),
            line.p.to_string(),
            line.processed.to_string(),
            line.masked.to_string(),
            line.revealed.to_string(),
            format!("{:.4}", line.gflops),
        ]
    };
    let rows: Vec<_> = ledger.iterations.iter().map(row).collect();
    let head = ["iteration", "p", "positions processed", "masked", "revealed", "GFLOPs"];
    page.table("Iteration by iteration (* = keys and values made anew)", &head, &rows);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_all_steps() {
        assert_eq!(time_of_steps(&[(10, 2.0), (30, 1.0)]), 40.0);
        assert_eq!(spoken(time_of_steps(&[])), "0 s");
    }

    #[test]
    fn runs_of_one_name_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a/run", "b/run", "c"].map(|name| folder.path().join(name));
        paths.iter().for_each(|path| fs::create_dir_all(path).unwrap());
        let names = |runs: &[usize]| names_of(&runs.iter().map(|&i| &paths[i]).collect::<Vec<_>>()).unwrap();
        assert_eq!(names(&[0, 2]), ["run", "c"]);
        assert_eq!(names(&[0, 1]), ["a/run", "b/run"]);
        assert_eq!(names(&[0, 0]), ["run", "run"]);
        assert!(names_of(&[&folder.path().join("d")]).is_err());
    }
}
