//! The loop: Burn's custom strategy that counts steps instead of epochs.

use std::panic;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use burn::data::dataloader::Progress as Place;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::train::metric::store::EventStoreClient;
use burn::train::{
    EventProcessorTraining, InferenceStep, Interrupter, Learner, LearnerEvent, LearningCheckpointer,
    SupervisedLearningStrategy, SupervisedTrainingEventProcessor, TrainLoader, TrainOutput,
    TrainingComponents, TrainingItem, ValidLoader,
};
use mgnt_weights::atomic::Lock;

use super::trainee::Output;
use super::{Stage, Told, Trainee};
use crate::checkpoint::{Checkpoints, Progress, Record};
use crate::event::{Event, Warning};
use crate::task::Task;
use crate::teller::Teller;
use crate::{Error, Optimization, Outcome};

type Processor<T> = SupervisedTrainingEventProcessor<Trainee<<T as Task>::Model>>;

/// Trains a task step by step. An epoch, for Burn, is what lies between two validations.
pub(crate) struct StepCounted<T: Task> {
    pub stage: Arc<Stage<T>>,
    pub optimization: Optimization,
    pub out: PathBuf,
    /// Of the folder: held until the run ends, and looked at before anything is written there.
    pub lock: Lock,
    /// Where a run is saved, if it is.
    pub checkpoints: Option<Checkpoints>,
    /// What Burn's checkpointer hands over.
    pub records: Mutex<Receiver<Record>>,
    pub teller: Arc<Mutex<Teller<T::Model>>>,
    /// Names of all figures of a step, and of a validation.
    pub figures: Vec<String>,
    pub validated: Vec<String>,
    /// Where the run begins.
    pub begins: Progress,
    /// What came of the run, once it has ended: a strategy returns a model only.
    pub outcome: Mutex<Option<Result<Outcome, Error>>>,
}

/// What Burn hands to a strategy, as far as the loop takes it.
struct Components<'a, T: Task> {
    learner: Learner<Trainee<T::Model>>,
    processor: Processor<T>,
    checkpointer: Option<LearningCheckpointer<Trainee<T::Model>>>,
    interrupter: Interrupter,
    store: Arc<EventStoreClient>,
    train: &'a TrainLoader<Trainee<T::Model>>,
    valid: &'a ValidLoader<Trainee<T::Model>>,
}

impl<T: Task> SupervisedLearningStrategy<Trainee<T::Model>> for StepCounted<T> {
    fn fit(
        &self,
        components: TrainingComponents<Trainee<T::Model>>,
        learner: Learner<Trainee<T::Model>>,
        train: TrainLoader<Trainee<T::Model>>,
        valid: ValidLoader<Trainee<T::Model>>,
        _: usize,
    ) -> (Trainee<T::Model>, Processor<T>) {
        let mut components = Components::<T> {
            learner,
            processor: components.event_processor,
            checkpointer: components.checkpointer,
            interrupter: components.interrupter,
            store: components.event_store,
            train: &train,
            valid: &valid,
        };
        let outcome = self.run(&mut components);
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        (components.learner.model(), components.processor)
    }
}

impl<T: Task> Components<'_, T> {
    fn tell_train(&mut self, event: LearnerEvent<Output>) {
        self.interrupter.fail_on_error(self.processor.process_train(event));
    }

    fn tell_valid(&mut self, event: LearnerEvent<Output>) {
        self.interrupter.fail_on_error(self.processor.process_valid(event));
    }

    /// Waits until all that was told is heard.
    fn flush(&mut self) {
        self.interrupter.fail_on_error(self.processor.flush());
    }
}

