//! Burn's metrics, told to the run's logs and its watcher.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, MetricLogger, TrainingProgressLogger};
use burn::train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn::train::metric::{LearningRateMetric, Metric, MetricDefinition, MetricId, MetricName, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining,
};

use crate::task::Figures;
use crate::teller::Teller;

/// Gathers the figures of a step or a validation, and tells them when it is done.
pub(crate) struct Renderer<M> {
    teller: Arc<Mutex<Teller<M>>>,
    names: HashMap<MetricId, MetricName>,
    rate: MetricName,
    learning_rate: f64,
    figures: Figures,
    validates: bool,
}

impl<M> Renderer<M> {
    pub fn new(teller: Arc<Mutex<Teller<M>>>) -> Self {
        Self {
            teller,
            names: HashMap::new(),
            rate: LearningRateMetric::new().name(),
            learning_rate: 0.0,
            figures: Vec::new(),
            validates: false,
        }
    }

    fn gather(&mut self, state: MetricState) {
        // Burn tells the mean over an epoch too, which begins where a run is resumed: no figure of ours.
        let MetricState::Numeric(entry, Some(value)) = state else { return };
        if matches!(value, NumericEntry::Final(_)) {
            return;
        }
        match self.names.get(&entry.metric_id) {
            Some(name) if *name == self.rate => self.learning_rate = value.current(),
            Some(name) => self.figures.push((name.to_string(), value.current())),
            None => (),
        }
    }
}

impl<M: 'static> MetricsRendererTraining for Renderer<M> {
    fn update_train(&mut self, state: MetricState) {
        self.gather(state);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.gather(state);
    }

    fn on_train_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn std::error::Error>> {
        Ok(())
    }
}

impl<M: 'static> TrainingProgressLogger for Renderer<M> {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}

    fn update_epoch(&mut self, _: usize) {}

    fn start_split(&mut self, split: &str, _: usize) {
        self.validates = split == <&str>::from(Split::Valid);
    }

    /// All metrics of an item are told before this.
    fn update_split(&mut self, _: usize) {
        let figures = std::mem::take(&mut self.figures);
        let mut teller = self.teller.lock().unwrap_or_else(PoisonError::into_inner);
        if self.validates {
            teller.validated(figures);
        } else {
            teller.trained(self.learning_rate, figures);
        }
    }

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _: String) {}
}

impl<M: 'static> MetricsRenderer for Renderer<M> {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.names.insert(definition.metric_id, definition.name);
    }
}

// A training evaluates nothing by Burn's evaluator.
impl<M: 'static> MetricsRendererEvaluation for Renderer<M> {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl<M: 'static> EvaluationProgressLogger for Renderer<M> {
    fn start_global_progress(&mut self, _: usize) {}

    fn start_test(&mut self, _: &str, _: usize) {}

    fn update_test_progress(&mut self, _: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _: String) {}
}

/// In place of Burn's logs of a file a metric and epoch: `metrics.jsonl` has them all.
pub(crate) struct Elsewhere;

impl MetricLogger for Elsewhere {
    fn log(&mut self, _: MetricsUpdate, _: usize, _: &Split) {}

    fn read_numeric(&mut self, _: &str, _: usize, _: &Split) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, _: MetricDefinition) {}

    fn log_epoch_summary(&mut self, _: EpochSummary) {}
}
