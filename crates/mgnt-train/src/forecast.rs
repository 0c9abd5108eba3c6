//! What a run of the transformer needs, by arithmetic: no tensor, no device.

use mgnt_model::ModelConfig;
use mgnt_model::compute::{Forward, forward_flops, whole_rows};

use crate::objective::{Students, mean_hidden};
use crate::{Error, Precision, Recipe};

/// Bytes of a number.
const F32: u64 = 4;
/// The share of it that well-made training reaches.
const H100_SHARE: f64 = 0.4;

/// Sizes, compute and memory of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Forecast {
    /// Parameters of the full model, which the sub-models share.
    pub parameters: usize,
    /// Samples of the largest part of a step.
    pub samples_a_part: usize,
    /// FLOPs of a step: matrix products, three times those of the forwards.
    pub step_flops: f64,
    /// FLOPs of a step of the full model alone.
    pub plain_step_flops: f64,
    /// FLOPs of all steps.
    pub flops: f64,
    /// Dense FLOP/s of an H100 SXM by its data sheet, in the type that products are taken in: bf16, or TF32 for f32.
    pub h100_rate: f64,
    /// Memory.
    pub memory: Memory,
    /// Bytes of one checkpoint.
    pub checkpoint_bytes: u64,
}

/// How parts of a step are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Computed {
    /// By a backend's operations, at most so many parts at once: on a processor as many as it has cores, else one.
    ByOperations {
        /// Of them.
        at_once: usize,
    },
    /// By kernels of a device, one after the other, where the model is one that [has
    /// them](ModelConfig::is_learned_by_kernels); else by operations.
    ByKernels,
}

/// Bytes at the fullest moment of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Weights, their average and AdamW's two moments, and what products take of weights where that is another type.
    pub state: u64,
    /// Gradients of the parts that are computed at once, and their sum; or what comes of weights and their average by them, where
    /// that cannot have the memory of activations.
    pub gradients: u64,
    /// What the forwards of those parts leave for the backward.
    pub activations: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.state.saturating_add(self.gradients).saturating_add(self.activations)
    }
}

impl Forecast {
    /// For a recipe and its model.
    pub fn new(recipe: &Recipe, config: &ModelConfig, computed: Computed) -> Result<Self, Error> {
        recipe.validate()?;
        config.validate()?;
        let by_kernels = computed == Computed::ByKernels && config.is_learned_by_kernels();
        let at_once = match computed {
            Computed::ByOperations { at_once } => at_once,
            Computed::ByKernels => 1,
        };
        let optimization = &recipe.optimization;
        let parameters = config.parameters();
        let state_bytes = |copies: u64| copies * F32 * parameters as u64;
        let samples_a_part = optimization.batch.div_ceil(optimization.parts);
        // Parts that draw from the device come one after the other.
        let at_once = if config.dropout == 0.0 { at_once.clamp(1, optimization.parts) as u64 } else { 1 };
        // Beside those of the parts, their sum.
        let gradients = if optimization.parts > 1 { at_once + 1 } else { 1 };
        // Burn's learner holds the weights and their average until the next are there, of which the first take the gradients' place.
        let gradients = if by_kernels { gradients.max(2) } else { gradients };

        // The expected cost of a step, and the most that one keeps.
        let mut forwards = Vec::new();
        for &p in &config.sub_models {
            let hidden = mean_hidden(config.tokens);
            let (active, context) = (config.positions(), config.positions());
            let forward = Forward { active, context, logits: hidden.round() as usize };
            let sub_model = config.sub_model(p)?;
            let kept = match by_kernels {
                true => kept_by_kernels(recipe, config, p)?,
                false => F32 * kept(recipe, config, p)?,
            };
            forwards.push((forward_flops(config, sub_model, forward) as f64, kept));
        }
        let (full, students) = (forwards[0], &forwards[1..]);
        let all_kept = forwards.iter().map(|f| f.1).sum::<u64>();
        let (flops, kept) = match recipe.objective.students {
            Students::One if !students.is_empty() => (
                full.0 + students.iter().map(|s| s.0).sum::<f64>() / students.len() as f64,
                // Memory that is found by its size stays for each student.
                if by_kernels { all_kept } else { full.1 + students.iter().map(|s| s.1).max().unwrap_or(0) },
            ),
            _ => (forwards.iter().map(|f| f.0).sum(), all_kept),
        };
        let step_flops = 3.0 * optimization.batch as f64 * flops;
        // Memory that is found by its size is another's for parts of another size.
        let is_even = optimization.batch.is_multiple_of(optimization.parts);
        let samples_held = if by_kernels && !is_even { 2 * samples_a_part - 1 } else { samples_a_part };
        let halves =
            if by_kernels && recipe.precision == Precision::Bf16 { 2 * parameters as u64 } else { 0 };
        Ok(Self {
            parameters,
            samples_a_part,
            step_flops,
            plain_step_flops: 3.0 * optimization.batch as f64 * full.0,
            flops: step_flops * optimization.steps as f64,
            h100_rate: match recipe.precision {
                Precision::F32 => 494.7e12,
                Precision::Bf16 => 989.4e12,
            },
            memory: Memory {
                state: state_bytes(4) + halves,
                gradients: state_bytes(gradients),
                activations: (at_once * samples_held as u64).saturating_mul(kept),
            },
            checkpoint_bytes: state_bytes(4),
        })
    }

