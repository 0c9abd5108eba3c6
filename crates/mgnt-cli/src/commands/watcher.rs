//! Who looks on at a training: the terminal, TensorBoard's event file, sample grids.

use std::path::{Path, PathBuf};

use mgnt_train::watch::{EventFile, SAMPLES, sample_file};
use mgnt_train::{Error, Event, Line, Watcher};
use mgnt_weights::atomic;

use crate::output::canvas::Canvas;
use crate::output::dashboard::Dashboard;

/// Draws samples of a model.
pub type Draw<M> = Box<dyn Fn(&M) -> anyhow::Result<Canvas> + Send>;

/// Looks on at a run, and leaves `tensorboard/` and `samples/` in its folder.
pub struct RunWatcher<M> {
    out: PathBuf,
    dashboard: Dashboard,
    events: Option<EventFile>,
    draw: Option<Draw<M>>,
}

impl<M> RunWatcher<M> {
    /// Of the run in `out`, whose samples `draw` makes.
    pub fn new(out: &Path, draw: Option<Draw<M>>) -> Self {
        Self { out: out.into(), dashboard: Dashboard::new(), events: None, draw }
    }

    /// Writes to the event file, if there is one; a failure is said once.
    fn record(&mut self, write: impl FnOnce(&mut EventFile) -> Result<(), Error>) {
        if let Some(events) = &mut self.events
            && let Err(error) = write(events)
        {
            self.dashboard.say(&format!("warning: nothing more goes to TensorBoard: {error}"));
            self.events = None;
        }
    }
}

impl<M> Watcher<M> for RunWatcher<M> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Started { step, steps, .. } => {
                if *step > 0 {
                    self.dashboard.say(&format!("going on after step {step} of {steps}"));
                }
                self.dashboard.started(*step, *steps);
                match EventFile::create(&self.out.join("tensorboard"), *step) {
                    Ok(events) => self.events = Some(events),
                    Err(error) => {
                        self.dashboard.say(&format!("warning: nothing goes to TensorBoard: {error}"));
                    }
                }
            }
            Event::Trained(line) => {
                self.dashboard.trained(line);
                self.record(|events| events.scalars(line.step, &scalars(line)));
            }
            Event::Validated(line) => {
                self.dashboard.validated(line);
                self.record(|events| events.scalars(line.step, &scalars(line)));
            }
            Event::Saved { step, .. } => self.dashboard.saved(*step),
            Event::Best { step, score } => {
                self.dashboard.say(&format!("step {step}: the best so far, {score:.4}"));
            }
            Event::Warning(warning) => self.dashboard.say(&format!("warning: {warning}")),
        }
    }

    fn draw(&mut self, step: usize, average: &M) -> Result<(), Error> {
        let Some(draw) = &self.draw else { return Ok(()) };
        let path = self.out.join(SAMPLES).join(sample_file(step));
        let failed = |error: anyhow::Error| Error::Run { path: path.clone(), reason: format!("{error:#}") };
        let canvas = draw(average).map_err(failed)?;
        let (width, height) = (canvas.width(), canvas.height());
        let png = canvas.into_picture().and_then(|picture| Ok(picture.to_png()?)).map_err(failed)?;
        atomic::write_bytes(&path, &png)?;
        self.record(|events| events.picture(step, "samples", &png, width, height));
        Ok(())
    }
}

/// The numbers of a line under TensorBoard's tags.
fn scalars(line: &Line) -> Vec<(String, f64)> {
    let pace = [
        ("learning_rate", line.learning_rate),
        ("seconds_a_step", line.seconds_a_step),
        ("tokens_a_second", line.tokens_a_second),
        ("memory_gib", line.memory.map(|bytes| bytes as f64 / f64::from(1 << 30))),
    ];
    let pace = pace.into_iter().filter_map(|(name, value)| Some((format!("pace/{name}"), value?)));
    let tag = |name: &str| match name.strip_prefix("validation_") {
        Some(name) => format!("held_out/{name}"),
        None => format!("training/{name}"),
    };
    line.figures.iter().map(|(name, value)| (tag(name), *value)).chain(pace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(figures: &[(&str, f64)]) -> Line {
        Line {
            step: 7,
            steps: 9,
            time: 0.0,
            learning_rate: Some(0.5),
            seconds_a_step: None,
            tokens_a_second: None,
            memory: Some(1 << 30),
            figures: figures.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
        }
    }

    #[test]
    fn tags_are_grouped() {
        let scalars = scalars(&line(&[("loss_p4", 2.0), ("validation_psnr", 20.0)]));
        let expected = [
            ("training/loss_p4", 2.0),
            ("held_out/psnr", 20.0),
            ("pace/learning_rate", 0.5),
            ("pace/memory_gib", 1.0),
        ];
        assert_eq!(scalars, expected.map(|(tag, value)| (tag.to_owned(), value)));
    }

    #[test]
    fn samples_and_events_are_left_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let draw: Draw<usize> = Box::new(|side| Ok(Canvas::new(*side, 2, [9; 3])));
        let mut watcher = RunWatcher::new(folder.path(), Some(draw));
        watcher.event(&Event::Started { step: 0, steps: 9, samples_a_step: 1, tokens_a_step: 1 });
        watcher.event(&Event::Trained(line(&[("loss", 1.0)])));
        let events = std::fs::read_dir(folder.path().join("tensorboard")).unwrap().next().unwrap().unwrap();
        let before = events.metadata().unwrap().len();
        watcher.draw(7, &5).unwrap();
        let picture = mgnt_data::Picture::open(&folder.path().join("samples/step-00000007.png")).unwrap();
        assert_eq!((picture.width(), picture.height()), (5, 2));
        assert!(std::fs::metadata(events.path()).unwrap().len() > before);
    }

    #[test]
    fn a_failed_grid_is_an_error_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let draw: Draw<usize> = Box::new(|_| anyhow::bail!("no memory"));
        let error = RunWatcher::new(folder.path(), Some(draw)).draw(7, &5).unwrap_err().to_string();
        assert!(error.contains("step-00000007.png") && error.contains("no memory"), "{error}");
    }
}
