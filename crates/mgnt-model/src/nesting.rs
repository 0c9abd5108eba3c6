use std::fmt;

use crate::{ModelConfig, Nesting};

/// A sub-model by its downscaling factor p: p = 1 is the full model, p = 2 half of it.
///
/// It comes from [`ModelConfig::sub_model`], so that p divides what it has to divide in models of that configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubModel(usize);

impl SubModel {
    pub(crate) fn of_validated(p: usize) -> Self {
        Self(p)
    }

    /// The downscaling factor.
    pub fn p(self) -> usize {
        self.0
    }

    /// Attention heads that it uses: the first ones.
    pub fn heads(self, config: &ModelConfig) -> usize {
        match config.nesting {
            Nesting::HeadsAndHidden | Nesting::Features => config.heads / self.0,
            Nesting::Hidden => config.heads,
        }
    }

    /// Features of the residual stream that its projections read and write: the first ones.
    pub fn features(self, config: &ModelConfig) -> usize {
        match config.nesting {
            Nesting::HeadsAndHidden | Nesting::Hidden => config.width,
            Nesting::Features => config.width / self.0,
        }
    }

    /// Width of its queries, keys and values.
    pub fn attention_width(self, config: &ModelConfig) -> usize {
        self.heads(config) * config.head_width()
    }

    /// Hidden units that it uses: the first ones.
    pub fn hidden(self, config: &ModelConfig) -> usize {
        config.hidden / self.0
    }

    /// Whether keys and values of one sub-model can serve another.
    pub fn shares_cache_with(self, other: SubModel, config: &ModelConfig) -> bool {
        self.heads(config) == other.heads(config)
    }
}

impl fmt::Display for SubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p = {}", self.0)
    }
}
