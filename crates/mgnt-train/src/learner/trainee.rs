//! What Burn's learner trains: a model with its moving average.

use std::sync::Arc;

use burn::module::{Module, ModuleDisplay};
use burn::optim::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::ExecutionError;
use burn::train::metric::{Adaptor, ItemLazy};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use mgnt_model::kernels::Kernels;

use super::steps::Step;
use crate::task::Figures;
use crate::{Error, ema};

/// A model and its moving average.
#[derive(Module, Debug)]
pub(crate) struct Trainee<M: Module> {
    pub model: M,
    /// Without a tape. Its parameters have the numbers of the model's.
    pub average: M,
    decay: f64,
    /// Steps that changed the model.
    updates: usize,
    /// Move the average, where the device has them.
    #[module(skip)]
    kernels: Option<Arc<dyn Kernels>>,
}

impl<M: Module> Trainee<M> {
    /// A model before its first step, with an average whose decay comes to `decay`.
    pub fn new(model: M, decay: f64, kernels: Option<Arc<dyn Kernels>>) -> Self {
        Self { average: model.valid(), model, decay, updates: 0, kernels }
    }

    /// The same with another model.
    pub fn with_model(self, model: M) -> Self {
        Self { model, ..self }
    }

    /// The same after so many steps that changed the model.
    pub fn after(self, updates: usize) -> Self {
        Self { updates, ..self }
    }
}

/// What a step or a validation told: loss and norm of the gradient, which a validation has not, and figures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub loss: f64,
    pub gradient_norm: f64,
    pub figures: Arc<Figures>,
}

/// [`Told`], or why there is nothing to tell: Burn's steps cannot fail.
pub(crate) struct Output(pub Result<Told, Error>);

impl ItemLazy for Output {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Arc<Figures>> for Output {
    fn adapt(&self) -> Arc<Figures> {
        self.0.as_ref().map(|told| told.figures.clone()).unwrap_or_default()
    }
}

impl<M: Module + ModuleDisplay + 'static> TrainStep for Trainee<M> {
    type Input = Step<M>;
    type Output = Output;

    /// Gradients are of the model alone, and clipped, or to be clipped within the optimizer's pass.
    fn step(&self, step: Step<M>) -> TrainOutput<Output> {
        match step.of.train(&self.model, step.number) {
            Ok((grads, told)) => TrainOutput { grads, item: Output(Ok(told)) },
            Err(error) => TrainOutput { grads: GradientsParams::new(), item: Output(Err(error)) },
        }
    }

    fn optimize(
        mut self,
        optimizer: &mut ModuleOptimizer,
        rate: ModuleLearningRate,
        gradients: GradientsParams,
    ) -> Self {
        self.model = optimizer.step(rate, self.model, gradients);
        let decay = ema::decay_at(self.decay, self.updates);
        self.average = ema::update(self.average, &self.model.valid(), decay, self.kernels.as_deref());
        self.updates += 1;
        self
    }
}

impl<M: Module + ModuleDisplay + 'static> InferenceStep for Trainee<M> {
    type Input = Step<M>;
    type Output = Output;

    fn step(&self, step: Step<M>) -> Output {
        let figures = step.of.validate(&self.average).map(Arc::new);
        Output(figures.map(|figures| Told { figures, ..Told::default() }))
    }
}
