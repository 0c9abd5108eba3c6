//! Which of the drawn tokens are decided: a score for each place, the highest first.

mod halton;

use serde::{Deserialize, Serialize};

pub use halton::halton;

/// The rule that orders the decisions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderKind {
    /// By the drawn token's log-probability plus Gumbel noise (MaskGIT).
    #[default]
    Confidence,
    /// At random.
    Random,
    /// Along the Halton sequence over the token grid, which spreads decisions evenly and looks at no token.
    Halton,
    /// These raster places first, in this order; places not named come last, in raster order.
    Explicit(Vec<usize>),
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

/// The rank of each raster place in an order that looks at no token, over `tokens` places; `None` for those that do.
pub(crate) fn fixed_ranks(kind: &OrderKind, tokens: usize) -> Option<Vec<usize>> {
    let sequence = match kind {
        OrderKind::Confidence | OrderKind::Random => return None,
        OrderKind::Halton => {
            let (rows, columns) = grid_of(tokens);
            halton(rows, columns)
        }
        OrderKind::Explicit(places) => places.clone(),
    };
    let mut ranks = vec![usize::MAX; tokens];
    let mut next = 0;
    let rest = 0..tokens;
    for place in sequence.into_iter().chain(rest) {
        if place < tokens && ranks[place] == usize::MAX {
            ranks[place] = next;
            next += 1;
        }
    }
    Some(ranks)
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
        assert_eq!(fixed_ranks(&OrderKind::Explicit(vec![3, 1, 3, 99]), 4), Some(vec![2, 1, 3, 0]));
        assert_eq!(fixed_ranks(&OrderKind::Confidence, 4), None);
        assert_eq!(grid_of(12), (3, 4));
    }
}
