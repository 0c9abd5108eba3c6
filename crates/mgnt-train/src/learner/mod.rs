//! Burn's learner around a [`Task`](crate::Task): what it trains, the strategy that counts steps, and the ends of its
//! metrics and checkpoints.
//!
//! `SupervisedTraining` makes the event processor and calls [`StepCounted`]; that holds the loop. Figures go through
//! Burn's metrics to [`Renderer`], checkpoints through its `LearningCheckpointer` to
//! [`Checkpoints`](crate::checkpoint::Checkpoints), the learning rate through its scheduler.

mod figure;
mod renderer;
mod schedule;
mod stage;
mod steps;
mod strategy;
mod trainee;

pub(crate) use figure::Figure;
pub(crate) use renderer::{Elsewhere, Renderer};
pub(crate) use schedule::Schedule;
pub(crate) use stage::Stage;
pub(crate) use steps::Steps;
pub(crate) use strategy::StepCounted;
pub(crate) use trainee::{Told, Trainee};
