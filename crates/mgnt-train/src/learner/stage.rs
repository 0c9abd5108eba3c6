//! A task with all that its steps are computed with.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use burn::optim::GradientsParams;

use super::Told;
use super::steps::Compute;
use crate::optimizer::{Updates, clip_global_norm};
use crate::part::{self, Computed, Workers};
use crate::task::{Figures, Task};
use crate::{Error, Optimization};

/// A task, and where its steps are computed.
pub(crate) struct Stage<T: Task> {
    task: RwLock<T>,
    optimization: Optimization,
    workers: Workers,
    /// Those of the optimizer.
    updates: Option<Updates>,
    /// What the parts of the last step left.
    extras: Mutex<Vec<T::Extra>>,
}

impl<T: Task> Stage<T> {
    pub fn new(task: T, optimization: &Optimization, workers: Workers, updates: Option<Updates>) -> Self {
        Self {
            task: RwLock::new(task),
            optimization: optimization.clone(),
            workers,
            updates,
            extras: Mutex::new(Vec::new()),
        }
    }

    pub fn task(&self) -> RwLockReadGuard<'_, T> {
        self.task.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn task_mut(&self) -> RwLockWriteGuard<'_, T> {
        self.task.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the parts of the last step left.
    pub fn take_extras(&self) -> Vec<T::Extra> {
        std::mem::take(&mut *self.extras())
    }

    fn extras(&self) -> MutexGuard<'_, Vec<T::Extra>> {
        self.extras.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Task> Compute<T::Model> for Stage<T> {
    fn train(&self, model: &T::Model, step: usize) -> Result<(GradientsParams, Told), Error> {
        let computed = part::compute(&*self.task(), model, &self.optimization, step, &self.workers)?;
        let Computed { loss, mut gradients, figures, extras } = computed;
        let limit = self.optimization.clip_norm;
        let gradient_norm = clip_global_norm(model, &mut gradients, limit, self.updates.as_ref())?;
        *self.extras() = extras;
        Ok((gradients, Told { loss, gradient_norm, figures: Arc::new(figures) }))
    }

    fn validate(&self, average: &T::Model) -> Result<Figures, Error> {
        self.task().validate(average)
    }
}