    /// Hours on one H100 at 40 % of its rate.
    pub fn h100_hours(&self) -> f64 {
        self.flops / (self.h100_rate * H100_SHARE) / 3600.0
    }
}

/// Numbers of one sample that the forward of sub-model `p` leaves on the tape.
///
/// Counted by operation: a product keeps its factors, attention its weights, gelu its slope and its value, LayerNorm the
/// centred and the normalised rows, cross-entropy its gradient, dropout its mask; sums keep nothing. Dropout on the
/// attention weights keeps the softmax's parts as well, of which gradient checkpointing computes one again.
/// `docs/performance.md` holds it against measured peaks, which set the halves.
fn kept(recipe: &Recipe, config: &ModelConfig, p: usize) -> Result<u64, Error> {
    let sub_model = config.sub_model(p)?;
    let [positions, width, codes, layers] =
        [config.positions(), config.width, config.codes, config.layers].map(|n| n as u64);
    let attention = sub_model.attention_width(config) as u64;
    let weights = sub_model.heads(config) as u64 * positions;
    let hidden = sub_model.hidden(config) as u64;
    let rows = mean_hidden(config.tokens).round() as u64;
    let dropped = u64::from(config.dropout > 0.0);
    let of_weights = match (config.dropout > 0.0, recipe.optimization.gradient_checkpointing) {
        (false, _) => 1,
        (true, true) => 3,
        (true, false) => 4,
    };
    let mixing = 4 * attention + of_weights * weights;
    let thinking = 5 * hidden / 2;
    let norms = 2 * (3 + dropped) * width;
    let head = 9 * width + 3 * codes;
    Ok(layers * positions * (mixing + thinking + norms) + rows * head)
}

/// Bytes of one sample that the forward of sub-model `p` leaves where blocks are computed by kernels: LayerNorm's normal and
/// what the next product takes of the stream, queries, keys, values, weights and what comes of them, and what comes before and
/// behind gelu. Draws of dropout are taken again.
fn kept_by_kernels(recipe: &Recipe, config: &ModelConfig, p: usize) -> Result<u64, Error> {
    let sub_model = config.sub_model(p)?;
    let [positions, width, codes, layers] =
        [config.positions(), config.width, config.codes, config.layers].map(|n| n as u64);
    let compute = match recipe.precision {
        Precision::F32 => F32,
        Precision::Bf16 => 2,
    };
    let (attention, heads) = (sub_model.attention_width(config) as u64, sub_model.heads(config) as u64);
    let room = whole_rows(config.positions()) as u64;
    let mixing = compute * (2 * attention * positions + 2 * attention * room + heads * positions * room);
    let thinking = compute * 2 * sub_model.hidden(config) as u64 * positions;
    let norms = 2 * (F32 + compute) * width * positions;
    let head = mean_hidden(config.tokens).round() as u64
        * ((2 * F32 + 4 * compute) * width + (compute + 3 * F32) * codes);
    Ok(layers * (mixing + thinking + norms) + head)
}

#[cfg(test)]
mod tests {
    use mgnt_model::Preset;

    use super::*;
    use crate::optimizer::tests::optimization;

    const ONE: Computed = Computed::ByOperations { at_once: 1 };

    fn recipe(students: Students) -> (Recipe, ModelConfig) {
        let config = ModelConfig::preset(Preset::L);
        let recipe = Recipe {
            layers: config.layers,
            width: config.width,
            heads: config.heads,
            hidden: config.hidden,
            sub_models: config.sub_models.clone(),
            norm: config.norm,
            nesting: config.nesting,
            dropout: config.dropout,
            class_dropout: 0.1,
            label_smoothing: 0.1,
            objective: crate::objective::NestedOptions { students, ..Default::default() },
            precision: Default::default(),
            optimization: crate::Optimization { batch: 256, parts: 16, steps: 1_351_231, ..optimization() },
        };
        (recipe, config)
    }

