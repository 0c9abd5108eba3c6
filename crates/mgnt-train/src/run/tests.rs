mod watching;

use std::collections::BTreeMap;
use std::ops::Range;

use burn::nn::{Linear, LinearConfig};
use burn::tensor::Tensor;

use super::*;
use crate::optimizer::tests::optimization;
use crate::task::{Figures, PartOutput};

const NAMED: &str = "square";

/// Fits `y = 3 x` with one weight. Steps of `broken` have no finite loss.
struct Slope {
    broken: Vec<usize>,
    data: &'static str,
    /// Name of the figure of its parts.
    tells: &'static str,
    /// Whether it can be validated.
    measures: bool,
}

impl Task for Slope {
    type Model = Linear;
    type Extra = ();

    fn describe(&self) -> Result<Description, Error> {
        let data = BTreeMap::from([("train".to_owned(), self.data.to_owned())]);
        let model = serde_json::json!({});
        Ok(Description { task: "slope", model, data, tokens_a_sample: 1, tokenizer: None })
    }

    fn initial(&self, device: &Device) -> Result<Linear, Error> {
        device.seed(1);
        Ok(LinearConfig::new(1, 1).with_bias(false).init(device))
    }

    fn draws_on_device(&self) -> bool {
        false
    }

    fn items(&self, step: usize) -> Vec<usize> {
        (4 * step..4 * step + 4).collect()
    }

    fn part(&self, model: &Linear, step: usize, places: Range<usize>) -> Result<PartOutput<()>, Error> {
        let x: Vec<f32> = places.map(|place| ((step + place) % 5) as f32 - 2.0).collect();
        let x = Tensor::<1>::from_floats(x.as_slice(), &model.weight.device()).unsqueeze_dim::<2>(1);
        let difference = model.forward(x.clone()) - x * 3.0;
        let loss = (difference.clone() * difference).sum() / 4.0;
        let loss = if self.broken.contains(&step) { loss * f32::NAN } else { loss };
        let figures = vec![(self.tells.to_owned(), loss.clone())];
        Ok(PartOutput { loss, figures, extra: () })
    }

    fn figures(&self) -> Vec<String> {
        vec![NAMED.into()]
    }

    fn validation_figures(&self) -> Vec<String> {
        vec!["error".into()]
    }

    fn validate(&self, average: &Linear) -> Result<Figures, Error> {
        if !self.measures {
            return Err(Error::Device("it measures nothing".into()));
        }
        let weight = f64::from(average.weight.val().into_scalar::<f32>());
        Ok(vec![("error".into(), (weight - 3.0).abs())])
    }

    fn score(&self, validation: &Figures) -> Option<f64> {
        Some(validation[0].1)
    }

    fn export(&self, average: &Linear, folder: &Path) -> Result<(), Error> {
        let weight = average.weight.val().into_scalar::<f32>();
        atomic::write_folder(folder, |folder| {
            Ok::<_, Error>(atomic::write_bytes(&folder.join("weight"), &weight.to_le_bytes())?)
        })
    }
}

fn recipe() -> Optimization {
    Optimization {
        steps: 12,
        validate_every: 4,
        checkpoint_every: 3,
        log_every: 2,
        keep: 2,
        ..optimization()
    }
}

/// What a recipe's file says.
fn whole(optimization: &Optimization) -> serde_json::Value {
    serde_json::json!({ "optimization": optimization })
}

fn slope(broken: &[usize]) -> Slope {
    Slope { broken: broken.to_vec(), data: "data", tells: NAMED, measures: true }
}

/// Trains; returns what happened as well.
fn train(
    task: Slope,
    recipe: &Optimization,
    out: &Path,
    resume: bool,
    stop_after: Option<usize>,
) -> (Result<Outcome, Error>, Vec<Event>) {
    let (device, stop) = (Device::flex(), Interrupter::new());
    let options = RunOptions { resume, ..RunOptions::new(&device, out, &stop) };
    let (tell, told) = mpsc::channel();
    let stopper = stop.clone();
    let watch = move |event: &Event| {
        if let Event::Trained(line) = event
            && stop_after.is_some_and(|n| line.step >= n)
        {
            stopper.stop(None);
        }
        tell.send(event.clone()).unwrap();
    };
    let outcome = run(task, recipe, &whole(recipe), options, watch);
    (outcome, told.iter().collect())
}

