//! A figure of a task as one of Burn's metrics.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry,
};

use crate::task::Figures;

/// The figure of one name; a step may go without it.
#[derive(Clone)]
pub(crate) struct Figure {
    name: MetricName,
    state: NumericMetricState,
    /// Whether the last step had it.
    told: bool,
}

impl Figure {
    pub fn new(name: &str) -> Self {
        Self { name: Arc::new(name.to_owned()), state: NumericMetricState::new(), told: false }
    }

    fn format(&self) -> FormatOptions {
        FormatOptions::new(self.name()).precision(4)
    }
}

impl Metric for Figure {
    type Input = Arc<Figures>;

    fn name(&self) -> MetricName {
        self.name.clone()
    }

    fn attributes(&self) -> MetricAttributes {
        NumericAttributes { unit: None, higher_is_better: false }.into()
    }

    fn update(
        &mut self,
        figures: &Arc<Figures>,
        _: &MetricMetadata,
    ) -> Result<SerializedEntry, TensorReadError> {
        let value = figures.iter().find(|(name, _)| *name == *self.name).map(|(_, value)| *value);
        self.told = value.is_some();
        let Some(value) = value else { return Ok(SerializedEntry::not_available(None)) };
        self.state.update(value, 1);
        Ok(self.state.compute_update(self.format()))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        Ok(self.state.compute_final(self.format()))
    }

    fn clear(&mut self) {
        self.state.reset();
        self.told = false;
    }
}

impl Numeric for Figure {
    fn value(&self) -> Option<NumericEntry> {
        self.told.then(|| self.state.current_value())
    }

    fn running_value(&self) -> Option<NumericEntry> {
        self.told.then(|| self.state.running_value())
    }

    fn final_value(&self) -> NumericEntry {
        self.state.final_value()
    }
}

#[cfg(test)]
mod tests {
    use burn::data::dataloader::Progress;

    use super::*;

    #[test]
    fn a_figure_is_told_as_it_is_and_averaged_over_an_epoch() {
        let metadata = MetricMetadata { progress: Progress::new(1, 1, None), iteration: None, lr: None };
        let figures = |value: f64| Arc::new(vec![("other".into(), 9.0), ("loss".to_owned(), value)]);
        let mut figure = Figure::new("loss");
        figure.update(&figures(0.1), &metadata).unwrap();
        assert_eq!(figure.value().map(|value| value.current()), Some(0.1));
        figure.update(&figures(0.5), &metadata).unwrap();
        let absent = figure.update(&Arc::new(vec![]), &metadata).unwrap();
        assert!(absent.is_not_available() && figure.value().is_none());
        assert!(
            matches!(figure.final_value(), NumericEntry::Final(mean) if (mean - 0.3).abs() < 1e-15),
            "{:?}",
            figure.final_value()
        );
        figure.clear();
        assert!(figure.value().is_none() && figure.running_value().is_none());
    }
}