    #[test]
    fn scale_l_by_hand() {
        let (recipe, config) = recipe(Students::All);
        let forecast = Forecast::new(&recipe, &config, ONE).unwrap();
        // Three times the forwards of 256 samples over 257 positions, with the logits of 163 hidden ones.
        assert!((forecast.step_flops / 1e12 - 234.97).abs() < 0.005, "{}", forecast.step_flops);
        assert!((forecast.step_flops / forecast.plain_step_flops - 1.884).abs() < 5e-4);
        assert!((forecast.h100_hours() - 445.70).abs() < 0.02, "{}", forecast.h100_hours());
        let half = Recipe { precision: Precision::Bf16, ..recipe.clone() };
        let half = Forecast::new(&half, &config, ONE).unwrap();
        assert!((half.h100_hours() - 222.85).abs() < 0.01, "{}", half.h100_hours());
        assert_eq!(forecast.samples_a_part, 16);
        assert_eq!(forecast.memory.state, 4 * 4 * config.parameters() as u64);
        assert_eq!(forecast.memory.gradients, 2 * 4 * config.parameters() as u64);
        let two = Computed::ByOperations { at_once: 2 };
        // Parts that draw dropout from the device are never computed at once.
        assert_eq!(Forecast::new(&recipe, &config, two).unwrap(), forecast);
        let config = ModelConfig { dropout: 0.0, ..config };
        let [one, two] = [ONE, two].map(|at_once| Forecast::new(&recipe, &config, at_once).unwrap().memory);
        assert_eq!(
            (two.activations, two.gradients),
            (2 * one.activations, 3 * 4 * config.parameters() as u64)
        );
    }

    #[test]
    fn one_student_costs_less_and_half_a_part_keeps_half() {
        let forecast = |students| {
            let (recipe, config) = recipe(students);
            Forecast::new(&recipe, &config, ONE).unwrap()
        };
        let (all, one) = (forecast(Students::All), forecast(Students::One));
        // 1 + (1/2 + 1/4 + 1/8) / 3 of the blocks; the head is whole in each.
        let ratio = one.step_flops / one.plain_step_flops;
        assert!((1.29..1.31).contains(&ratio), "{ratio}");
        assert!(one.memory.activations < all.memory.activations);
        let (mut recipe, config) = recipe(Students::All);
        recipe.optimization.parts = 32;
        let half = Forecast::new(&recipe, &config, ONE).unwrap();
        assert_eq!(2 * half.memory.activations, all.memory.activations);
        recipe.optimization.gradient_checkpointing = true;
        let checkpointed = Forecast::new(&recipe, &config, ONE).unwrap();
        let share = checkpointed.memory.activations as f64 / half.memory.activations as f64;
        assert!((0.85..0.95).contains(&share), "{share}");
    }

    #[test]
    fn kernels_keep_what_was_measured() {
        let (recipe, config) = recipe(Students::All);
        let memory = |precision, config: &ModelConfig| {
            let recipe = Recipe { precision, ..recipe.clone() };
            Forecast::new(&recipe, config, Computed::ByKernels).unwrap().memory
        };
        // Bytes a sample, of four samples more at scale L (docs/cuda.md).
        for (precision, measured) in [(Precision::Bf16, 0.7112e9), (Precision::F32, 1.2076e9)] {
            let a_sample = memory(precision, &config).activations as f64 / 16.0;
            assert!((a_sample / measured - 1.0).abs() < 0.03, "{precision:?}: {a_sample}");
        }
        let of_parameters = config.parameters() as u64;
        assert_eq!(memory(Precision::Bf16, &config).state, 18 * of_parameters);
        assert_eq!(memory(Precision::F32, &config).state, 16 * of_parameters);
        assert_eq!(memory(Precision::F32, &config).gradients, 2 * 4 * of_parameters);
        let of_one = Recipe {
            objective: crate::objective::NestedOptions { students: Students::One, ..Default::default() },
            ..recipe.clone()
        };
        let of_one = Forecast::new(&of_one, &config, Computed::ByKernels).unwrap().memory;
        assert_eq!(of_one, memory(Precision::F32, &config));
        // Of 16 samples at most, and of 15.
        let mut uneven = Recipe { precision: Precision::F32, ..recipe.clone() };
        uneven.optimization.batch = 255;
        let uneven = Forecast::new(&uneven, &config, Computed::ByKernels).unwrap();
        assert_eq!(uneven.samples_a_part, 16);
        assert_eq!(uneven.memory.activations, memory(Precision::F32, &config).activations / 16 * 31);
        // Such a model is computed by operations.
        let config = ModelConfig { norm: mgnt_model::Norm::Pre, ..config };
        let recipe = Recipe { precision: Precision::F32, ..recipe };
        let by_operations = Forecast::new(&recipe, &config, ONE).unwrap().memory;
        assert_eq!(Forecast::new(&recipe, &config, Computed::ByKernels).unwrap().memory, by_operations);
    }
}
