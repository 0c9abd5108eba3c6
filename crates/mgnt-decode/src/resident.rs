//! A batch whose tokens, noise and choices stay on the model's device from the first iteration to the last.
//!
//! Every shape is the plan's, so nothing is read back on the way: an accelerator runs ahead of the host. Draws use the
//! same random numbers as on the host ([`Sequence`](crate::sequence::Sequence)), in f32 instead of f64: where two
//! scores, or a random number and a bound between two codes, are equal to f32's rounding, another token may come out.

use std::time::Duration;

use burn::tensor::{Bool, Device, IndexingUpdateOp, Int, IntDType, Tensor, TensorData, s};
use mgnt_model::NestedTransformer;
use mgnt_model::kernels::Kernels;
use rayon::prelude::*;

use crate::noise::{Draws, Noise, gumbel};
use crate::order::Rule;
use crate::samples::{Samples, Start, read};
use crate::{Error, Iteration, Plan};

/// What a decode reads that comes from the host: all of it is there before the first iteration.
pub(crate) struct Inputs<'a> {
    rule: Rule<'a>,
    /// Of the device, where the model is computed by some.
    kernels: Option<&'a dyn Kernels>,
    mask: u32,
    null: u32,
    top_k: Option<usize>,
    /// Tokens that were given, alike in all samples.
    given: usize,
    /// Class token, given tokens, 0 at the others, `[B, 1 + N]`.
    tokens: Tensor<2, Int>,
    /// Their positions: 0 for the class, raster place + 1, `[B, 1 + N]`.
    positions: Tensor<2, Int>,
    /// For the draws of tokens, by iteration and raster place, `[K, B, N]`.
    token_noise: Tensor<3>,
    /// For the choice among them, `[K, B, N]`, where the rule takes any.
    choice_noise: Option<Tensor<3>>,
    /// The rank of each raster place, `[1, N]`, where the rule is a sequence of places.
    ranks: Option<Tensor<2>>,
    /// 0 to N - 1, `[1, N]`: a range made on the way may come from the host, which no graph can record.
    range: Tensor<2, Int>,
}

/// The largest f32 below one.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON / 2.0;

impl<'a> Inputs<'a> {
    /// `None` where the plan's order, for some place at least, or its top-p cut is known on the host only.
    pub fn new(model: &'a NestedTransformer, plan: &'a Plan, start: &Start) -> Option<Self> {
        let rule = plan.order().rule()?;
        // A device would read the rank of a place that has none from beyond the last.
        let is_short = matches!(rule, Rule::Places(ranks) if ranks.len() < start.known.len());
        if is_short || plan.strategy().top_p.is_some() {
            return None;
        }
        let device = model.device();
        let vocabulary = model.config().vocabulary();
        let batch = start.classes.len();
        let (given, open): (Vec<usize>, Vec<usize>) =
            (0..start.known.len()).partition(|&place| start.known[place].is_some());
        let places: Vec<i32> = given.iter().chain(&open).map(|&place| place as i32 + 1).collect();
        let known = given.iter().filter_map(|&place| start.known[place]).map(i32::from);
        let tokens: Vec<i32> = known.chain(open.iter().map(|_| 0)).collect();
        let length = 1 + places.len();
        let whole = |first: &dyn Fn(usize) -> i32, rest: &[i32]| {
            let values: Vec<i32> =
                (0..batch).flat_map(|row| std::iter::once(first(row)).chain(rest.iter().copied())).collect();
            Tensor::<2, Int>::from_data(TensorData::new(values, [batch, length]), &device)
        };
        let draws = draws(plan, start);
        let noise = |of: fn(&Draws) -> f32| {
            let values: Vec<f32> = draws.par_iter().map(of).collect();
            Tensor::from_data(TensorData::new(values, [plan.iterations().len(), batch, length - 1]), &device)
        };
        let ranks = match rule {
            Rule::Places(ranks) => {
                let ranks: Vec<f32> = ranks.iter().map(|&rank| rank as f32).collect();
                let length = ranks.len();
                Some(Tensor::from_data(TensorData::new(ranks, [1, length]), &device))
            }
            _ => None,
        };
        Some(Self {
            rule,
            kernels: model.kernels(),
            mask: vocabulary.mask(),
            null: vocabulary.null(),
            top_k: plan.strategy().top_k.filter(|&k| k < model.config().codes),
            given: given.len(),
            tokens: whole(&|row| start.classes[row] as i32, &tokens),
            positions: whole(&|_| 0, &places),
            token_noise: noise(|draws| (draws.token as f32).min(BELOW_ONE)),
            choice_noise: match rule {
                Rule::Confidence => Some(noise(|draws| gumbel(draws.choice) as f32)),
                Rule::Random => Some(noise(|draws| draws.choice as f32)),
                Rule::Places(_) => None,
            },
            ranks,
            range: Tensor::arange(0..(length - 1) as i64, &device).unsqueeze(),
        })
    }

