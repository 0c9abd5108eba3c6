use serde::{Deserialize, Serialize};

/// When keys and values of decided tokens are computed anew. The first iteration and a change of the cache's width
/// always refresh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CachePolicy {
    /// Every iteration is a refresh.
    Off,
    /// At a change of the sub-model (the paper's).
    #[default]
    AtSizeSwitch,
    /// At a change of the sub-model, and after every so many iterations.
    Every(usize),
    /// At these iterations, 0-based, besides those that must.
    Explicit(Vec<usize>),
}

impl CachePolicy {
    /// Whether the policy asks for a refresh at `iteration`, `since` iterations after the last one.
    pub(crate) fn asks(&self, iteration: usize, since: usize, size_changed: bool) -> bool {
        match self {
            Self::Off => true,
            Self::AtSizeSwitch => size_changed,
            Self::Every(n) => size_changed || since >= *n,
            Self::Explicit(iterations) => iterations.contains(&iteration),
        }
    }
}