fn warnings(events: &[Event]) -> Vec<&Warning> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Warning(warning) => Some(warning),
            _ => None,
        })
        .collect()
}

fn weight(run: &Path) -> Vec<u8> {
    fs::read(run.join("model/weight")).unwrap()
}

fn checkpoints(run: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_run_that_saves_nothing_leaves_its_logs_alone() {
    let (folder, stop) = (tempfile::tempdir().unwrap(), Interrupter::new());
    let (out, recipe) = (folder.path().join("run"), recipe());
    let device = Device::flex();
    let options = RunOptions { saves: false, ..RunOptions::new(&device, &out, &stop) };
    let outcome = run(slope(&[]), &recipe, &recipe, options, |_: &Event| ()).unwrap();
    assert_eq!(outcome, Outcome::Finished);
    assert!(out.join("metrics.jsonl").exists() && !out.join("model").exists() && !out.join("best").exists());
    let saved = fs::read_dir(out.join("checkpoints")).map_or(0, Iterator::count);
    assert_eq!(saved, 0);
}

#[test]
fn a_step_that_is_not_finite_changes_nothing_and_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (outcome, events) = train(slope(&[5, 6, 9]), &recipe(), &out, false, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let in_a_row: Vec<usize> = warnings(&events)
        .iter()
        .map(|warning| match warning {
            Warning::Skipped { in_a_row, .. } => *in_a_row,
            other => panic!("{other}"),
        })
        .collect();
    assert_eq!(in_a_row, [1, 2, 1]);
    assert!(warnings(&events)[0].to_string().starts_with("step 6 is skipped"));
    let skipped = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        skipped.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["step"], &lines[0]["loss"]), (3, &6.into(), &"NaN".into()));
    assert_eq!(lines[0]["items"], serde_json::json!([20, 21, 22, 23]));
    let weight = f32::from_le_bytes(weight(&out).try_into().unwrap());
    assert!(weight.is_finite(), "{weight}");
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(metrics.lines().rev().nth(1).unwrap()).unwrap();
    assert_eq!(last["skipped"], 3.0);

    let stopped = folder.path().join("stopped");
    let (outcome, _) = train(slope(&[3, 6, 7, 8]), &recipe(), &stopped, false, None);
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("step 9") && error.contains("3 times in a row"), "{error}");
    // The count goes on where it was; what was recorded after the checkpoint is recorded once.
    let (outcome, _) = train(slope(&[3, 6, 7, 8]), &recipe(), &stopped, true, None);
    assert!(matches!(outcome, Err(Error::NotFinite { step: 9, times: 3 })));
    assert_eq!(fs::read_to_string(stopped.join("skipped.jsonl")).unwrap().lines().count(), 4);
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("run"));
    train(slope(&[]), &recipe(), &whole, false, None).0.unwrap();
    for file in ["model.bpk", "optimizer.bpk", "schedule.bpk", "state.ron", "SHA256SUMS"] {
        let out = out.with_extension(file);
        let (outcome, _) = train(slope(&[]), &recipe(), &out, false, Some(8));
        assert_eq!(outcome.unwrap(), Outcome::Interrupted(8));
        assert_eq!(checkpoints(&out), ["step-00000006", "step-00000008"]);
        // One bit, of the same length.
        let path = out.join("checkpoints/step-00000008").join(file);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let (outcome, events) = train(slope(&[]), &recipe(), &out, true, None);
        assert_eq!(outcome.unwrap(), Outcome::Finished);
        let [Warning::Damaged { path, .. }] = warnings(&events)[..] else { panic!("{events:?}") };
        assert!(path.ends_with("step-00000008.damaged"), "{}", path.display());
        assert!(matches!(events[1], Event::Started { step: 6, .. }), "{events:?}");
        assert_eq!(weight(&out), weight(&whole), "{file}");
    }
    // One that cannot be read is not damaged: another try may read it.
    let (outcome, _) = train(slope(&[]), &recipe(), &out.with_extension("unread"), false, Some(3));
    assert_eq!(outcome.unwrap(), Outcome::Interrupted(4));
    let unread = out.with_extension("unread");
    let sums = unread.join("checkpoints/step-00000004/SHA256SUMS");
    fs::rename(&sums, folder.path().join("sums")).unwrap();
    fs::create_dir(&sums).unwrap();
    let error = train(slope(&[]), &recipe(), &unread, true, None).0.unwrap_err().to_string();
    assert!(error.contains("SHA256SUMS"), "{error}");
    fs::remove_dir(&sums).unwrap();
    fs::rename(folder.path().join("sums"), &sums).unwrap();
    let (outcome, events) = train(slope(&[]), &recipe(), &unread, true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert!(matches!(events[0], Event::Started { step: 4, .. }), "{events:?}");
    // All of them damaged.
    let (outcome, _) = train(slope(&[]), &recipe(), &out, false, Some(3));
    assert_eq!(outcome.unwrap(), Outcome::Interrupted(4));
    for step in ["step-00000003", "step-00000004"] {
        fs::remove_file(out.join("checkpoints").join(step).join("model.bpk")).unwrap();
    }
    let error = train(slope(&[]), &recipe(), &out, true, None).0.unwrap_err().to_string();
    assert!(error.contains("no checkpoint to resume: all checkpoints are damaged; best/"), "{error}");
    // What is left of that run is not made anew over.
    let log = fs::read(out.join("metrics.jsonl")).unwrap();
    let error = train(slope(&[]), &recipe(), &out, false, None).0.unwrap_err().to_string();
    assert!(
        error.contains("all checkpoints are damaged") && error.contains("take another folder"),
        "{error}"
    );
    assert!(out.join("best/weight").exists());
    assert_eq!(fs::read(out.join("metrics.jsonl")).unwrap(), log);
}

