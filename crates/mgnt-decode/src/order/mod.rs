//! Which of the drawn tokens are decided: a score for each, the highest first.

mod halton;

use std::fmt::Debug;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::noise::gumbel;
use crate::sampler::log_softmax;
pub use halton::halton;

/// A rule that orders the decisions.
pub trait Order: Debug + Send + Sync {
    /// The score of a drawn token; those with the highest are decided, and ties break by place.
    fn score(&self, candidate: &Candidate) -> f64;

    /// The same as a rule that a device knows, for decodes that stay there; `None` where it is known on the host only.
    fn rule(&self) -> Option<Rule<'_>> {
        None
    }
}

/// An order that a device can follow by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule<'a> {
    /// [`Confidence`].
    Confidence,
    /// [`Random`].
    Random,
    /// The rank of each raster place, the lowest first.
    Places(&'a [usize]),
}

/// A token that was drawn at an undecided place.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Raster place.
    pub place: usize,
    /// Logits over the codes there, guided and untempered.
    pub logits: &'a [f32],
    /// The code that was drawn.
    pub code: usize,
    /// A uniform random number of its own, between 0 and 1.
    pub uniform: f64,
    /// Factor of the Gumbel noise in this iteration.
    pub choice_temperature: f64,
}

impl Candidate<'_> {
    /// `log softmax(logits)[code]`.
    pub fn log_probability(&self) -> f64 {
        log_softmax(self.logits, self.code)
    }
}

/// By the drawn token's log-probability plus Gumbel noise (MaskGIT).
#[derive(Debug, Clone, Copy, Default)]
pub struct Confidence;

impl Order for Confidence {
    fn score(&self, candidate: &Candidate) -> f64 {
        candidate.log_probability() + candidate.choice_temperature * gumbel(candidate.uniform)
    }

    fn rule(&self) -> Option<Rule<'_>> {
        Some(Rule::Confidence)
    }
}

/// At random.
#[derive(Debug, Clone, Copy, Default)]
pub struct Random;

impl Order for Random {
    fn score(&self, candidate: &Candidate) -> f64 {
        candidate.uniform
    }

    fn rule(&self) -> Option<Rule<'_>> {
        Some(Rule::Random)
    }
}

/// A fixed sequence of places, which looks at no token: positions of the cache are then known beforehand.
#[derive(Debug, Clone)]
pub struct Sequenced {
    /// Rank of each raster place.
    ranks: Vec<usize>,
}

impl Sequenced {
    /// These places first, in this order, then the others of `tokens` in raster order.
    pub fn new(places: impl IntoIterator<Item = usize>, tokens: usize) -> Self {
        let mut ranks = vec![usize::MAX; tokens];
        let mut next = 0;
        for place in places.into_iter().chain(0..tokens) {
            if place < tokens && ranks[place] == usize::MAX {
                ranks[place] = next;
                next += 1;
            }
        }
        Self { ranks }
    }

    /// Along the Halton sequence over the squarest grid of `tokens`, which spreads decisions evenly.
    pub fn halton(tokens: usize) -> Self {
        let (rows, columns) = grid_of(tokens);
        Self::new(halton(rows, columns), tokens)
    }
}

impl Order for Sequenced {
    fn score(&self, candidate: &Candidate) -> f64 {
        -(self.ranks.get(candidate.place).copied().unwrap_or(usize::MAX) as f64)
    }

    fn rule(&self) -> Option<Rule<'_>> {
        Some(Rule::Places(&self.ranks))
    }
}

/// An order as a strategy names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// [`Confidence`].
    #[default]
    Confidence,
    /// [`Random`].
    Random,
    /// [`Sequenced::halton`].
    Halton,
    /// [`Sequenced::new`] of these places.
    Explicit(Vec<usize>),
}

/// The first of `places` that is not below `tokens`, or was there before.
pub(crate) fn first_wrong(places: &[usize], tokens: usize) -> Option<usize> {
    let mut seen = vec![false; tokens];
    places.iter().copied().find(|&place| seen.get_mut(place).is_none_or(|seen| std::mem::replace(seen, true)))
}

