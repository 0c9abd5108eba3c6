//! The learning rate as one of Burn's schedulers.

use burn::optim::LearningRate;
use burn::optim::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use crate::Optimization;
use crate::optimizer::learning_rate;

/// Warm-up, then a cosine, as the recipe says.
#[derive(Clone)]
pub(crate) struct Schedule {
    optimization: Optimization,
    step: usize,
}

/// Name of the steps done in a record.
const STEP: &str = "step";

impl Schedule {
    pub fn new(optimization: &Optimization) -> Self {
        Self { optimization: optimization.clone(), step: 0 }
    }
}

impl LrScheduler for Schedule {
    fn step(&mut self) -> LearningRate {
        let rate = learning_rate(&self.optimization, self.step);
        self.step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new().with_scalar(STEP, self.step as u64)
    }

    fn load_record(&mut self, record: LrSchedulerRecord) {
        if let Some(step) = record.scalar::<u64>(STEP) {
            self.step = step as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::tests::optimization;

    #[test]
    fn a_schedule_goes_on_where_its_record_was_taken() {
        let recipe = optimization();
        let mut whole = Schedule::new(&recipe);
        let rates: Vec<f64> = (0..30).map(|_| whole.step()).collect();
        assert_eq!(rates, (0..30).map(|step| learning_rate(&recipe, step)).collect::<Vec<_>>());
        let mut first = Schedule::new(&recipe);
        for rate in &rates[..12] {
            assert_eq!(first.step(), *rate);
        }
        let bytes = first.to_record().into_bytes().unwrap();
        let mut second = Schedule::new(&recipe);
        second.load_record(LrSchedulerRecord::from_bytes(bytes).unwrap());
        assert_eq!(second.step(), rates[12]);
    }
}