#[test]
fn models_of_a_run_without_checkpoints_are_not_taken_for_this_ones() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let whole = train(slope(&[]), &recipe(), &out, false, None).0.unwrap();
    assert_eq!(whole, Outcome::Finished);
    fs::remove_dir_all(out.join("checkpoints")).unwrap();
    // Of the finished run itself nothing is removed either.
    let error = train(slope(&[]), &recipe(), &out, false, None).0.unwrap_err().to_string();
    assert!(error.contains("model/ of this run, which is finished"), "{error}");
    assert!(out.join("best/weight").exists());
    fs::remove_file(out.join("lock")).unwrap();
    let other = Optimization { seed: 99, ..recipe() };
    for name in ["model", "best"] {
        let error = train(slope(&[]), &other, &out, false, None).0.unwrap_err().to_string();
        assert!(error.contains(&format!("{name}/ of another run")), "{error}");
        if name == "model" {
            fs::remove_dir_all(out.join(name)).unwrap();
        }
    }
    assert!(!out.join("lock").exists(), "no lock is left beside what is refused");
    // What the same run left that was killed before its first checkpoint is made again, saved as often as may be.
    fs::write(out.join("best/old"), "").unwrap();
    let oftener = Optimization { checkpoint_every: 2, ..recipe() };
    train(slope(&[]), &oftener, &out, false, None).0.unwrap();
    assert!(out.join("best/weight").exists() && !out.join("best/old").exists());
}

#[test]
fn a_folder_of_something_else_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("run.json", "{\"version\": 1}"),
        ("metrics.jsonl", "{\"task\": 1}"),
        ("skipped.jsonl", "{\"step\": 1}"),
        ("manifest.json", "{}"),
    ] {
        let out = folder.path().join(name.replace('.', "-"));
        fs::create_dir(&out).unwrap();
        fs::write(out.join(name), text).unwrap();
        let error = train(slope(&[]), &recipe(), &out, false, None).0.unwrap_err().to_string();
        assert!(error.contains(&format!("holds {name}, which is no training's")), "{error}");
        assert_eq!(fs::read_to_string(out.join(name)).unwrap(), text);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "no lock is left beside it");
    }
    // A lock that is somebody else's, and what is named like an unfinished file.
    let out = folder.path().join("beside");
    let notes = ["lock", "checkpoints/notes.7.tmp", "samples/notes.7.tmp"].map(|name| out.join(name));
    train(slope(&[]), &recipe(), &out, false, Some(4)).0.unwrap();
    fs::create_dir(out.join("samples")).unwrap();
    notes.iter().for_each(|path| fs::write(path, "notes").unwrap());
    train(slope(&[]), &recipe(), &out, true, None).0.unwrap();
    notes.iter().for_each(|path| assert_eq!(fs::read_to_string(path).unwrap(), "notes"));
    // Of a run that ended before its first checkpoint.
    let out = folder.path().join("again");
    train(slope(&[]), &recipe(), &out, false, Some(1)).0.unwrap();
    fs::remove_dir_all(out.join("checkpoints")).unwrap();
    train(slope(&[]), &recipe(), &out, false, None).0.unwrap();
}

