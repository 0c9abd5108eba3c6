//! Where the samples of a batch are on their way: on the host or on the model's device.

use std::time::{Duration, Instant};

use burn::tensor::kind::Basic;
use burn::tensor::{Device, Element, Int, Tensor, TensorData};
use mgnt_model::Vocabulary;
use mgnt_weights::module::numbers;
use rayon::prelude::*;

use crate::sequence::Sequence;
use crate::{Error, Iteration, Noise, Plan, TokenSampler};

/// What a decode begins with.
pub(crate) struct Start {
    /// The class token of each sample.
    pub classes: Vec<u32>,
    /// Tokens given beforehand, in raster order.
    pub known: Vec<Option<u16>>,
    pub seed: u64,
    /// The number of the first sample.
    pub first_sample: u64,
}

/// The samples of a batch in decode order.
pub(crate) trait Samples {
    /// Tokens and positions `[B, A]` that the model sees from sequence position `start` on; where `guided`, then those
    /// of the same samples without their class.
    fn active(&self, start: usize, guided: bool) -> (Tensor<2, Int>, Tensor<2, Int>);

    /// Draws a token at each undecided place from its logits `[B * M, V]`, and decides as many as the plan says. Gives the time
    /// that it took from when the logits were there, where that was waited for.
    fn draw_and_decide(
        &mut self,
        logits: Tensor<2>,
        iteration: &Iteration,
    ) -> Result<Option<Duration>, Error>;

    /// Tokens of each sample in raster order: decided ones, and at undecided places those last drawn.
    fn raster(&self) -> Result<Vec<Vec<u16>>, Error>;

    /// Whether each place is still undecided, per sample in raster order.
    fn undecided(&self) -> Result<Vec<Vec<bool>>, Error>;
}

/// Samples on the host: draws in f64, any order, a thread a sample.
pub(crate) struct OnHost<'a> {
    plan: &'a Plan,
    vocabulary: Vocabulary,
    sequences: Vec<Sequence>,
    noise: Noise,
    first_sample: u64,
    device: Device,
}

impl<'a> OnHost<'a> {
    pub fn new(plan: &'a Plan, vocabulary: Vocabulary, start: &Start, device: Device) -> Self {
        Self {
            plan,
            vocabulary,
            sequences: start.classes.iter().map(|&class| Sequence::new(class, &start.known)).collect(),
            noise: Noise::new(start.seed),
            first_sample: start.first_sample,
            device,
        }
    }
}

impl Samples for OnHost<'_> {
    fn active(&self, start: usize, guided: bool) -> (Tensor<2, Int>, Tensor<2, Int>) {
        active(&self.sequences, start, &self.vocabulary, guided, &self.device)
    }

    fn draw_and_decide(
        &mut self,
        logits: Tensor<2>,
        iteration: &Iteration,
    ) -> Result<Option<Duration>, Error> {
        let [_, codes] = logits.dims();
        let logits: Vec<f32> = read(logits)?;
        // An accelerator computes until here.
        let begin = Instant::now();
        let sampler = TokenSampler::new(self.plan, iteration);
        let width = iteration.masked * codes;
        self.sequences.par_iter_mut().enumerate().try_for_each(|(row, sample)| {
            let logits = &logits[row * width..(row + 1) * width];
            let stream = self.noise.stream(self.first_sample.wrapping_add(row as u64), iteration.index);
            sample.draw_and_decide(logits, &sampler, &stream, iteration.decided)
        })?;
        Ok(Some(begin.elapsed()))
    }

    fn raster(&self) -> Result<Vec<Vec<u16>>, Error> {
        Ok(self.sequences.iter().map(Sequence::raster).collect())
    }

    fn undecided(&self) -> Result<Vec<Vec<bool>>, Error> {
        Ok(self.sequences.iter().map(Sequence::undecided).collect())
    }
}

/// A tensor's numbers in order.
pub(crate) fn read<const D: usize, K: Basic, E: Element>(tensor: Tensor<D, K>) -> Result<Vec<E>, Error> {
    numbers(tensor).map_err(Error::Device)
}

/// [`Samples::active`] of sequences.
pub(crate) fn active(
    sequences: &[Sequence],
    start: usize,
    vocabulary: &Vocabulary,
    guided: bool,
    device: &Device,
) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let conditional = sequences.iter().map(|s| s.active(start, vocabulary, false));
    let unconditional = sequences.iter().filter(|_| guided).map(|s| s.active(start, vocabulary, true));
    let (tokens, positions): (Vec<_>, Vec<_>) = conditional.chain(unconditional).unzip();
    (indices(tokens, device), indices(positions, device))
}

fn indices(rows: Vec<Vec<i32>>, device: &Device) -> Tensor<2, Int> {
    let batch = rows.len();
    let values: Vec<i32> = rows.concat();
    let length = values.len() / batch.max(1);
    Tensor::from_data(TensorData::new(values, [batch, length]), device)
}
