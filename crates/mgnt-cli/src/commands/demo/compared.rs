//! The baseline and the schedule with its cache, from the same seeds.

use burn::tensor::Device;
use mgnt_decode::{Guidance, Ledger, Strategy};
use mgnt_model::NestedTransformer;
use mgnt_tokenizer::ImageTokenizer;
use serde::Serialize;

use crate::commands::generation::{Generator, add_up, classes};
use crate::output::animation::gif;
use crate::output::grid::compared_grid;

/// The paper's growing schedule.
const GROWING: &str = "8x3,4x3,2x3,1x3";
/// Iterations of both decodes.
const ITERATIONS: usize = 12;

/// What is decoded, and how much of it.
pub struct Comparison<'a> {
    pub model: &'a NestedTransformer,
    pub tokenizer: &'a ImageTokenizer,
    /// Names of the classes that are shown: the model's first ones.
    pub names: &'a [String],
    /// Pictures of each class.
    pub each: usize,
    pub guidance: f64,
    pub seed: u64,
    pub device: &'a Device,
}

/// Both decodes of the same samples.
pub struct Compared {
    pub figures: Figures,
    /// Rows of the baseline, each above the schedule's, as PNG.
    pub grid: Vec<u8>,
    /// The schedule at work, as GIF.
    pub animation: Vec<u8>,
}

/// What was measured of both.
#[derive(Serialize)]
pub struct Figures {
    /// Share of tokens in which baseline and schedule agree, from the same seeds.
    pub code_agreement: f64,
    /// The agreement that two random pictures of a class have.
    pub agreement_by_chance: f64,
    /// Milliseconds of the baseline over those of the schedule.
    pub faster: f64,
    pub baseline: Ledger,
    pub schedule: Ledger,
}

impl Comparison<'_> {
    /// Decodes.
    pub fn run(&self) -> anyhow::Result<Compared> {
        let Self { model, tokenizer, names, each, guidance, seed, device } = *self;
        let config = model.config();
        let generator = |strategy: Strategy| {
            let plan = strategy.with_guidance(Guidance::Constant(guidance)).plan(config)?;
            Generator::new(model, tokenizer, plan, seed, device)
        };
        let baseline = generator(Strategy::baseline(ITERATIONS))?;
        let schedule = generator(Strategy::parse(GROWING)?)?;
        // A row of the grid is decoded together.
        let row = names.len();
        let classes = classes(row, None, each * row)?;

        // The first decode of each also warms caches and memory up: its times do not count.
        baseline.batch(&classes[..row], 0)?;
        let (_, frames) = schedule.watched(&classes[..row], 0)?;
        let mut pictures = [("1x12", Vec::new()), ("nested", Vec::new())];
        let mut tokens = [Vec::new(), Vec::new()];
        let mut ledgers = [None, None];
        // Turn and turn about, so that whatever else the machine does falls on both.
        for (i, chunk) in classes.chunks(row).enumerate() {
            for (which, generator) in [&baseline, &schedule].into_iter().enumerate() {
                let batch = generator.batch(chunk, i * row)?;
                pictures[which].1.extend(batch.pictures);
                tokens[which].extend(batch.tokens);
                add_up(&mut ledgers[which], batch.ledger);
            }
        }
        let grid = compared_grid(&pictures, row, |decode, i| format!("{} {decode}", names[classes[i]]));
        let [Some(baseline), Some(schedule)] = ledgers else { anyhow::bail!("nothing was decoded") };
        let figures = Figures {
            code_agreement: agreement(&tokens[0], &tokens[1]),
            agreement_by_chance: agreement(&tokens[0], &shifted(&tokens[0], row)),
            faster: baseline.milliseconds.unwrap_or(0.0) / schedule.milliseconds.unwrap_or(1.0),
            baseline,
            schedule,
        };
        Ok(Compared { figures, grid: grid.into_picture()?.to_png()?, animation: gif(&frames, 40)? })
    }
}

/// Share of tokens that are the same.
fn agreement(a: &[Vec<u16>], b: &[Vec<u16>]) -> f64 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    let (same, all) = pairs.fold((0u32, 0u32), |(same, all), (a, b)| (same + u32::from(a == b), all + 1));
    f64::from(same) / f64::from(all.max(1))
}

/// Each sample in the place of the one before it of the same class, classes being in turn, each at least once.
fn shifted(tokens: &[Vec<u16>], classes: usize) -> Vec<Vec<u16>> {
    let mut tokens = tokens.to_vec();
    tokens.rotate_left(classes);
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_counts_equal_tokens() {
        let (a, b) = (vec![vec![1, 2], vec![3, 4]], vec![vec![1, 0], vec![3, 4]]);
        assert_eq!(agreement(&a, &b), 0.75);
    }

    #[test]
    fn chance_is_of_the_same_class() {
        let tokens: Vec<Vec<u16>> = (0..6).map(|i| vec![i]).collect();
        assert_eq!(shifted(&tokens, 2), [[2], [3], [4], [5], [0], [1]]);
    }
}