impl<T: Task> StepCounted<T> {
    fn run(&self, components: &mut Components<T>) -> Result<Outcome, Error> {
        let Optimization { steps, log_every, validate_every, draw_every, checkpoint_every, .. } =
            self.optimization;
        let mut progress = self.begins.clone();
        let remaining = components.train.slice(progress.step, steps);
        let mut walk = remaining.iter();
        let mut begins = true;
        if std::mem::take(&mut progress.unvalidated) {
            let epoch = progress.step.div_ceil(validate_every);
            self.validate(components, &mut progress, epoch)?;
            // So that it is not taken once more.
            self.save(components, &mut progress, false)?;
        }
        while let Some(item) = walk.next() {
            let epoch = progress.step / validate_every + 1;
            if begins {
                let total_items =
                    (validate_every - progress.step % validate_every).min(steps - progress.step);
                components.tell_train(LearnerEvent::StartSplit { epoch_number: epoch, total_items });
            }
            let item = item.map_err(|e| Error::Learner(e.to_string()))?;
            let TrainOutput { grads, item: Output(told) } = components.learner.train_step(item);
            let told = self.learn(components, &mut progress, grads, told?)?;
            self.hear(components, told, walk.progress(), progress.step)?;

            let done = progress.step;
            let last = done == steps;
            if done.is_multiple_of(log_every) || last {
                // What the watcher answers counts for this step.
                drop(self.teller(components));
                // What is learnt from here on could be saved nowhere.
                self.lock.check()?;
            }
            begins = done.is_multiple_of(validate_every) || last;
            if begins {
                components.tell_train(LearnerEvent::EndSplit(epoch));
                let validated = self.validate(components, &mut progress, epoch);
                drop(self.teller(components));
                if let Err(error) = validated {
                    // What was learnt until here need not be lost with it.
                    progress.unvalidated = true;
                    self.save(components, &mut progress, false)?;
                    return Err(error);
                }
                components.tell_train(LearnerEvent::EndEpoch(epoch));
            }
            if draw_every > 0 && done.is_multiple_of(draw_every) {
                self.lock.check()?;
                let average = components.learner.model().average;
                self.teller(components).draw(done, &average);
            }
            let stopped = components.interrupter.should_stop();
            if done.is_multiple_of(checkpoint_every) || last || stopped {
                self.save(components, &mut progress, stopped && !last)?;
            }
            if let Some(error) = components.interrupter.error() {
                return Err(Error::Learner(error.to_string()));
            }
            if stopped && !last {
                return Ok(Outcome::Interrupted(done));
            }
        }
        Ok(Outcome::Finished)
    }

    /// Changes the model by a step's gradients, or not where they are not finite.
    fn learn(
        &self,
        components: &mut Components<T>,
        progress: &mut Progress,
        gradients: GradientsParams,
        mut told: Told,
    ) -> Result<Told, Error> {
        let step = progress.step;
        let figures = Arc::make_mut(&mut told.figures);
        let extras = self.stage.take_extras();
        components.learner.lr_step();
        if told.loss.is_finite() && told.gradient_norm.is_finite() {
            components.learner.optimizer_step(gradients);
            let trainee = components.learner.model();
            let (changed, numbers) = self.stage.task_mut().between(&trainee.model, step, extras)?;
            if let Some(model) = changed {
                components.learner.load_model(trainee.with_model(model).into_record());
            }
            figures.extend(numbers);
            progress.skipped_in_a_row = 0;
        } else {
            progress.skipped += 1;
            progress.skipped_in_a_row += 1;
            let (in_a_row, limit) = (progress.skipped_in_a_row, self.optimization.not_finite_limit);
            let items = self.stage.task().items(step);
            // Who reads it counts from 1, as lines of the log do.
            let number = step + 1;
            self.teller(components).skipped(number, told.loss, told.gradient_norm, in_a_row, limit, items);
            // A resume may have a lower limit than the run so far.
            if in_a_row >= limit {
                return Err(Error::NotFinite { step: number, times: in_a_row });
            }
        }
        progress.step += 1;
        figures.extend([("loss".to_owned(), told.loss), ("gradient_norm".to_owned(), told.gradient_norm)]);
        if progress.skipped > 0 {
            figures.push(("skipped".to_owned(), progress.skipped as f64));
        }
        Ok(told)
    }

