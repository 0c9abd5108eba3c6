//! What a decode will do, as pure data: no tensor, no device.

mod cache_policy;
mod guidance;
mod mask_schedule;
mod model_schedule;
mod strategy;
mod temperature;

use std::sync::Arc;

use mgnt_model::compute::{Forward, cache_bytes, forward_flops};
use mgnt_model::{ModelConfig, SubModel};

pub use cache_policy::CachePolicy;
pub use guidance::{Guidance, Unconditional};
pub use mask_schedule::MaskSchedule;
pub use model_schedule::ModelSchedule;
pub use strategy::Strategy;
pub use temperature::{ChoiceTemperature, TokenTemperature};

use crate::{Error, Order};

/// A checked strategy for one model and one number of tokens: every iteration's shapes are known before the first.
#[derive(Debug, Clone)]
pub struct Plan {
    strategy: Strategy,
    config: ModelConfig,
    order: Arc<dyn Order>,
    iterations: Vec<Iteration>,
    baseline_flops: u64,
}

/// One iteration of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iteration {
    /// 0-based.
    pub index: usize,
    /// The sub-model that runs.
    pub sub_model: SubModel,
    /// Whether all positions are processed and the cache is made anew.
    pub refresh: bool,
    /// Whether keys and values are kept for the next iteration.
    pub cache_serves_next: bool,
    /// Positions processed, A.
    pub active: usize,
    /// Positions attended over, S = 1 + N.
    pub context: usize,
    /// Tokens masked at its start, M.
    pub masked: usize,
    /// Tokens decided in it.
    pub decided: usize,
    /// Guidance scale; 0 is no guidance, and one copy of the batch.
    pub guidance: f64,
    /// Temperature at which tokens are drawn.
    pub token_temperature: f64,
    /// Factor of the Gumbel noise on the confidence.
    pub choice_temperature: f64,
    /// FLOPs of one sample (two copies under guidance).
    pub flops: u64,
    /// Bytes of one sample's buffers of keys and values that the next iteration finds, in f32: they have the size of
    /// the whole context.
    pub cache_bytes: u64,
}

impl Iteration {
    /// Whether each sample is computed twice, with its class and without.
    pub fn is_guided(&self) -> bool {
        self.copies() > 1
    }

    /// Copies of a sample that are computed.
    pub(crate) fn copies(&self) -> u64 {
        copies(self.guidance)
    }
}

impl Plan {
    pub(crate) fn new(strategy: &Strategy, config: &ModelConfig, unknown: usize) -> Result<Self, Error> {
        config.validate()?;
        strategy.validate(config)?;
        if unknown > config.tokens {
            return Err(Error::field("tokens to decide", format!("at most {}", config.tokens), unknown));
        }
        let steps = strategy.iterations();
        let masked_after = strategy.mask.masked_after(unknown, steps)?;
        let sub_models =
            strategy.models.factors().iter().map(|&p| config.sub_model(p)).collect::<Result<Vec<_>, _>>()?;
        let refreshes = refreshes(strategy, config, &sub_models);

        let context = config.positions();
        let (mut cached, mut baseline_flops) = (0, 0_u64);
        let mut iterations = Vec::with_capacity(steps);
        for i in 0..steps {
            let masked = if i == 0 { unknown } else { masked_after[i - 1] };
            let sub_model = sub_models[i];
            let active = if refreshes[i] { context } else { context - cached };
            // All that is decided before this iteration, and the class token, are kept for the next.
            cached = context - masked;
            let cache_serves_next = refreshes.get(i + 1) == Some(&false);
            let r = (i + 1) as f64 / steps as f64;
            let guidance = strategy.guidance.scale(i, steps);
            let copies = copies(guidance);
            let forward = Forward { active, context, logits: masked };
            let of_baseline = forward_flops(config, config.full(), Forward { active: context, ..forward });
            baseline_flops = baseline_flops.saturating_add(of_baseline.saturating_mul(copies));
            iterations.push(Iteration {
                index: i,
                sub_model,
                refresh: refreshes[i],
                cache_serves_next,
                active,
                context,
                masked,
                decided: masked - masked_after[i],
                guidance,
                token_temperature: strategy.token_temperature.at(i, r),
                choice_temperature: strategy.choice_temperature.at(i, r),
                flops: forward_flops(config, sub_model, forward).saturating_mul(copies),
                cache_bytes: if cache_serves_next {
                    copies * cache_bytes(config, sub_model, context, 4)
                } else {
                    0
                },
            });
        }
        let order = strategy.order.order(config.tokens);
        Ok(Self { strategy: strategy.clone(), config: config.clone(), order, iterations, baseline_flops })
    }