impl OrderKind {
    /// Refuses places that are not among `tokens`, or come twice.
    pub(crate) fn validate(&self, tokens: usize) -> Result<(), Error> {
        let Self::Explicit(places) = self else { return Ok(()) };
        match first_wrong(places, tokens) {
            Some(place) => Err(Error::field("order", format!("places below {tokens}, each once"), place)),
            None => Ok(()),
        }
    }

    /// The order over `tokens` places.
    pub(crate) fn order(&self, tokens: usize) -> Arc<dyn Order> {
        match self {
            Self::Confidence => Arc::new(Confidence),
            Self::Random => Arc::new(Random),
            Self::Halton => Arc::new(Sequenced::halton(tokens)),
            Self::Explicit(places) => Arc::new(Sequenced::new(places.iter().copied(), tokens)),
        }
    }
}

/// `confidence`, `random`, `halton`, or a list of places.
impl FromStr for OrderKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "confidence" => Ok(Self::Confidence),
            "random" => Ok(Self::Random),
            "halton" => Ok(Self::Halton),
            list => {
                let places = list.split(',').map(|word| word.trim().parse()).collect::<Result<_, _>>();
                let places = places.map_err(|_| {
                    Error::field("order", "confidence, random, halton or a list of places", text)
                })?;
                Ok(Self::Explicit(places))
            }
        }
    }
}

/// Indices into `scores` of the `count` highest, in falling order of score; ties break by raster place.
pub(crate) fn decide(scores: &[f64], places: &[usize], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let by_score =
        |&a: &usize, &b: &usize| scores[b].total_cmp(&scores[a]).then_with(|| places[a].cmp(&places[b]));
    let count = count.min(order.len());
    if count < order.len() {
        order.select_nth_unstable_by(count, by_score);
        order.truncate(count);
    }
    order.sort_unstable_by(by_score);
    order
}

/// The squarest grid of that many places.
fn grid_of(tokens: usize) -> (usize, usize) {
    let rows = (1..=tokens.isqrt()).rev().find(|rows| tokens.is_multiple_of(*rows)).unwrap_or(1);
    (rows, tokens / rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_first_and_ties_by_place() {
        let scores = [0.5, 2.0, 0.5, -1.0, 2.0];
        let places = [9, 8, 3, 1, 2];
        assert_eq!(decide(&scores, &places, 3), [4, 1, 2]);
        assert_eq!(decide(&scores, &places, 5), [4, 1, 2, 0, 3]);
        assert_eq!(decide(&scores, &places, 9).len(), 5);
        assert!(decide(&scores, &places, 0).is_empty());
    }

    #[test]
    fn explicit_places_come_first() {
        assert_eq!(Sequenced::new([3, 1, 3, 99], 4).ranks, [2, 1, 3, 0]);
        assert_eq!(grid_of(12), (3, 4));
        assert!("spiral".parse::<OrderKind>().is_err());
        assert_eq!("3, 1".parse::<OrderKind>().unwrap(), OrderKind::Explicit(vec![3, 1]));
        for (places, right) in [(vec![3, 1], true), (vec![], true), (vec![4], false), (vec![1, 1], false)] {
            assert_eq!(OrderKind::Explicit(places.clone()).validate(4).is_ok(), right, "{places:?}");
        }
    }

    #[test]
    fn scores_of_each_order() {
        let candidate = Candidate {
            place: 2,
            logits: &[0.0, 0.0],
            code: 1,
            uniform: (-1.0f64).exp(),
            choice_temperature: 3.0,
        };
        // The Gumbel number of exp(-1) is 0.
        assert!((Confidence.score(&candidate) - 0.5f64.ln()).abs() < 1e-12);
        assert_eq!(Random.score(&candidate), (-1.0f64).exp());
        assert_eq!(Sequenced::new([2], 4).score(&candidate), 0.0);
    }
}