    /// Writes what differs from batch to batch where it stood before: a graph reads these very buffers.
    pub fn overwrite(&mut self, new: Self) {
        self.tokens.inplace(|old| old.slice_assign(s![.., ..], new.tokens));
        self.token_noise.inplace(|old| old.slice_assign(s![.., .., ..], new.token_noise));
        if let (Some(old), Some(new)) = (&mut self.choice_noise, new.choice_noise) {
            old.inplace(|old| old.slice_assign(s![.., .., ..], new));
        }
    }
}

/// The samples of a batch, in decode order, on a device.
pub(crate) struct Resident<'a> {
    inputs: &'a Inputs<'a>,
    /// Class token, decided tokens in the order of their decision, what was last drawn at the others, `[B, 1 + N]`.
    tokens: Tensor<2, Int>,
    positions: Tensor<2, Int>,
    /// Tokens decided, alike in all samples.
    decided: usize,
    /// The sum of the log-probabilities of all that was drawn, `[B, 1]`: no number where some logits were none.
    sureness: Tensor<2>,
    device: Device,
}

impl<'a> Resident<'a> {
    /// Samples before the first iteration.
    pub fn new(inputs: &'a Inputs<'a>) -> Self {
        let (tokens, positions) = (inputs.tokens.clone(), inputs.positions.clone());
        let device = tokens.device();
        let sureness = Tensor::zeros([tokens.dims()[0], 1], &device);
        Self { inputs, tokens, positions, decided: inputs.given, sureness, device }
    }

    fn batch(&self) -> usize {
        self.tokens.dims()[0]
    }

    /// Draws a token at each undecided place from its logits `[B * M, V]`, and decides as many as the plan says.
    pub fn draw(&mut self, logits: Tensor<2>, iteration: &Iteration) {
        let (batch, masked, count) = (self.batch(), iteration.masked, iteration.decided);
        let first = 1 + self.decided;
        let positions = self.positions.clone().slice(s![.., first..]);
        let places = positions.clone() - 1;
        let uniform = self.noise_at(&self.inputs.token_noise, iteration.index, &places);
        let uniform = uniform.reshape([batch * masked, 1]);
        let temperature = iteration.token_temperature;
        let drawn = match (self.inputs.kernels, self.inputs.top_k) {
            (Some(kernels), None) => {
                let (codes, log_probabilities) = kernels.draw(logits, uniform, temperature);
                Drawn { codes, log_probabilities }
            }
            (_, top_k) => Drawn::new(logits, uniform, temperature, top_k),
        };
        let log_probabilities = drawn.log_probabilities.reshape([batch, masked]);
        self.sureness = self.sureness.clone() + log_probabilities.clone().sum_dim(1);
        // Kernels draw codes of their own type, and decide what is of one type.
        let codes = drawn.codes.cast(IntDType::from(positions.dtype())).reshape([batch, masked]);

        // Newly decided places come first, in the order of their decision, then the rest as it stood; where all are decided, there
        // is nothing to choose.
        let [codes, positions] = if count == masked {
            [codes, positions]
        } else {
            let scores = self.scores(log_probabilities, iteration, &places);
            match self.inputs.kernels {
                Some(kernels) => kernels.decide(scores, codes, positions, count),
                None => {
                    // The choice among what is no number is a device's own, a place that is none too; `sureness` tells of it.
                    let scores = scores.clone().mask_fill(scores.is_nan(), f32::MIN);
                    let (_, chosen) = scores.topk_with_indices(count, 1);
                    let source = sources(chosen, masked, &self.inputs.range);
                    [codes, positions].map(|all| all.gather(1, source.clone()))
                }
            }
        };
        let before = |whole: &Tensor<2, Int>| whole.clone().slice(s![.., ..first]);
        self.tokens = Tensor::cat(vec![before(&self.tokens), codes], 1);
        self.positions = Tensor::cat(vec![before(&self.positions), positions], 1);
        self.decided += count;
    }