    /// Refuses a model of other sizes than those that the plan was made for. Dropout is a matter of training.
    pub(crate) fn check_model(&self, config: &ModelConfig) -> Result<(), Error> {
        let fields = |c: &ModelConfig| {
            [
                ("layers", c.layers.to_string()),
                ("width", c.width.to_string()),
                ("heads", c.heads.to_string()),
                ("hidden", c.hidden.to_string()),
                ("tokens", c.tokens.to_string()),
                ("codes", c.codes.to_string()),
                ("classes", c.classes.to_string()),
                ("null_class", c.null_class.to_string()),
                ("sub_models", format!("{:?}", c.sub_models)),
                ("norm", format!("{:?}", c.norm)),
                ("nesting", format!("{:?}", c.nesting)),
            ]
        };
        let differs =
            fields(&self.config).into_iter().zip(fields(config)).find(|(ours, theirs)| ours != theirs);
        match differs {
            Some(((field, planned), (_, got))) => {
                Err(Error::field(field, format!("{planned}, as the plan was made for"), got))
            }
            None => Ok(()),
        }
    }

    /// With an order of one's own in place of the strategy's.
    pub fn with_order(mut self, order: Arc<dyn Order>) -> Self {
        self.order = order;
        self
    }

    /// Which of the drawn tokens are decided.
    pub fn order(&self) -> &dyn Order {
        self.order.as_ref()
    }

    /// Sizes of the model that it is for.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The same strategy with the value of every iteration spelled out, to be saved and changed by hand.
    pub fn explicit(&self) -> Strategy {
        let each = |value: fn(&Iteration) -> f64| self.iterations.iter().map(value).collect::<Vec<_>>();
        let refreshed = self.iterations.iter().filter(|i| i.refresh).map(|i| i.index);
        Strategy {
            mask: MaskSchedule::Counts(self.iterations.iter().map(|i| i.decided).collect()),
            cache: CachePolicy::Explicit(refreshed.collect()),
            guidance: Guidance::Explicit(each(|i| i.guidance)),
            token_temperature: TokenTemperature::Explicit(each(|i| i.token_temperature)),
            choice_temperature: ChoiceTemperature::Explicit(each(|i| i.choice_temperature)),
            ..self.strategy.clone()
        }
    }

    /// The iterations in order.
    pub fn iterations(&self) -> &[Iteration] {
        &self.iterations
    }

    /// The strategy that the plan was made from.
    pub fn strategy(&self) -> &Strategy {
        &self.strategy
    }

    /// FLOPs of one sample.
    pub fn flops(&self) -> u64 {
        self.iterations.iter().map(|i| i.flops).fold(0, u64::saturating_add)
    }

    /// FLOPs of one sample when the full model runs in every iteration without a cache, all else equal.
    pub fn baseline_flops(&self) -> u64 {
        self.baseline_flops
    }
}

/// Copies of a sample that an iteration of this scale computes: with its class and without, or one of them.
fn copies(guidance: f64) -> u64 {
    if guidance > 0.0 { 2 } else { 1 }
}