#[test]
fn what_a_killed_process_left_is_removed_and_the_newest_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(slope(&[]), &recipe(), &out, false, Some(4)).0.unwrap();
    fs::create_dir(out.join("checkpoints/step-00000005.77.tmp")).unwrap();
    fs::write(out.join("checkpoints/step-00000005.77.tmp/model.bpk"), "half").unwrap();
    fs::write(out.join("metrics.jsonl.77.tmp"), "half").unwrap();
    fs::write(out.join("notes.77.tmp"), "somebody else's").unwrap();
    fs::create_dir(out.join("samples")).unwrap();
    fs::write(out.join("samples/step-00000004.png.77.tmp"), "half").unwrap();
    // Killed while the only checkpoint was replaced, where folders cannot change places.
    fs::remove_dir_all(out.join("checkpoints/step-00000003")).unwrap();
    let [step, aside] =
        ["step-00000004", "step-00000004.old.tmp"].map(|name| out.join("checkpoints").join(name));
    fs::rename(step, aside).unwrap();
    let again = train(slope(&[]), &recipe(), &out, false, None).0.unwrap_err().to_string();
    assert!(again.contains("holds a run already"), "{again}");
    train(slope(&[]), &recipe(), &out, true, None).0.unwrap();
    assert_eq!(checkpoints(&out), ["step-00000009", "step-00000012"]);
    assert!(!out.join("metrics.jsonl.77.tmp").exists() && out.join("notes.77.tmp").exists());
    assert_eq!(fs::read_dir(out.join("samples")).unwrap().count(), 0);
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("run"));
    train(slope(&[]), &recipe(), &whole, false, None).0.unwrap();
    train(slope(&[]), &recipe(), &out, false, Some(4)).0.unwrap();
    let (outcome, events) = train_blocking(&out);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    let [warning @ Warning::NotSaved { step: 6, newest: Some(4), .. }] = warnings(&events)[..] else {
        panic!("{events:?}")
    };
    let said = warning.to_string();
    assert!(
        said.starts_with("checkpoint NOT SAVED after 6 steps: ") && said.contains("; training goes on"),
        "{said}"
    );
    assert_eq!(weight(&out), weight(&whole));
}

#[test]
fn what_was_learnt_before_a_validation_that_fails_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, out) = (folder.path().join("whole"), folder.path().join("run"));
    train(slope(&[]), &recipe(), &whole, false, None).0.unwrap();
    let failing = Slope { measures: false, ..slope(&[]) };
    let error = train(failing, &recipe(), &out, false, None).0.unwrap_err().to_string();
    assert!(error.contains("measures nothing"), "{error}");
    assert_eq!(checkpoints(&out), ["step-00000003", "step-00000004"]);
    // The validation is taken when the run goes on, at its last step too.
    let (outcome, events) = train(slope(&[]), &recipe(), &out, true, None);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert_eq!(weight(&out), weight(&whole));
    let validated = |events: &[Event]| -> Vec<usize> {
        let step = |event: &Event| match event {
            Event::Validated(line) => Some(line.step),
            _ => None,
        };
        events.iter().filter_map(step).collect()
    };
    assert_eq!(validated(&events), [4, 8, 12]);

    let (out, once) = (folder.path().join("last"), Optimization { validate_every: 12, ..recipe() });
    let failing = Slope { measures: false, ..slope(&[]) };
    assert!(train(failing, &once, &out, false, None).0.is_err() && !out.join("best").exists());
    let (outcome, events) = train(slope(&[]), &once, &out, true, None);
    assert_eq!((outcome.unwrap(), validated(&events)), (Outcome::Finished, vec![12]));
    assert!(out.join("best").exists() && out.join("model").exists());
    // Once is enough.
    let (outcome, events) = train(slope(&[]), &once, &out, true, None);
    assert_eq!((outcome.unwrap(), validated(&events)), (Outcome::Finished, vec![]));
}

