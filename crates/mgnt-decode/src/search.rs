//! The best strategy under a compute budget, by coordinate search: one iteration's sub-model or refresh is changed at
//! a time, and a change that measures better is kept.

use mgnt_model::ModelConfig;

use crate::{CachePolicy, Error, ModelSchedule, Strategy};

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The best strategy that was measured.
    pub strategy: Strategy,
    /// What it measured.
    pub value: f64,
    /// Strategies measured.
    pub measured: usize,
    /// Whether no single change would measure better, or else the allowed number was reached before.
    pub settled: bool,
}

/// Searches from `start` for the strategy that measures lowest within `budget` FLOPs a picture, measuring at most
/// `most` strategies.
///
/// A start above the budget is made cheaper first, from its first iteration on. The order in which strategies are
/// measured depends on nothing but the arguments and what was measured, so a search whose measurements are kept can
/// be resumed by running it again.
pub fn coordinate_search<E: From<Error>>(
    config: &ModelConfig,
    start: &Strategy,
    budget: u64,
    most: usize,
    measure: &mut dyn FnMut(&Strategy) -> Result<f64, E>,
) -> Result<Found, E> {
    let start = within(config, start, budget)?;
    let value = measure(&start)?;
    let mut found = Found { strategy: start, value, measured: 1, settled: false };
    let mut tried = vec![found.strategy.clone()];
    loop {
        let mut better = false;
        for iteration in 0..found.strategy.iterations() {
            for candidate in neighbours(config, &found.strategy, iteration) {
                let Ok(plan) = candidate.plan(config) else { continue };
                if plan.flops() > budget || tried.contains(&candidate) {
                    continue;
                }
                if found.measured == most {
                    return Ok(found);
                }
                tried.push(candidate.clone());
                let value = measure(&candidate)?;
                found.measured += 1;
                if value < found.value {
                    (found.strategy, found.value, better) = (candidate, value, true);
                }
            }
        }
        if !better {
            found.settled = true;
            return Ok(found);
        }
    }
}

/// The strategy with explicit refreshes, made cheaper until it fits.
fn within(config: &ModelConfig, start: &Strategy, budget: u64) -> Result<Strategy, Error> {
    let plan = start.plan(config)?;
    let refreshed = plan.iterations().iter().filter(|i| i.refresh).map(|i| i.index).collect();
    let mut strategy = start.clone().with_cache(CachePolicy::Explicit(refreshed));
    let smallest = config.sub_models.last().copied().unwrap_or(1);
    for iteration in 0..=strategy.iterations() {
        let flops = strategy.plan(config)?.flops();
        if flops <= budget {
            return Ok(strategy);
        }
        let mut factors = strategy.models.factors().to_vec();
        match factors.get_mut(iteration) {
            Some(factor) => *factor = smallest,
            None => {
                let expected =
                    format!("at least {:.4} GFLOPs, the smallest sub-model alone", flops as f64 / 1e9);
                return Err(Error::field("budget", expected, format!("{:.4}", budget as f64 / 1e9)));
            }
        }
        strategy.models = ModelSchedule::from_factors(factors);
    }
    Ok(strategy)
}

/// The strategy with another sub-model in this iteration, and with its refresh added or taken away.
fn neighbours(config: &ModelConfig, strategy: &Strategy, iteration: usize) -> Vec<Strategy> {
    let factors = strategy.models.factors();
    let others = config.sub_models.iter().filter(|&&p| p != factors[iteration]);
    let mut all: Vec<Strategy> = others
        .map(|&p| {
            let mut factors = factors.to_vec();
            factors[iteration] = p;
            Strategy { models: ModelSchedule::from_factors(factors), ..strategy.clone() }
        })
        .collect();
    let forced = iteration == 0 || factors[iteration] != factors[iteration - 1];
    if let (false, CachePolicy::Explicit(refreshes)) = (forced, &strategy.cache) {
        let mut refreshes = refreshes.clone();
        match refreshes.iter().position(|&i| i == iteration) {
            Some(at) => {
                refreshes.remove(at);
            }
            None => refreshes.push(iteration),
        }
        refreshes.sort_unstable();
        all.push(strategy.clone().with_cache(CachePolicy::Explicit(refreshes)));
    }
    all
}

#[cfg(test)]
mod tests {
    use mgnt_model::Preset;

    use super::*;

    fn gigaflops(strategy: &Strategy) -> f64 {
        strategy.plan(&ModelConfig::preset(Preset::B)).unwrap().flops() as f64 / 1e9
    }

    /// Late iterations matter more: the sum of 1 / p weighted by the iteration, negative.
    fn value(strategy: &Strategy) -> Result<f64, Error> {
        let factors = strategy.models.factors().iter().enumerate();
        Ok(-factors.map(|(i, &p)| (i + 1) as f64 / p as f64).sum::<f64>())
    }

    #[test]
    fn a_better_strategy_within_the_budget() {
        let config = ModelConfig::preset(Preset::B);
        let start = Strategy::parse("4x3,2x3").unwrap();
        let budget = (gigaflops(&start) * 1.6e9) as u64;
        let found = coordinate_search(&config, &start, budget, 500, &mut |s| value(s)).unwrap();
        assert!(found.settled && found.measured > 5);
        assert!(found.value < value(&start).unwrap());
        assert!(gigaflops(&found.strategy) * 1e9 <= budget as f64);
    }

    #[test]
    fn the_same_search_measures_the_same_strategies() {
        let config = ModelConfig::preset(Preset::B);
        let start = Strategy::parse("8x2,1x2").unwrap();
        let run = |most| {
            let mut seen = Vec::new();
            let mut measure = |s: &Strategy| {
                seen.push(s.clone());
                value(s)
            };
            let found = coordinate_search(&config, &start, u64::MAX, most, &mut measure).unwrap();
            (found, seen)
        };
        let (cut, first) = run(4);
        assert!(!cut.settled && cut.measured == 4);
        let (whole, all) = run(1000);
        assert_eq!(all[..4], first);
        assert_eq!(whole.strategy.models.to_string(), "1x4");
    }

    #[test]
    fn a_start_above_the_budget_is_made_cheaper_or_refused() {
        let config = ModelConfig::preset(Preset::B);
        let start = Strategy::parse("1x4").unwrap();
        let budget = (gigaflops(&start) * 0.5e9) as u64;
        let found = coordinate_search(&config, &start, budget, 1, &mut |s| value(s)).unwrap();
        assert!(gigaflops(&found.strategy) * 1e9 <= budget as f64);
        let error = coordinate_search(&config, &start, 1000, 1, &mut |s| value(s)).unwrap_err().to_string();
        assert!(error.contains("smallest sub-model"), "{error}");
    }
}