    /// Gives the figures of a step to Burn's metrics.
    fn hear(
        &self,
        components: &mut Components<T>,
        told: Told,
        place: Place,
        step: usize,
    ) -> Result<(), Error> {
        check_names(&told, &self.figures)?;
        let rate = components.learner.lr_current();
        let item = TrainingItem::new(Output(Ok(told)), place, Some(step), Some(rate));
        components.tell_train(LearnerEvent::ProcessedItem(item));
        Ok(())
    }

    /// Validates the average, and keeps it where it is the best so far.
    fn validate(
        &self,
        components: &mut Components<T>,
        progress: &mut Progress,
        epoch: usize,
    ) -> Result<(), Error> {
        if self.validated.is_empty() {
            return Ok(());
        }
        components.tell_valid(LearnerEvent::StartSplit { epoch_number: epoch, total_items: 1 });
        let trainee = components.learner.model();
        let mut score = None;
        for item in components.valid.iter() {
            let item = item.map_err(|e| Error::Learner(e.to_string()))?;
            let Output(told) = InferenceStep::step(&trainee, item);
            let told = told?;
            check_names(&told, &self.validated)?;
            score = self.stage.task().score(&told.figures).filter(|score| score.is_finite());
            let item = TrainingItem::new(Output(Ok(told)), Place::new(1, 1, None), Some(progress.step), None);
            components.tell_valid(LearnerEvent::ProcessedItem(item));
        }
        components.tell_valid(LearnerEvent::EndSplit(epoch));
        let score = score.filter(|&score| progress.best.is_none_or(|best| score < best));
        let (Some(score), Some(checkpoints)) = (score, &self.checkpoints) else { return Ok(()) };
        self.lock.check()?;
        let exported = self.stage.task().export(&trainee.average, &self.out.join("best"));
        let mut teller = self.teller(components);
        match exported {
            Ok(()) => {
                progress.best = Some(score);
                teller.event(&Event::Best { step: progress.step, score });
                Ok(())
            }
            Err(error) => teller.not_saved("best/", progress.step, error, checkpoints),
        }
    }

    /// Writes a checkpoint. Where it cannot, training goes on, unless it is to stop here.
    fn save(
        &self,
        components: &mut Components<T>,
        progress: &mut Progress,
        stops: bool,
    ) -> Result<(), Error> {
        let Some(checkpoints) = &self.checkpoints else { return Ok(()) };
        self.lock.check()?;
        let step = progress.step;
        progress.memory = self.stage.task().memory();
        let clock = Instant::now();
        if let Some(checkpointer) = &mut components.checkpointer {
            checkpointer.checkpoint(&components.learner, step, &components.store);
        }
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = checkpoints.save(&records, progress);
        let took = clock.elapsed();
        let seconds = took.as_secs_f64();
        let mut teller = self.teller(components);
        teller.leave_out(took);
        match saved {
            Ok(()) => {
                teller.event(&Event::Saved { step, seconds });
                // The next one tries again, and a resume what is left of it.
                if let Err(error) = checkpoints.remove_older() {
                    teller.event(&Event::Warning(Warning::OlderStays { reason: error.to_string() }));
                }
            }
            Err(error) if stops => return Err(error),
            Err(error) => teller.not_saved("checkpoint", step, error, checkpoints)?,
        }
        Ok(())
    }

    /// The teller, once it has heard all that came before. A panic of the watcher goes on here.
    fn teller(&self, components: &mut Components<T>) -> MutexGuard<'_, Teller<T::Model>> {
        components.flush();
        let mut teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(panicked) = teller.panicked() {
            drop(teller);
            panic::resume_unwind(panicked);
        }
        teller
    }
}

/// Burn's metrics are made before the first step: what they do not know would be lost.
fn check_names(told: &Told, names: &[String]) -> Result<(), Error> {
    match told.figures.iter().find(|(name, _)| !names.contains(name)) {
        Some((name, _)) => Err(Error::Figure(name.clone())),
        None => Ok(()),
    }
}