/// Resumes a run in which a file stands where the checkpoint of step 6 is to be written.
fn train_blocking(out: &Path) -> (Result<Outcome, Error>, Vec<Event>) {
    let (device, stop, recipe) = (Device::flex(), Interrupter::new(), recipe());
    let options = RunOptions { resume: true, ..RunOptions::new(&device, out, &stop) };
    let (tell, told) = mpsc::channel();
    let place = out.join("checkpoints/step-00000006");
    let watch = move |event: &Event| {
        match event {
            Event::Started { .. } => fs::write(&place, "in the way").unwrap(),
            Event::Warning(_) => fs::remove_file(&place).unwrap(),
            _ => (),
        }
        tell.send(event.clone()).unwrap();
    };
    let outcome = run(slope(&[]), &recipe, &whole(&recipe), options, watch);
    (outcome, told.iter().collect())
}

#[test]
fn a_run_goes_on_with_its_own_recipe_and_data_only() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let missing = train(slope(&[]), &recipe(), &out, true, None).0.unwrap_err().to_string();
    assert!(missing.contains("no checkpoint to resume"), "{missing}");
    assert!(!out.exists(), "nothing to resume, nothing left");
    train(slope(&[]), &recipe(), &out, false, Some(4)).0.unwrap();
    let again = train(slope(&[]), &recipe(), &out, false, None).0.unwrap_err().to_string();
    assert!(again.contains("--resume"), "{again}");
    let other = Optimization { peak_learning_rate: 0.02, ..recipe() };
    let error = train(slope(&[]), &other, &out, true, None).0.unwrap_err().to_string();
    assert!(error.contains("`recipe.optimization.peak_learning_rate` was 0.01, and is 0.02 now"), "{error}");
    let other = Slope { data: "other", ..slope(&[]) };
    let error = train(other, &recipe(), &out, true, None).0.unwrap_err().to_string();
    assert!(error.contains("`data.train`"), "{error}");
    // Samples of steps that are lost are not taken for the newest.
    let samples = ["step-00000004.png", "step-00000008.png"].map(|name| out.join("samples").join(name));
    fs::create_dir(out.join("samples")).unwrap();
    samples.iter().for_each(|path| fs::write(path, "").unwrap());
    let oftener = Optimization { log_every: 3, ..recipe() };
    assert_eq!(train(slope(&[]), &oftener, &out, true, None).0.unwrap(), Outcome::Finished);
    assert_eq!(samples.map(|path| path.exists()), [true, false]);
    let described = fs::read_to_string(out.join("run.json")).unwrap();
    assert!(described.contains("\"log_every\": 3"), "{described}");
}

#[test]
fn a_figure_that_was_not_named_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let loud = Slope { tells: "volume", ..slope(&[]) };
    let error = train(loud, &recipe(), folder.path(), false, None).0.unwrap_err();
    assert!(matches!(&error, Error::Figure(name) if name == "volume"), "{error}");
}

#[test]
fn a_folder_takes_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let _held = lock(folder.path()).unwrap();
    let error = train(slope(&[]), &recipe(), folder.path(), false, None).0.unwrap_err().to_string();
    assert!(error.contains("another process"), "{error}");
}

