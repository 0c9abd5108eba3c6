//! The steps of a run as a Burn data loader: an item is a step's number, with what computes it.

use std::ops::Range;
use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::optim::GradientsParams;
use burn::tensor::Device;

use super::Told;
use crate::Error;
use crate::task::Figures;

/// Computes steps of a model. Batches are functions of a step's number, so none is handed on.
pub(crate) trait Compute<M>: Send + Sync {
    /// Clipped gradients of a step.
    fn train(&self, model: &M, step: usize) -> Result<(GradientsParams, Told), Error>;

    /// Figures of the averaged model on data that is not trained on.
    fn validate(&self, average: &M) -> Result<Figures, Error>;
}

/// A step that is to be computed.
pub(crate) struct Step<M> {
    /// 0-based.
    pub number: usize,
    pub of: Arc<dyn Compute<M>>,
}

/// A range of steps.
pub(crate) struct Steps<M> {
    pub of: Arc<dyn Compute<M>>,
    pub range: Range<usize>,
}

impl<M: 'static> DataLoader<Step<M>> for Steps<M> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<Step<M>> + 'a> {
        Box::new(Walk { steps: self, next: self.range.start })
    }

    fn num_items(&self) -> usize {
        self.range.len()
    }

    /// The steps choose their devices themselves.
    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<Step<M>>> {
        self.slice(0, self.range.len())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<Step<M>>> {
        let at = |item: usize| (self.range.start + item).min(self.range.end);
        Arc::new(Self { of: self.of.clone(), range: at(start)..at(end) })
    }
}

struct Walk<'a, M> {
    steps: &'a Steps<M>,
    next: usize,
}

impl<M> Iterator for Walk<'_, M> {
    type Item = Result<Step<M>, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.next;
        (number < self.steps.range.end).then(|| {
            self.next += 1;
            Ok(Step { number, of: self.steps.of.clone() })
        })
    }
}

impl<M> DataLoaderIterator<Step<M>> for Walk<'_, M> {
    fn progress(&self) -> Progress {
        let Range { start, end } = self.steps.range;
        Progress::new(self.next - start, end - start, Some("steps".into()))
    }
}
