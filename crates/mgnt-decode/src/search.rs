//! The best strategy under a compute budget, by coordinate search: one iteration's sub-model or refresh is changed at
//! a time, and a change that measures better is kept.

use mgnt_model::ModelConfig;

use crate::{CachePolicy, Error, Iteration, ModelSchedule, Strategy};

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
/// A start above the budget is made cheaper first, from its first iteration on, and by its refreshes at last. The start is
/// measured in any case; others for which `measure` gives nothing are passed over, and count for none. The order in which strategies are
/// measured depends on nothing but the arguments and what was measured, so a search whose measurements are kept can
/// be resumed by running it again.
pub fn coordinate_search<E: From<Error>>(
    config: &ModelConfig,
    start: &Strategy,
    budget: u64,
    most: usize,
    measure: &mut dyn FnMut(&Strategy) -> Result<Option<f64>, E>,
) -> Result<Found, E> {
    let start = within(config, start, budget)?;
    let Some(value) = measure(&start)? else {
        return Err(
            Error::field("start", "a strategy that can be measured", "one that is passed over").into()
        );
    };
    let mut found = Found { strategy: start, value, measured: 1, settled: false };
    // By what is done, not by how it is written: a refresh that must be anyway changes nothing.
    let mut tried: Vec<Vec<Iteration>> = vec![found.strategy.plan(config)?.iterations().to_vec()];
    loop {
        let mut better = false;
        for iteration in 0..found.strategy.iterations() {
            for candidate in neighbours(config, &found.strategy, iteration) {
                let Ok(plan) = candidate.plan(config) else { continue };
                if plan.flops() > budget || tried.iter().any(|tried| tried == plan.iterations()) {
                    continue;
                }
                if found.measured >= most {
                    return Ok(found);
                }
                tried.push(plan.iterations().to_vec());
                let Some(value) = measure(&candidate)? else { continue };
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
    let mut factors = strategy.models.factors().to_vec();
    for iteration in 0..factors.len() {
        if strategy.plan(config)?.flops() <= budget {
            return Ok(strategy);
        }
        factors[iteration] = smallest;
        strategy.models = ModelSchedule::from_factors(factors.clone());
    }
    // As cheap as sub-models make it; refreshes that need not be cost as well.
    if strategy.plan(config)?.flops() > budget {
        strategy.cache = CachePolicy::Explicit(Vec::new());
    }
    let flops = strategy.plan(config)?.flops();
    if flops <= budget {
        return Ok(strategy);
    }
    // Rounded up, so that what is named is enough.
    let least = (flops as f64 / 1e5).ceil() / 1e4;
    let expected = format!("at least {least:.4} GFLOPs, the smallest sub-model alone");
    Err(Error::field("budget", expected, format!("{:.4}", budget as f64 / 1e9)))
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
    if let CachePolicy::Explicit(refreshes) = &strategy.cache {
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
        let found = coordinate_search(&config, &start, budget, 500, &mut |s| value(s).map(Some)).unwrap();
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
                value(s).map(Some)
            };
            let found = coordinate_search(&config, &start, u64::MAX, most, &mut measure).unwrap();
            (found, seen)
        };
        let (cut, first) = run(4);
        assert!(!cut.settled && cut.measured == 4);
        assert_eq!((run(1).1.len(), run(0).1.len()), (1, 1), "the start, in any case");
        // What is passed over counts for none.
        let mut asked = 0;
        let mut start_alone = |_: &Strategy| {
            asked += 1;
            Ok::<_, Error>((asked == 1).then_some(0.0))
        };
        let alone = coordinate_search(&config, &start, u64::MAX, 4, &mut start_alone).unwrap();
        assert!(alone.settled && alone.measured == 1 && asked > 5, "{asked}");
        let nothing = &mut |_: &Strategy| Ok::<_, Error>(None);
        assert!(coordinate_search(&config, &start, u64::MAX, 4, nothing).is_err());
        let (whole, all) = run(1000);
        assert_eq!(all[..4], first);
        assert_eq!(whole.strategy.models.to_string(), "1x4");
    }

    #[test]
    fn no_plan_is_measured_twice_and_no_single_change_is_left_out() {
        let guided = crate::Guidance::Linear(1.0);
        let hidden = ModelConfig { nesting: mgnt_model::Nesting::Hidden, ..ModelConfig::preset(Preset::B) };
        for config in [ModelConfig::preset(Preset::B), hidden] {
            let start = Strategy::parse("8x2,4x2").unwrap().with_guidance(guided.clone());
            let mut plans: Vec<Vec<Iteration>> = Vec::new();
            let mut measure = |strategy: &Strategy| {
                plans.push(strategy.plan(&config)?.iterations().to_vec());
                // Nothing is better than the start: its neighbours are all that is measured.
                Ok::<_, Error>(Some(0.0))
            };
            let found = coordinate_search(&config, &start, u64::MAX, 500, &mut measure).unwrap();
            assert!(found.settled);
            for (i, plan) in plans.iter().enumerate() {
                assert!(!plans[..i].contains(plan), "{i}");
            }
            // Where sub-models share keys and values, a refresh at a switch is a choice.
            let refreshes = |plan: &[Iteration]| plan.iter().map(|i| i.refresh).collect::<Vec<_>>();
            let without = plans
                .iter()
                .any(|plan| plan.iter().map(|i| i.sub_model.p()).eq([8, 8, 4, 4]) && !refreshes(plan)[2]);
            assert_eq!(without, config.nesting == mgnt_model::Nesting::Hidden);
        }
    }

    #[test]
    fn a_start_above_the_budget_is_made_cheaper_or_refused() {
        let config = ModelConfig::preset(Preset::B);
        let start = Strategy::parse("1x4").unwrap();
        let budget = (gigaflops(&start) * 0.5e9) as u64;
        let found = coordinate_search(&config, &start, budget, 1, &mut |s| value(s).map(Some)).unwrap();
        assert!(gigaflops(&found.strategy) * 1e9 <= budget as f64);
        // Without its cache even the smallest sub-models are above a budget that they meet with it.
        let small = Strategy::parse("8x4").unwrap();
        let budget = (gigaflops(&small) * 1e9) as u64 + 1;
        let dear = small.with_cache(CachePolicy::Off);
        assert!(gigaflops(&dear) * 1e9 > budget as f64);
        assert!(coordinate_search(&config, &dear, budget, 1, &mut |s| value(s).map(Some)).is_ok());
        let error =
            coordinate_search(&config, &start, 1000, 1, &mut |s| value(s).map(Some)).unwrap_err().to_string();
        assert!(error.contains("smallest sub-model"), "{error}");
        // The budget that is named is one.
        for iterations in 1..=12 {
            let start = Strategy::parse(&format!("8x{iterations}")).unwrap();
            let of = |budget| coordinate_search(&config, &start, budget, 1, &mut |s| value(s).map(Some));
            let error = of(1000).unwrap_err().to_string();
            let named = error.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
            let budget = (named.parse::<f64>().unwrap() * 1e9).round() as u64;
            assert!(of(budget).is_ok() && of(budget - 200_000).is_err(), "{error}");
        }
    }
}