/// Elsewhere a folder stays where it is while a file of it is open.
#[cfg(unix)]
#[test]
fn a_run_whose_folder_is_gone_ends_and_does_not_make_it_anew() {
    type Moment = fn(&Event) -> bool;
    let moments: [(&str, Moment); 3] = [
        ("before the first checkpoint", |event| matches!(event, Event::Trained(line) if line.step == 2)),
        ("behind a model", |event| matches!(event, Event::Best { step: 4, .. })),
        ("before the trained model", |event| matches!(event, Event::Saved { step: 12, .. })),
    ];
    for (name, is_it) in moments {
        let (folder, stop, device) = (tempfile::tempdir().unwrap(), Interrupter::new(), Device::flex());
        let (out, recipe) = (folder.path().join("run"), recipe());
        let removed = out.clone();
        let watch = move |event: &Event| {
            if is_it(event) {
                fs::remove_dir_all(&removed).unwrap();
            }
        };
        let options = RunOptions::new(&device, &out, &stop);
        let error = run(slope(&[]), &recipe, &whole(&recipe), options, watch).unwrap_err().to_string();
        assert!(error.contains("lock: was removed or replaced"), "{name}: {error}");
        assert!(!out.exists(), "{name}");
    }
}

/// Removes the folder when a checkpoint is on disk, as another run takes its place; draws into it.
#[cfg(unix)]
struct Replacing {
    out: std::path::PathBuf,
    at: usize,
}

#[cfg(unix)]
impl Watcher<Linear> for Replacing {
    fn event(&mut self, event: &Event) {
        if matches!(event, Event::Saved { step, .. } if *step == self.at) {
            fs::remove_dir_all(&self.out).unwrap();
            atomic::write_bytes(&self.out.join("lock"), b"another's").unwrap();
        }
    }

    fn draw(&mut self, step: usize, _: &Linear) -> Result<(), Error> {
        Ok(atomic::write_bytes(&self.out.join("samples").join(step.to_string()), b"drawn")?)
    }
}

#[cfg(unix)]
#[test]
fn a_run_writes_nothing_into_the_folder_that_another_has_in_its_place() {
    for (what, at, draw_every, validate_every) in
        [("samples", 3, 1, 12), ("best/", 3, 0, 4), ("a checkpoint", 3, 0, 12), ("model/", 12, 0, 12)]
    {
        let (folder, stop, device) = (tempfile::tempdir().unwrap(), Interrupter::new(), Device::flex());
        let out = folder.path().join("run");
        let recipe = Optimization { draw_every, validate_every, log_every: 12, ..recipe() };
        let watcher = Replacing { out: out.clone(), at };
        let options = RunOptions::new(&device, &out, &stop);
        let error = run(slope(&[]), &recipe, &whole(&recipe), options, watcher).unwrap_err().to_string();
        assert!(error.contains("was removed or replaced"), "{what}: {error}");
        assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "{what}: there is more than the other's lock");
    }
}

#[test]
fn older_checkpoints_go_when_a_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    train(slope(&[]), &recipe(), &out, false, None).0.unwrap();
    // Killed while the older ones were removed.
    fs::create_dir_all(out.join("checkpoints/step-00000003")).unwrap();
    fs::create_dir_all(out.join("checkpoints/step-00000006.77.tmp")).unwrap();
    train(slope(&[]), &recipe(), &out, true, None).0.unwrap();
    assert_eq!(checkpoints(&out), ["step-00000009", "step-00000012"]);
    let fewer = Optimization { keep: 1, ..recipe() };
    train(slope(&[]), &fewer, &out, true, None).0.unwrap();
    assert_eq!(checkpoints(&out), ["step-00000012"]);
}

#[test]
fn the_best_model_is_that_of_the_best_validation() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // A rate that overshoots: the last validation is not the best.
    let recipe = Optimization { peak_learning_rate: 1.0, validate_every: 1, steps: 40, ..recipe() };
    let (_, events) = train(slope(&[]), &recipe, &out, false, None);
    let errors: Vec<f64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Validated(line) => Some(line.figures["validation_error"]),
            _ => None,
        })
        .collect();
    let lowest = errors.iter().copied().fold(f64::INFINITY, f64::min);
    let best = f32::from_le_bytes(fs::read(out.join("best/weight")).unwrap().try_into().unwrap());
    assert_eq!((f64::from(best) - 3.0).abs(), lowest);
    assert!(errors[errors.len() - 1] > lowest, "{errors:?}");
    let told = events.iter().rev().find_map(|event| match event {
        Event::Best { score, .. } => Some(*score),
        _ => None,
    });
    assert_eq!(told, Some(lowest));
}
