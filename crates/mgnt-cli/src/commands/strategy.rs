//! The options that make a decoding strategy, shared by every command that decodes.

use std::path::PathBuf;

use clap::Args;
use mgnt_decode::{
    CachePolicy, ChoiceTemperature, Guidance, MaskSchedule, ModelSchedule, OrderKind, Plan, Strategy,
    TokenTemperature, Unconditional,
};
use mgnt_model::ModelConfig;

use super::configs;
use crate::failure::bad_use;

/// Said of each option: what a struct says of all holds for those behind it, too.
const HEADING: &str = "Decoding strategy";

/// Options of a decoding strategy.
#[derive(Args, Debug, Clone, Default, PartialEq)]
pub struct StrategyArguments {
    /// A strategy as RON (`mgnt flops --save-strategy` writes one); the other options change it
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    pub strategy: Option<PathBuf>,
    /// Sub-model of each iteration: growing, shrinking, or a list as `8x3,4x3,2x3,1x3` (three iterations at p = 8,
    /// then three at 4, …) [default: growing; the full model in all where only --steps is given]
    #[arg(long, help_heading = HEADING, value_name = "LIST")]
    pub schedule: Option<String>,
    /// Iterations [default: those of --strategy, or 12]
    #[arg(long, help_heading = HEADING, value_name = "K", value_parser = clap::value_parser!(u16).range(1..))]
    pub steps: Option<u16>,
    /// Keys and values of decided tokens: off, on (made anew at a change of size, and where guidance begins or ends), every:n, or
    /// the list of iterations that make them anew besides [default: on]
    #[arg(long, help_heading = HEADING, value_name = "POLICY")]
    pub cache: Option<CachePolicy>,
    /// Guidance scale w of (1 + w) conditional - w unconditional logits: w, linear:w, cosine:w, power-cosine:w:power,
    /// interval:w:from:to (shares of the iterations, 0 to 1), or a list [default: 0, none]
    #[arg(long, help_heading = HEADING, value_name = "RAMP")]
    pub guidance: Option<Guidance>,
    /// What guidance's unconditional copy has in the place of the class: null-or-mask (the null class, or the mask token of
    /// a model without one) or null (such a model is refused) [default: null-or-mask]
    #[arg(long, help_heading = HEADING, value_name = "TOKEN")]
    pub unconditional: Option<Unconditional>,
    /// Tokens decided in each iteration: cosine, linear, square, root, arccos, power:a, or a list [default: cosine]
    #[arg(long, help_heading = HEADING, value_name = "SCHEDULE")]
    pub mask_schedule: Option<MaskSchedule>,
    /// Which of the drawn tokens are decided: confidence, random, halton, or a list of places that come first
    /// [default: confidence]
    #[arg(long, help_heading = HEADING, value_name = "ORDER")]
    pub order: Option<OrderKind>,
    /// Temperature at which tokens are drawn: a number, elt (its ramp; no choice noise), or a list [default: 1]
    #[arg(long, help_heading = HEADING, value_name = "T")]
    pub temperature: Option<TokenTemperature>,
    /// Gumbel noise on the confidence at the start, falling to none [default: 4.5]
    #[arg(long, help_heading = HEADING, value_name = "T")]
    pub choice_temperature: Option<f64>,
    /// Draw among the k most probable codes only
    #[arg(long, help_heading = HEADING, value_name = "K")]
    pub top_k: Option<usize>,
    /// Draw among the most probable codes that hold this share of the probability
    #[arg(long, help_heading = HEADING, value_name = "P")]
    pub top_p: Option<f64>,
}

/// Iterations where nothing is said.
const STEPS: usize = 12;

impl StrategyArguments {
    /// The strategy that the options describe: the paper's growing schedule where nothing else is said.
    pub fn strategy(&self, config: &ModelConfig) -> anyhow::Result<Strategy> {
        self.strategy_for(config, config.tokens)
    }

    /// The same where `unknown` tokens are to be decided: no more iterations than those where none are asked for.
    fn strategy_for(&self, config: &ModelConfig, unknown: usize) -> anyhow::Result<Strategy> {
        let saved =
            self.strategy.as_deref().map(|path| configs::read::<Strategy>(path, "a strategy")).transpose()?;
        let steps = saved.as_ref().map_or(STEPS, Strategy::iterations).min(unknown.max(1));
        let mut strategy = match (saved, self.models(config, steps)?) {
            (Some(saved), None) => saved,
            (Some(saved), Some(models)) => Strategy { models, ..saved },
            (None, models) => {
                Strategy::new(models.unwrap_or_else(|| ModelSchedule::growing(&config.sub_models, steps)))
            }
        };
        if let Some(steps) = self.steps.map(usize::from)
            && strategy.iterations() != steps
        {
            let (got, models) = (strategy.iterations(), &strategy.models);
            let others = if self.schedule.is_none() {
                "; --schedule growing has as many as are asked for"
            } else {
                ""
            };
            return Err(bad_use(format!(
                "--steps {steps}: the schedule {models} has {got} iterations{others}"
            )));
        }
        set(&mut strategy.cache, &self.cache);
        set(&mut strategy.guidance, &self.guidance);
        set(&mut strategy.unconditional, &self.unconditional);
        set(&mut strategy.mask, &self.mask_schedule);
        set(&mut strategy.order, &self.order);
        if let Some(temperature) = &self.temperature {
            strategy.token_temperature = temperature.clone();
            if *temperature == TokenTemperature::elt() {
                strategy.choice_temperature = ChoiceTemperature::Linear(0.0);
            }
        }
        set(&mut strategy.choice_temperature, &self.choice_temperature.map(ChoiceTemperature::Linear));
        strategy.top_k = self.top_k.or(strategy.top_k);
        strategy.top_p = self.top_p.or(strategy.top_p);
        Ok(strategy)
    }

