use mgnt_model::ModelConfig;
use serde::{Deserialize, Serialize};

use super::model_schedule::MOST_ITERATIONS;
use crate::order::OrderKind;
use crate::{
    CachePolicy, ChoiceTemperature, Error, Guidance, MaskSchedule, ModelSchedule, Plan, TokenTemperature,
    Unconditional,
};

/// How to decode, as a person writes it (options or RON). [`Strategy::plan`] turns it into a [`Plan`], the one
/// place where it is checked against a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strategy {
    /// Sub-model of each iteration.
    pub models: ModelSchedule,
    /// Tokens left masked after each iteration.
    #[serde(default)]
    pub mask: MaskSchedule,
    /// When the cache is refreshed.
    #[serde(default)]
    pub cache: CachePolicy,
    /// Classifier-free guidance.
    #[serde(default)]
    pub guidance: Guidance,
    /// What guidance's unconditional copy has in the place of the class.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unconditional: Unconditional,
    /// Temperature at which tokens are drawn.
    #[serde(default)]
    pub token_temperature: TokenTemperature,
    /// Gumbel noise on the confidence.
    #[serde(default)]
    pub choice_temperature: ChoiceTemperature,
    /// Which of the drawn tokens are decided.
    #[serde(default)]
    pub order: OrderKind,
    /// Draw among the k most probable codes only.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Draw among the most probable codes that hold this share of the probability.
    #[serde(default)]
    pub top_p: Option<f64>,
}

/// Not written where it is the default: a sweep knows its earlier results by the strategy as it was written.
fn is_default(unconditional: &Unconditional) -> bool {
    *unconditional == Unconditional::default()
}

impl Strategy {
    /// MaskGIT's sampling with these sub-models and the paper's cache.
    pub fn new(models: ModelSchedule) -> Self {
        Self {
            models,
            mask: MaskSchedule::default(),
            cache: CachePolicy::default(),
            guidance: Guidance::default(),
            unconditional: Unconditional::default(),
            token_temperature: TokenTemperature::default(),
            choice_temperature: ChoiceTemperature::default(),
            order: OrderKind::default(),
            top_k: None,
            top_p: None,
        }
    }

    /// [`Strategy::new`] from a written schedule such as `8x3,4x3,2x3,1x3`.
    pub fn parse(models: &str) -> Result<Self, Error> {
        Ok(Self::new(models.parse()?))
    }

    /// Plain MaskGIT: the full model in every iteration, no cache.
    pub fn baseline(iterations: usize) -> Self {
        Self::new(ModelSchedule::constant(1, iterations)).with_cache(CachePolicy::Off)
    }

    /// With another cache policy.
    pub fn with_cache(mut self, cache: CachePolicy) -> Self {
        self.cache = cache;
        self
    }

    /// The same with the full model in every iteration.
    pub fn of_full_model(self) -> Self {
        Self { models: ModelSchedule::constant(1, self.iterations()), ..self }
    }

    /// With guidance.
    pub fn with_guidance(mut self, guidance: Guidance) -> Self {
        self.guidance = guidance;
        self
    }

    /// Number of iterations, K.
    pub fn iterations(&self) -> usize {
        self.models.factors().len()
    }

    /// The plan for whole pictures of a model.
    pub fn plan(&self, config: &ModelConfig) -> Result<Plan, Error> {
        self.plan_for(config, config.tokens)
    }

    /// The plan for pictures of which `unknown` tokens are to be decided and the others are given.
    pub fn plan_for(&self, config: &ModelConfig, unknown: usize) -> Result<Plan, Error> {
        Plan::new(self, config, unknown)
    }

    pub(crate) fn validate(&self, config: &ModelConfig) -> Result<(), Error> {
        if self.iterations() > MOST_ITERATIONS {
            return Err(Error::field("iterations", format!("at most {MOST_ITERATIONS}"), self.iterations()));
        }
        self.guidance.validate(self.iterations())?;
        self.token_temperature.validate(self.iterations())?;
        self.choice_temperature.validate(self.iterations())?;
        self.order.validate(config.tokens)?;
        let steps = self.iterations();
        if self.unconditional == Unconditional::Null
            && !config.null_class
            && (0..steps).any(|i| self.guidance.scale(i, steps) > 0.0)
        {
            return Err(Error::field("guidance", "a model with a null class", "one without"));
        }
        if let CachePolicy::Every(0) = self.cache {
            return Err(Error::field("cache refresh interval", "at least 1", 0));
        }
        if let CachePolicy::Explicit(iterations) = &self.cache
            && let Some(i) = iterations.iter().find(|&&i| i >= self.iterations())
        {
            return Err(Error::field("cache refresh", format!("iterations below {}", self.iterations()), i));
        }
        if let Some(k) = self.top_k
            && (k == 0 || k > config.codes)
        {
            return Err(Error::field("top-k", format!("1 to {}, the number of codes", config.codes), k));
        }
        if let Some(p) = self.top_p
            && !(p > 0.0 && p <= 1.0)
        {
            return Err(Error::field("top-p", "above 0 and at most 1", p));
        }
        Ok(())
    }
}