    /// Tokens in raster order, and in a last column whether any logits were not finite, `[B, N + 1]`, for [`rows_of`].
    pub fn in_raster_order(&self) -> Tensor<2, Int> {
        let tokens = self.tokens.clone().slice(s![.., 1..]);
        let places = self.positions.clone().slice(s![.., 1..]) - 1;
        let tokens =
            Tensor::zeros(tokens.dims(), &self.device).scatter(1, places, tokens, IndexingUpdateOp::Add);
        Tensor::cat(vec![tokens, self.sureness.clone().is_nan().int()], 1)
    }

    /// Random numbers of an iteration at `places [B, M]`.
    fn noise_at(&self, all: &Tensor<3>, iteration: usize, places: &Tensor<2, Int>) -> Tensor<2> {
        let [_, batch, tokens] = all.dims();
        let now = all.clone().slice(s![iteration..iteration + 1, .., ..]).reshape([batch, tokens]);
        now.gather(1, places.clone())
    }

    /// How good a choice each drawn code is, of its log-probability `[B, M]`.
    fn scores(
        &self,
        log_probabilities: Tensor<2>,
        iteration: &Iteration,
        places: &Tensor<2, Int>,
    ) -> Tensor<2> {
        let noise =
            self.inputs.choice_noise.as_ref().map(|noise| self.noise_at(noise, iteration.index, places));
        match (self.inputs.rule, noise, &self.inputs.ranks) {
            (Rule::Confidence, Some(noise), _) => log_probabilities + noise * iteration.choice_temperature,
            (_, Some(noise), _) => noise,
            (_, None, Some(ranks)) => {
                ranks.clone().repeat_dim(0, self.batch()).gather(1, places.clone()).neg()
            }
            (_, None, None) => log_probabilities.zeros_like(),
        }
    }
}

impl Samples for Resident<'_> {
    fn active(&self, start: usize, guided: bool) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let [batch, length] = self.tokens.dims();
        let first = 1 + self.decided;
        let hidden = Tensor::full([batch, length - first], self.inputs.mask, &self.device);
        let seen = Tensor::cat(vec![self.tokens.clone().slice(s![.., ..first]), hidden], 1);
        let (tokens, positions) = match guided {
            true => {
                let null = Tensor::full([batch, 1], self.inputs.null, &self.device);
                let without = Tensor::cat(vec![null, seen.clone().slice(s![.., 1..])], 1);
                (Tensor::cat(vec![seen, without], 0), self.positions.clone().repeat_dim(0, 2))
            }
            false => (seen, self.positions.clone()),
        };
        (tokens.slice(s![.., start..]), positions.slice(s![.., start..]))
    }

    fn draw_and_decide(
        &mut self,
        logits: Tensor<2>,
        iteration: &Iteration,
    ) -> Result<Option<Duration>, Error> {
        self.draw(logits, iteration);
        Ok(None)
    }

    fn raster(&self) -> Result<Vec<Vec<u16>>, Error> {
        rows_of(self.in_raster_order())
    }

    fn undecided(&self) -> Result<Vec<Vec<bool>>, Error> {
        let [_, length] = self.positions.dims();
        let places: Vec<i64> = read(self.positions.clone().slice(s![.., 1..]) - 1)?;
        let open = |row: &[i64]| {
            let mut open = vec![false; length - 1];
            row[self.decided..].iter().for_each(|&place| open[place as usize] = true);
            open
        };
        Ok(places.chunks((length - 1).max(1)).map(open).collect())
    }
}

/// A code for each row of logits.
struct Drawn {
    /// `[R, 1]`.
    codes: Tensor<2, Int>,
    /// `log softmax(logits)[code]`, untempered and uncut, `[R, 1]`.
    log_probabilities: Tensor<2>,
}