/// Guided and unguided iterations have different batches, so a cache does not pass between them either.
fn refreshes(strategy: &Strategy, config: &ModelConfig, sub_models: &[SubModel]) -> Vec<bool> {
    let steps = sub_models.len();
    let guided = |i| copies(strategy.guidance.scale(i, steps));
    let mut last = 0;
    (0..steps)
        .map(|i| {
            let refresh = i == 0
                || !sub_models[i].shares_cache_with(sub_models[i - 1], config)
                || guided(i) != guided(i - 1)
                || strategy.cache.asks(i, i - last, sub_models[i] != sub_models[i - 1]);
            if refresh {
                last = i;
            }
            refresh
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use mgnt_model::Preset;

    use super::*;

    fn total(config: &ModelConfig, strategy: &Strategy) -> f64 {
        (strategy.plan(config).unwrap().flops() as f64 / 1e7).round() / 100.0
    }

    const GROWING: &str = "8x3,4x3,2x3,1x3";

    fn growing() -> Strategy {
        Strategy::parse(GROWING).unwrap()
    }

    #[test]
    fn totals_of_every_scale() {
        let l = ModelConfig::preset(Preset::L);
        assert_eq!(total(&l, &Strategy::baseline(12)), 1949.30);
        assert_eq!(total(&l, &Strategy::parse("1x12").unwrap()), 1455.97);
        assert_eq!(total(&l, &growing().with_cache(CachePolicy::Off)), 918.36);
        assert_eq!(total(&l, &growing()), 632.13);
        assert_eq!(total(&l, &Strategy::parse("1x3,2x3,4x3,8x3").unwrap()), 841.67);
        let long = ModelConfig { tokens: 1024, ..l };
        assert_eq!(total(&long, &Strategy::baseline(12)), 8703.22);
        assert_eq!(total(&long, &growing()), 2828.67);
        for (preset, baseline, nested) in [
            (Preset::B, 558.81, 183.40),
            (Preset::MaskgitBase, 1111.90, 361.08),
            (Preset::Xl, 2863.02, 926.83),
        ] {
            let config = ModelConfig::preset(preset);
            assert_eq!(total(&config, &Strategy::baseline(12)), baseline);
            assert_eq!(total(&config, &growing()), nested);
            assert_eq!(
                growing().plan(&config).unwrap().baseline_flops() / 10_000_000,
                (baseline * 100.0) as u64
            );
        }
    }

    #[test]
    fn the_table_of_scale_l() {
        let plan = growing().plan(&ModelConfig::preset(Preset::L)).unwrap();
        let rows: Vec<_> = plan
            .iterations()
            .iter()
            .map(|i| {
                let gigaflops = (i.flops as f64 / 1e5).round() / 1e4;
                (i.sub_model.p(), i.active, i.masked, i.decided, gigaflops)
            })
            .collect();
        let expected = [
            (8, 257, 256, 3, 21.2882),
            (8, 256, 253, 6, 21.1970),
            (8, 253, 247, 11, 20.9358),
            (4, 257, 236, 15, 41.4188),
            (4, 236, 221, 18, 38.0523),
            (4, 221, 203, 22, 35.6172),
            (2, 257, 181, 26, 81.6170),
            (2, 181, 155, 27, 57.5967),
            (2, 155, 128, 31, 49.3033),
            (1, 257, 97, 31, 162.1225),
            (1, 97, 66, 33, 61.3135),
            (1, 66, 33, 33, 41.6685),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_strategy_spelled_out_is_the_same_plan() {
        let config = ModelConfig::preset(Preset::B);
        let strategy = Strategy {
            mask: MaskSchedule::Arccos,
            cache: CachePolicy::Every(2),
            guidance: Guidance::Cosine(2.0),
            token_temperature: TokenTemperature::elt(),
            ..growing()
        };
        let plan = strategy.plan(&config).unwrap();
        let explicit = plan.explicit();
        assert_ne!(explicit, strategy);
        assert_eq!(explicit.plan(&config).unwrap().iterations(), plan.iterations());
        assert_eq!(explicit.plan(&config).unwrap().explicit(), explicit);
    }

    #[test]
    fn a_falling_temperature_is_of_the_share_that_is_done() {
        let strategy = Strategy { token_temperature: TokenTemperature::elt(), ..Strategy::baseline(4) };
        let plan = strategy.plan(&ModelConfig::preset(Preset::B)).unwrap();
        let found = plan.iterations().iter().map(|iteration| iteration.token_temperature);
        assert!(found.zip([1.1, 0.9, 0.7, 0.5]).all(|(found, expected)| (found - expected).abs() < 1e-12));
    }

    #[test]
    fn refreshes_of_each_policy() {
        let config = ModelConfig::preset(Preset::B);
        let of = |schedule: &str, cache: CachePolicy| -> Vec<usize> {
            let plan = Strategy::parse(schedule).unwrap().with_cache(cache).plan(&config).unwrap();
            plan.iterations().iter().filter(|i| i.refresh).map(|i| i.index).collect()
        };
        assert_eq!(of("1x4", CachePolicy::Off), [0, 1, 2, 3]);
        assert_eq!(of("1x4", CachePolicy::AtSizeSwitch), [0]);
        assert_eq!(of("4x2,8x2,1x2", CachePolicy::AtSizeSwitch), [0, 2, 4]);
        assert_eq!(of("2x6", CachePolicy::Every(2)), [0, 2, 4]);
        assert_eq!(of("2x4,1x2", CachePolicy::Explicit(vec![3])), [0, 3, 4]);
        let hidden = ModelConfig { nesting: mgnt_model::Nesting::Hidden, ..config.clone() };
        let explicit = Strategy::parse("8x2,1x2").unwrap().with_cache(CachePolicy::Explicit(vec![]));
        let refreshed = explicit.plan(&hidden).unwrap().iterations().iter().filter(|i| i.refresh).count();
        assert_eq!(refreshed, 1, "keys of one width serve every sub-model");
    }

    #[test]
    fn guidance_doubles_and_a_cache_does_not_pass_its_border() {
        let config = ModelConfig::preset(Preset::B);
        let guided = Strategy::baseline(4).with_guidance(Guidance::Constant(2.0));
        assert_eq!(
            guided.plan(&config).unwrap().flops(),
            2 * Strategy::baseline(4).plan(&config).unwrap().flops()
        );
        let ramp = Strategy::parse("1x4").unwrap().with_guidance(Guidance::Linear(1.0));
        let plan = ramp.plan(&config).unwrap();
        assert_eq!(
            plan.iterations().iter().map(|i| i.refresh).collect::<Vec<_>>(),
            [true, true, false, false]
        );
    }

    #[test]
    fn given_tokens_are_cached_from_the_start() {
        let config = ModelConfig::preset(Preset::B);
        let plan = Strategy::parse("1x3").unwrap().plan_for(&config, 100).unwrap();
        let active: Vec<_> = plan.iterations().iter().map(|i| i.active).collect();
        assert_eq!(active[..2], [257, 100]);
        assert_eq!(plan.iterations().iter().map(|i| i.decided).sum::<usize>(), 100);
    }

    #[test]
    fn what_cannot_be_planned() {
        let config = ModelConfig::preset(Preset::B);
        let base = Strategy::baseline(12);
        let wrong = [
            Strategy::parse("16x3").unwrap(),
            Strategy { choice_temperature: ChoiceTemperature::Linear(-1.0), ..base.clone() },
            Strategy { choice_temperature: ChoiceTemperature::Linear(f64::NAN), ..base.clone() },
            Strategy { top_p: Some(0.0), ..base.clone() },
            Strategy { top_k: Some(2000), ..base.clone() },
            Strategy { mask: MaskSchedule::Counts(vec![256]), ..base.clone() },
            Strategy { token_temperature: TokenTemperature::Constant(0.0), ..base.clone() },
            base.clone().with_cache(CachePolicy::Explicit(vec![12])),
            base.clone().with_cache(CachePolicy::Every(0)),
            base.clone().with_guidance(Guidance::Constant(-0.5)),
            Strategy { order: crate::OrderKind::Explicit(vec![256]), ..base.clone() },
        ];
        for strategy in wrong {
            assert!(strategy.plan(&config).is_err(), "{strategy:?}");
        }
        let guided = base.clone().with_guidance(Guidance::Constant(1.0));
        let strict = Strategy { unconditional: Unconditional::Null, ..guided.clone() };
        let published = ModelConfig { null_class: false, ..config.clone() };
        assert!(guided.plan(&published).is_ok() && strict.plan(&config).is_ok());
        assert!(strict.plan(&published).unwrap_err().to_string().contains("null class"));
        assert!(strict.with_guidance(Guidance::Off).plan(&published).is_ok());
        assert!(base.plan_for(&config, 0).is_err());
        assert!(base.plan_for(&config, 11).is_err());
        assert!(base.plan_for(&config, 300).is_err());
    }
}
