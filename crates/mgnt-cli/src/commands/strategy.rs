//! The options that make a decoding strategy, shared by every command that decodes.

use clap::{Args, ValueEnum};
use mgnt_decode::{CachePolicy, Guidance, Plan, Strategy};
use mgnt_model::ModelConfig;

use crate::failure::bad_use;

/// Options of a decoding strategy.
#[derive(Args, Debug, Clone)]
pub struct StrategyArguments {
    /// Sub-model of each iteration, as `8x3,4x3,2x3,1x3` (three iterations at p = 8, then three at 4, …)
    #[arg(long, value_name = "LIST")]
    pub schedule: Option<String>,
    /// Keep keys and values of decided tokens between iterations of one size
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub cache: Switch,
    /// Iterations; without --schedule all of them run the full model (default 12)
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub steps: Option<u16>,
    /// Guidance scale w; 0 is none
    #[arg(long, value_name = "W", default_value_t = 0.0)]
    pub guidance: f64,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// The paper's growing schedule for twelve iterations.
pub const GROWING: &str = "8x3,4x3,2x3,1x3";

impl StrategyArguments {
    /// The strategy that the options describe: the paper's growing schedule where nothing else is said.
    pub fn strategy(&self) -> anyhow::Result<Strategy> {
        let schedule = match (&self.schedule, self.steps) {
            (Some(schedule), _) => schedule.clone(),
            (None, Some(steps)) => format!("1x{steps}"),
            (None, None) => GROWING.into(),
        };
        let mut strategy = Strategy::parse(&schedule).map_err(|error| bad_use(error.to_string()))?;
        if let Some(steps) = self.steps.map(usize::from)
            && strategy.iterations() != steps
        {
            let got = strategy.iterations();
            return Err(bad_use(format!("--steps {steps}: the schedule {schedule} has {got} iterations")));
        }
        if self.cache == Switch::Off {
            strategy = strategy.with_cache(CachePolicy::Off);
        }
        if self.guidance != 0.0 {
            strategy = strategy.with_guidance(Guidance::Constant(self.guidance));
        }
        Ok(strategy)
    }

    /// The plan for a model.
    pub fn plan(&self, config: &ModelConfig) -> anyhow::Result<Plan> {
        self.strategy()?.plan(config).map_err(|error| bad_use(error.to_string()))
    }
}