impl Drawn {
    /// Draws from `softmax(logits / temperature)`, `logits [R, V]`, cut to the `top_k` most probable codes, by the
    /// inverse of the cumulative distribution at `uniform [R, 1]`.
    fn new(logits: Tensor<2>, uniform: Tensor<2>, temperature: f64, top_k: Option<usize>) -> Self {
        let shifted = logits.clone() - logits.clone().max_dim(1);
        let exponentials = shifted.clone().exp();
        let whole = exponentials.clone().sum_dim(1);
        let mut weights =
            if temperature == 1.0 { exponentials } else { (shifted.clone() / temperature).exp() };
        if let Some(k) = top_k {
            let least = logits.clone().topk(k, 1).min_dim(1);
            let cut: Tensor<2, Bool> = logits.lower(least);
            weights = weights.mask_fill(cut, 0.0);
        }
        let codes = inverse_cumulative(weights, uniform);
        let log_probabilities = shifted.gather(1, codes.clone()) - whole.log();
        Self { codes, log_probabilities }
    }
}

/// The first code up to which the weights `[R, V]` sum to more than `uniform [R, 1]` of the whole, `[R, 1]`.
///
/// First the block of codes, then the code in it: running sums of Burn's accelerators start anew at every place, and over
/// all codes would take longer than a small sub-model.
fn inverse_cumulative(weights: Tensor<2>, uniform: Tensor<2>) -> Tensor<2, Int> {
    let ([rows, codes], device) = (weights.dims(), weights.device());
    let length = (codes as f64).sqrt().ceil() as usize;
    let blocks = codes.div_ceil(length);
    let weights = match blocks * length - codes {
        0 => weights,
        missing => Tensor::cat(vec![weights, Tensor::zeros([rows, missing], &device)], 1),
    };
    let weights = weights.reshape([rows, blocks, length]);
    let sums = weights.clone().sum_dim(2).reshape([rows, blocks]).cumsum(1);
    let target = sums.clone().slice(s![.., blocks - 1..]) * uniform;
    let block = sums.clone().lower_equal(target.clone()).int().sum_dim(1).clamp_max(blocks as i64 - 1);
    let before = Tensor::cat(vec![Tensor::zeros([rows, 1], &device), sums.slice(s![.., ..blocks - 1])], 1);
    let target = target - before.gather(1, block.clone());
    let inside = block.clone().reshape([rows, 1, 1]).repeat_dim(2, length);
    let sums = weights.gather(1, inside).reshape([rows, length]).cumsum(1);
    // Where rounding leaves a target that no sum is above, it is the last code of any weight.
    let whole = sums.clone().slice(s![.., length - 1..]);
    let last = sums.clone().lower(whole).int().sum_dim(1);
    let place = sums.lower_equal(target).int().sum_dim(1).min_pair(last);
    block * length as i64 + place
}

/// Which of `masked` places comes where, `[B, masked]`: the chosen ones `[B, n]` first, then the others in their order.
/// `range [1, N]` counts from 0.
fn sources(chosen: Tensor<2, Int>, masked: usize, range: &Tensor<2, Int>) -> Tensor<2, Int> {
    let ([batch, count], device) = (chosen.dims(), chosen.device());
    let zeros = || Tensor::<2, Int>::zeros([batch, masked], &device);
    let is_chosen =
        zeros().scatter(1, chosen.clone(), Tensor::ones([batch, count], &device), IndexingUpdateOp::Add);
    let rest = is_chosen.neg() + 1;
    let behind = (rest.clone().cumsum(1) + (count as i64 - 1)) * rest;
    let target = behind.scatter(1, chosen, first_of(range, batch, count), IndexingUpdateOp::Add);
    zeros().scatter(1, target, first_of(range, batch, masked), IndexingUpdateOp::Add)
}

/// The first `length` of a range, for each sample.
fn first_of(range: &Tensor<2, Int>, batch: usize, length: usize) -> Tensor<2, Int> {
    range.clone().slice(s![.., ..length]).repeat_dim(0, batch)
}

/// The random numbers of every iteration, sample and place, in this order.
fn draws(plan: &Plan, start: &Start) -> Vec<Draws> {
    let places: Vec<usize> = (0..start.known.len()).collect();
    let noise = Noise::new(start.seed);
    let samples = 0..start.classes.len() as u64;
    let rows: Vec<(usize, u64)> = (0..plan.iterations().len())
        .flat_map(|iteration| {
            samples.clone().map(move |row| (iteration, start.first_sample.wrapping_add(row)))
        })
        .collect();
    rows.into_par_iter()
        .flat_map_iter(|(iteration, sample)| noise.stream(sample, iteration).at(&places))
        .collect()
}

