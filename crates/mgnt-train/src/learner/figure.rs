//! A figure of a task as one of Burn's metrics.

use std::sync::Arc;

use burn::tensor::TensorReadError;
use burn::train::metric::{
    Metric, MetricAttributes, MetricMetadata, MetricName, Numeric, NumericAttributes, NumericEntry,
    SerializedEntry, format_float,
};

use crate::task::Figures;

/// The figure of one name; a step may go without it.
#[derive(Clone)]
pub(crate) struct Figure {
    name: MetricName,
    last: Option<f64>,
    sum: f64,
    count: usize,
}

impl Figure {
    pub fn new(name: &str) -> Self {
        Self { name: Arc::new(name.to_owned()), last: None, sum: 0.0, count: 0 }
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
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
        self.last = figures.iter().find(|(name, _)| *name == *self.name).map(|(_, value)| *value);
        let Some(value) = self.last else { return Ok(SerializedEntry::not_available(None)) };
        self.sum += value;
        self.count += 1;
        let serialized = NumericEntry::Value(value).serialize();
        Ok(SerializedEntry::new(format_float(value, 4), serialized))
    }

    fn compute(&mut self) -> Result<SerializedEntry, TensorReadError> {
        if self.count == 0 {
            return Ok(SerializedEntry::not_available(None));
        }
        Ok(SerializedEntry::new(format_float(self.mean(), 4), self.final_value().serialize()))
    }

    fn clear(&mut self) {
        (self.last, self.sum, self.count) = (None, 0.0, 0);
    }
}

impl Numeric for Figure {
    fn value(&self) -> Option<NumericEntry> {
        self.last.map(NumericEntry::Value)
    }

    fn running_value(&self) -> Option<NumericEntry> {
        (self.count > 0)
            .then(|| NumericEntry::Aggregated { aggregated_value: self.mean(), count: self.count })
    }

    fn final_value(&self) -> NumericEntry {
        NumericEntry::Final(self.mean())
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
        assert!(matches!(figure.value(), Some(NumericEntry::Value(0.1))));
        figure.update(&figures(0.5), &metadata).unwrap();
        let absent = figure.update(&Arc::new(vec![]), &metadata).unwrap();
        assert!(absent.is_not_available() && figure.value().is_none());
        assert!(
            matches!(figure.final_value(), NumericEntry::Final(mean) if (mean - 0.3).abs() < 1e-15),
            "{:?}",
            figure.final_value()
        );
        figure.clear();
        assert!(figure.compute().unwrap().is_not_available() && figure.running_value().is_none());
    }
}
