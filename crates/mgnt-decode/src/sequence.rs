//! One sample's tokens in decode order: decided ones first, in the order of their decision, then the others.

use mgnt_model::Vocabulary;

use crate::noise::Stream;
use crate::order::decide;
use crate::{Error, TokenSampler};

/// One sample on its way. The class token stands before the first place and is not counted here.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    class: u32,
    /// Raster positions in decode order.
    places: Vec<usize>,
    /// Tokens in decode order; what was last drawn where undecided.
    tokens: Vec<u16>,
    decided: usize,
}

impl Sequence {
    /// Known tokens are decided, in raster order.
    pub fn new(class: u32, known: &[Option<u16>]) -> Self {
        let (given, open): (Vec<usize>, Vec<usize>) = (0..known.len()).partition(|&i| known[i].is_some());
        let tokens = given.iter().map(|&i| known[i].unwrap_or(0)).chain(open.iter().map(|_| 0)).collect();
        let decided = given.len();
        Self { class, places: [given, open].concat(), tokens, decided }
    }

    /// All undecided, with an order and tokens (by raster place) that are known beforehand.
    pub fn replayed(class: u32, order: &[usize], tokens: &[u16]) -> Self {
        let tokens = order.iter().map(|&place| tokens[place]).collect();
        Self { class, places: order.to_vec(), tokens, decided: 0 }
    }

    /// Decides the next `count` places at the tokens that they have.
    pub fn advance(&mut self, count: usize) {
        self.decided = (self.decided + count).min(self.places.len());
    }

    /// Undecided raster places, in decode order.
    pub fn open_places(&self) -> &[usize] {
        &self.places[self.decided..]
    }

    /// Tokens and positions that the model sees from sequence position `start` of the decode order on;
    /// the class token is at position 0, and the null class stands in for it where `unconditional`.
    pub fn active(&self, start: usize, vocabulary: &Vocabulary, unconditional: bool) -> (Vec<i32>, Vec<i32>) {
        let class = if unconditional { vocabulary.null() } else { self.class };
        let mask = vocabulary.mask() as i32;
        let seen = |i: usize| if i < self.decided { i32::from(self.tokens[i]) } else { mask };
        let tokens = std::iter::once(class as i32).chain((0..self.tokens.len()).map(seen));
        let positions = std::iter::once(0).chain(self.places.iter().map(|&place| place as i32 + 1));
        (tokens.skip(start).collect(), positions.skip(start).collect())
    }

    /// Draws a token at each undecided place from its logits `[M, V]`, and decides `count` of them.
    pub fn draw_and_decide(
        &mut self,
        logits: &[f32],
        sampler: &TokenSampler,
        noise: &Stream,
        count: usize,
    ) -> Result<(), Error> {
        let open = &self.places[self.decided..];
        let drawn = sampler.draw(logits, open, noise)?;
        let chosen = decide(&drawn.scores, open, count);

        // Newly decided places come first, in the order of their decision, then the rest as it stood.
        let mut is_chosen = vec![false; open.len()];
        chosen.iter().for_each(|&i| is_chosen[i] = true);
        let rest = (0..open.len()).filter(|&i| !is_chosen[i]);
        let order: Vec<usize> = chosen.iter().copied().chain(rest).collect();
        let places: Vec<usize> = order.iter().map(|&i| open[i]).collect();
        self.places[self.decided..].copy_from_slice(&places);
        for (token, &i) in self.tokens[self.decided..].iter_mut().zip(&order) {
            *token = drawn.codes[i];
        }
        self.decided += chosen.len();
        Ok(())
    }

    /// Tokens in raster order.
    pub fn raster(&self) -> Vec<u16> {
        let mut raster = vec![0; self.tokens.len()];
        self.places.iter().zip(&self.tokens).for_each(|(&place, &token)| raster[place] = token);
        raster
    }

    /// Whether each place, in raster order, is still undecided.
    pub fn undecided(&self) -> Vec<bool> {
        let mut open = vec![false; self.tokens.len()];
        self.places[self.decided..].iter().for_each(|&place| open[place] = true);
        open
    }
}