/// Tokens of each sample, of [`Resident::in_raster_order`].
///
/// Fails where logits were not finite.
pub(crate) fn rows_of(raster: Tensor<2, Int>) -> Result<Vec<Vec<u16>>, Error> {
    let [_, length] = raster.dims();
    let values: Vec<i64> = read(raster)?;
    let row = |row: &[i64]| match row {
        [tokens @ .., 0] => Ok(tokens.iter().map(|&token| token as u16).collect()),
        _ => Err(Error::NotFinite),
    };
    values.chunks(length).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_places_come_first_and_the_rest_as_it_stood() {
        let device = Device::flex();
        let chosen = Tensor::<2, Int>::from_data([[3, 0], [1, 4]], &device);
        let range = Tensor::arange(0..7, &device).unsqueeze();
        let got: Vec<i64> = read(sources(chosen, 5, &range)).unwrap();
        assert_eq!(got, [3, 0, 1, 2, 4, 1, 4, 0, 2, 3]);
    }

    #[test]
    fn draws_are_the_inverse_of_the_cumulative_distribution() {
        let device = Device::flex();
        let row = [0.0f32, 3.0, 1.0, 2.0];
        let draw = |uniform: f32, temperature: f64, top_k| {
            let logits = Tensor::<2>::from_floats([row], &device);
            let drawn = Drawn::new(logits, Tensor::from_floats([[uniform]], &device), temperature, top_k);
            let log = drawn.log_probabilities.into_scalar::<f32>();
            (read::<2, Int, i64>(drawn.codes).unwrap()[0], log)
        };
        // Shares: 0.032, 0.644, 0.087, 0.237.
        for (uniform, code) in
            [(0.0, 0), (0.03, 0), (0.04, 1), (0.67, 1), (0.68, 2), (0.77, 3), (BELOW_ONE, 3)]
        {
            let (got, log) = draw(uniform, 1.0, None);
            let exact = row[code] - row.iter().map(|l| l.exp()).sum::<f32>().ln();
            assert!(got == code as i64 && (log - exact).abs() < 1e-6, "{uniform}: {got} {log}");
        }
        // Half the temperature squares the shares: 0.002, 0.865, 0.016, 0.117.
        assert_eq!(draw(0.866, 0.5, None).0, 1);
        assert_eq!(draw(0.88, 0.5, None).0, 2);
        assert_eq!([0.0, 0.72, 0.74, BELOW_ONE].map(|u| draw(u, 1.0, Some(2)).0), [1, 1, 3, 3]);
    }

    #[test]
    fn blocks_find_the_code_that_one_running_sum_finds() {
        let device = Device::flex();
        for codes in [1, 2, 5, 16, 1000, 1024] {
            let uniforms: Vec<f32> =
                (0..200).map(|i| i as f32 / 200.0).chain([f32::EPSILON, BELOW_ONE]).collect();
            // Every third code weighs nothing, and so does the last.
            let weight = |row: usize, code: usize| match (code % 3, code + 1 == codes && codes > 1) {
                (1, _) | (_, true) => 0.0,
                _ => ((row * 31 + code * 17) % 97 + 1) as f32,
            };
            let rows = uniforms.len();
            let weights: Vec<f32> =
                (0..rows).flat_map(|row| (0..codes).map(move |code| weight(row, code))).collect();
            let got: Vec<i64> = read(inverse_cumulative(
                Tensor::from_data(TensorData::new(weights, [rows, codes]), &device),
                Tensor::from_data(TensorData::new(uniforms.clone(), [rows, 1]), &device),
            ))
            .unwrap();
            for (row, (&code, uniform)) in got.iter().zip(uniforms).enumerate() {
                let sum = |to: usize| (0..to).map(|code| f64::from(weight(row, code))).sum::<f64>();
                let (code, target) = (code as usize, sum(codes) * f64::from(uniform));
                // Sums of these weights are exact; a target may be off by its rounding.
                let slack = target * 1e-6;
                assert!(weight(row, code) > 0.0, "{codes} codes, {uniform}: {code} weighs nothing");
                assert!(
                    sum(code) <= target + slack && target < sum(code + 1) + slack,
                    "{codes} codes, {uniform}: {code}"
                );
            }
        }
    }
}
