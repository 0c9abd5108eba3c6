//! Logits to codes and scores, on the host.

use crate::noise::Stream;
use crate::order::{Candidate, Order};
use crate::{Error, Iteration, Plan};

/// Draws a token at each undecided place and says how sure it is.
pub(crate) struct TokenSampler<'a> {
    order: &'a dyn Order,
    token_temperature: f64,
    choice_temperature: f64,
    top_k: Option<usize>,
    top_p: Option<f64>,
}

/// A code and a score for each undecided place.
pub(crate) struct Drawn {
    pub codes: Vec<u16>,
    pub scores: Vec<f64>,
}

impl<'a> TokenSampler<'a> {
    pub fn new(plan: &'a Plan, iteration: &Iteration) -> Self {
        Self {
            order: plan.order(),
            token_temperature: iteration.token_temperature,
            choice_temperature: iteration.choice_temperature,
            top_k: plan.strategy().top_k,
            top_p: plan.strategy().top_p,
        }
    }

    /// `logits [places, V]`, a row for each of `places`.
    ///
    /// Fails where some are not finite.
    pub fn draw(&self, logits: &[f32], places: &[usize], noise: &Stream) -> Result<Drawn, Error> {
        let codes = logits.len() / places.len().max(1);
        let mut row = Row::default();
        let draws = noise.at(places);
        let drawn = places.iter().zip(&draws).zip(logits.chunks_exact(codes.max(1)));
        let (mut codes, mut scores) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
        for ((&place, draws), logits) in drawn {
            let code = row.draw(logits, self.token_temperature, self.top_k, self.top_p, draws.token)?;
            let choice_temperature = self.choice_temperature;
            let candidate = Candidate { place, logits, code, uniform: draws.choice, choice_temperature };
            codes.push(code as u16);
            scores.push(self.order.score(&candidate));
        }
        Ok(Drawn { codes, scores })
    }
}

/// `log softmax(logits)[code]`.
pub(crate) fn log_softmax(logits: &[f32], code: usize) -> f64 {
    let highest = highest(logits);
    let sum: f64 = logits.iter().map(|&l| f64::from((l - highest).exp())).sum();
    f64::from(logits[code] - highest) - sum.ln()
}