    fn models(&self, config: &ModelConfig, steps: usize) -> anyhow::Result<Option<ModelSchedule>> {
        let steps = self.steps.map_or(steps, usize::from);
        Ok(match (self.schedule.as_deref(), self.steps) {
            (Some("growing"), _) => Some(ModelSchedule::growing(&config.sub_models, steps)),
            (Some("shrinking"), _) => Some(ModelSchedule::shrinking(&config.sub_models, steps)),
            (Some(list), _) => Some(list.parse().map_err(|e: mgnt_decode::Error| bad_use(e.to_string()))?),
            (None, Some(_)) if self.strategy.is_none() => Some(ModelSchedule::constant(1, steps)),
            _ => None,
        })
    }

    /// The plan for a model.
    pub fn plan(&self, config: &ModelConfig) -> anyhow::Result<Plan> {
        self.plan_for(config, config.tokens)
    }

    /// The plan for pictures of which `unknown` tokens are to be decided.
    pub fn plan_for(&self, config: &ModelConfig, unknown: usize) -> anyhow::Result<Plan> {
        self.strategy_for(config, unknown)?
            .plan_for(config, unknown)
            .map_err(|error| bad_use(error.to_string()))
    }
}

fn set<T: Clone>(value: &mut T, option: &Option<T>) {
    if let Some(option) = option {
        *value = option.clone();
    }
}

#[cfg(test)]
mod tests {
    use mgnt_model::Preset;

    use super::*;

    fn of(change: impl FnOnce(&mut StrategyArguments)) -> anyhow::Result<Strategy> {
        let mut arguments = StrategyArguments::default();
        change(&mut arguments);
        arguments.strategy(&ModelConfig::preset(Preset::B))
    }

    #[test]
    fn what_is_not_said() {
        assert_eq!(of(|_| {}).unwrap(), Strategy::parse("8x3,4x3,2x3,1x3").unwrap());
        assert_eq!(of(|a| a.steps = Some(8)).unwrap(), Strategy::parse("1x8").unwrap());
        let shrinking = of(|a| (a.schedule, a.steps) = (Some("shrinking".into()), Some(8))).unwrap();
        assert_eq!(shrinking.models.to_string(), "1x2,2x2,4x2,8x2");
        let elt = of(|a| a.temperature = Some(TokenTemperature::elt())).unwrap();
        assert_eq!(elt.choice_temperature, ChoiceTemperature::Linear(0.0));
        assert!(of(|a| (a.schedule, a.steps) = (Some("8x3".into()), Some(4))).is_err());
        let few = StrategyArguments::default().plan_for(&ModelConfig::preset(Preset::B), 3).unwrap();
        assert_eq!(few.iterations().len(), 3);
    }

    /// What docs/decoding.md shows of a strategy's file is one, and a plan.
    #[test]
    fn the_documented_file_is_a_strategy() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/decoding.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, from) = page.split_once("```ron\n").unwrap();
        let (text, _) = from.split_once("```").unwrap();
        let strategy: Strategy = mgnt_weights::directory::parse_ron(text, "decoding.md".as_ref()).unwrap();
        assert_eq!((strategy.top_k, strategy.order.clone()), (Some(100), OrderKind::Halton));
        assert_eq!(strategy.plan(&ModelConfig::preset(Preset::B)).unwrap().iterations().len(), 12);
    }

    #[test]
    fn options_change_a_saved_strategy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.ron");
        let saved = Strategy { top_k: Some(9), ..Strategy::parse("4x2,1x2").unwrap() };
        mgnt_weights::directory::write_ron(&path, &saved).unwrap();
        let read = |change: fn(&mut StrategyArguments)| {
            of(|a| {
                a.strategy = Some(path.clone());
                change(a);
            })
        };
        assert_eq!(read(|_| {}).unwrap(), saved);
        let changed = read(|a| a.cache = Some(CachePolicy::Off)).unwrap();
        assert_eq!(changed, saved.with_cache(CachePolicy::Off));
        assert!(read(|a| a.steps = Some(5)).unwrap_err().to_string().contains("--schedule growing"));
        // Of as many iterations as the saved one, if nothing else is said.
        let growing = |a: &mut StrategyArguments| a.schedule = Some("growing".into());
        assert_eq!(read(growing).unwrap().models.to_string(), "8x1,4x1,2x1,1x1");
        let changed = read(|a| (a.schedule, a.steps) = (Some("growing".into()), Some(8))).unwrap();
        assert_eq!((changed.models.to_string().as_str(), changed.top_k), ("8x2,4x2,2x2,1x2", Some(9)));
    }
}