fn highest(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Scratch for the draw from one row, so that no row allocates.
#[derive(Default)]
struct Row {
    weights: Vec<f32>,
    order: Vec<usize>,
}

impl Row {
    /// A code drawn from `softmax(logits / temperature)`, cut to the most probable ones, by the inverse of the
    /// cumulative distribution at `uniform`.
    ///
    /// Fails where a logit is no number, or none is finite.
    fn draw(
        &mut self,
        logits: &[f32],
        temperature: f64,
        top_k: Option<usize>,
        top_p: Option<f64>,
        uniform: f64,
    ) -> Result<usize, Error> {
        let highest = highest(logits);
        let inverse = (1.0 / temperature) as f32;
        self.weights.clear();
        self.weights.extend(logits.iter().map(|&l| ((l - highest) * inverse).exp()));
        let mut total = self.total();
        if !total.is_finite() {
            return Err(Error::NotFinite);
        }
        if top_k.is_some() || top_p.is_some() {
            self.cut(top_k.unwrap_or(logits.len()), top_p.unwrap_or(1.0));
            total = self.total();
        }
        let target = uniform * total;
        let mut sum = 0.0;
        let mut last = 0;
        for (code, &weight) in self.weights.iter().enumerate() {
            if weight > 0.0 {
                sum += f64::from(weight);
                last = code;
                if sum > target {
                    break;
                }
            }
        }
        Ok(last)
    }

    fn total(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }

    /// Sets to zero all but the `k` largest weights, and of those all but the fewest that hold the share `p`.
    fn cut(&mut self, k: usize, p: f64) {
        let weights = &mut self.weights;
        self.order.clear();
        self.order.extend(0..weights.len());
        self.order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]).then(a.cmp(&b)));
        let kept = &self.order[..k.min(weights.len())];
        let total: f64 = kept.iter().map(|&i| f64::from(weights[i])).sum();
        let mut sum = 0.0;
        let enough = kept
            .iter()
            .position(|&i| {
                sum += f64::from(weights[i]);
                sum >= p * total
            })
            .map_or(kept.len(), |i| i + 1);
        for &i in &self.order[enough..] {
            weights[i] = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Noise;

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, -1.0, 2.0];
        let places: Vec<usize> = (0..40_000).collect();
        for temperature in [1.0, 0.5] {
            let mut counts = [0.0; 4];
            let mut row = Row::default();
            for draws in Noise::new(3).stream(0, 0).at(&places) {
                counts[row.draw(&logits, temperature, None, None, draws.token).unwrap()] += 1.0;
            }
            let weights = logits.map(|l| (f64::from(l) / temperature).exp());
            let sum: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let expected = weight / sum;
                assert!((count / 40_000.0 - expected).abs() < 0.01, "{counts:?} at {temperature}");
            }
        }
    }

    #[test]
    fn cuts_keep_the_most_probable() {
        let logits = [0.0f32, 3.0, 1.0, 2.0];
        let mut row = Row::default();
        let mut met = |k, p| -> Vec<usize> {
            let mut codes: Vec<_> = (0..200)
                .map(|i| row.draw(&logits, 1.0, k, p, (f64::from(i) + 0.5) / 200.0).unwrap())
                .collect();
            codes.sort_unstable();
            codes.dedup();
            codes
        };
        assert_eq!(met(Some(1), None), [1]);
        assert_eq!(met(Some(2), None), [1, 3]);
        // Shares: 0.644, 0.237, 0.087, 0.032.
        assert_eq!(met(None, Some(0.6)), [1]);
        assert_eq!(met(None, Some(0.88)), [1, 3]);
        assert_eq!(met(None, Some(0.9)), [1, 2, 3]);
        assert_eq!(met(None, None), [0, 1, 2, 3]);
    }

    #[test]
    fn extreme_logits_stay_in_range() {
        let mut row = Row::default();
        let mut draw =
            |logits: &[f32], temperature, uniform| row.draw(logits, temperature, None, None, uniform);
        assert_eq!(draw(&[-1e30, 1e30, 0.0], 1.0, 0.999_999_9).unwrap(), 1);
        assert_eq!(draw(&[5.0; 7], 1.0, 1.0 - 1e-16).unwrap(), 6);
        assert_eq!(draw(&[f32::NEG_INFINITY, 2.0, 1.0], 1e-30, 0.9).unwrap(), 1);
        for broken in [[f32::NAN, 1.0], [-f32::NAN, 1.0], [1.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
            for top_k in [None, Some(1)] {
                let error = row.draw(&broken, 1.0, top_k, None, 0.5).unwrap_err();
                assert!(matches!(error, Error::NotFinite), "{broken:?}");
            }
        }
        assert!((log_softmax(&[1000.0, 1000.0], 0) - 0.5f64.ln()).abs() < 1e-6);
    }

    /// The published selection: log-probability of the sampled code plus tempered Gumbel noise.
    #[test]
    fn confidences_of_the_published_code() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden/sampler/sampler.safetensors");
        let map = mgnt_weights::safetensors::read(&path).unwrap();
        for case in 0..4 {
            let get = |name: &str| map.get(&format!("selection/{case}/{name}")).unwrap();
            let (logits, sampled) = (get("logits").to_f32(), get("sampled").to_i64().unwrap());
            let (noise, expected) = (get("choice_gumbel").to_f64(), get("confidence").to_f64());
            let temperature = get("temperature").to_f64()[0];
            let codes = logits.len() / sampled.len();
            for (i, (&code, expected)) in sampled.iter().zip(expected).enumerate() {
                if expected > 1e38 {
                    continue;
                }
                let row = &logits[i * codes..(i + 1) * codes];
                let ours = log_softmax(row, code as usize) + temperature * noise[i];
                assert!(
                    (ours - expected).abs() < 1e-4 * (1.0 + expected.abs()),
                    "{case}/{i}: {ours} {expected}"
                );
            }
        }
    }
}
