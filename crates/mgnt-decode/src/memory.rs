//! What a decode holds, by arithmetic: no tensor, no device.

use mgnt_model::compute::whole_rows;

use crate::{Iteration, Plan};

/// Bytes of an f32.
const F32: u64 = 4;

/// Bytes of a decode: an estimate on the safe side, which counts attention's weights as if they were all there at once.
/// `docs/performance.md` holds it against measured peaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeMemory {
    /// Of the weights.
    pub weights: u64,
    /// Of each sample at the fullest iteration.
    pub a_sample: u64,
}

impl DecodeMemory {
    /// Of a plan whose matrices, keys and values have numbers of so many bytes.
    pub fn new(plan: &Plan, number: u64) -> Self {
        let of = |iteration| of_iteration(plan, iteration, number);
        Self {
            weights: number * plan.config().parameters() as u64,
            a_sample: plan.iterations().iter().map(of).max().unwrap_or(0),
        }
    }

    /// With what a model [`on_accelerator`](mgnt_model::NestedTransformer::on_accelerator) holds besides: for each sub-model a
    /// copy of what makes queries, keys and values, and these in whole rows; and in `f32` attention's weights beside the scores that they
    /// are made of.
    pub fn on_accelerator(self, plan: &Plan, number: u64) -> Self {
        let config = plan.config();
        let of = |p: &usize| {
            let sub_model = config.sub_model(*p).ok()?;
            Some((sub_model.features(config) + 1) * sub_model.attention_width(config))
        };
        let copies = 3 * config.layers * config.sub_models.iter().filter_map(of).sum::<usize>();
        let whole = |i: &Iteration| {
            let context = i.context;
            i.cache_bytes.div_ceil(context as u64) * (whole_rows(context) - context) as u64 * number / F32
        };
        let beyond = plan.iterations().iter().map(whole).max().unwrap_or(0);
        let scores = if number == F32 { most(plan, |counts| counts.scores) } else { 0 };
        Self { weights: self.weights + number * copies as u64, a_sample: self.a_sample + beyond + scores }
    }

    /// With what a model [`with_exact_products`](mgnt_model::NestedTransformer::with_exact_products) holds besides: an operand's two
    /// parts beside it. `docs/cuda.md` has what was measured.
    pub fn with_exact_products(self, plan: &Plan) -> Self {
        let parts = most(plan, |counts| counts.scores + counts.rows * 3 / 10);
        Self { a_sample: self.a_sample + parts, ..self }
    }

    /// All of it for a batch.
    pub fn of_batch(&self, batch: usize) -> u64 {
        self.weights + self.a_sample * batch as u64
    }

    /// The largest batch that so many bytes hold.
    pub fn largest_batch(&self, bytes: u64) -> usize {
        (bytes.saturating_sub(self.weights) / self.a_sample.max(1)) as usize
    }
}

/// Numbers of an iteration of one sample, without guidance.
struct Counts {
    /// Whatever grows with the positions.
    rows: u64,
    /// Attention's weights.
    scores: u64,
}

impl Counts {
    fn new(plan: &Plan, iteration: &Iteration) -> Self {
        let config = plan.config();
        let sub_model = iteration.sub_model;
        let [active, context, masked, width, codes] =
            [iteration.active, iteration.context, iteration.masked, config.width, config.codes]
                .map(|n| n as u64);
        let attention = sub_model.attention_width(config) as u64;
        let hidden = sub_model.hidden(config) as u64;
        let heads = sub_model.heads(config) as u64;
        // The residual stream with a branch; queries, keys, values and what they give; the MLP's hidden units twice.
        let stream = active * (4 * width + 4 * attention + 2 * hidden);
        // Logits, their exponentials and the sums of those.
        let drawing = 3 * masked * codes;
        Self { rows: stream + 2 * context * attention + drawing, scores: heads * active * context }
    }
}

/// Bytes of so many numbers of each sample, at the iteration that has the most.
fn most(plan: &Plan, of: impl Fn(Counts) -> u64) -> u64 {
    let bytes = |iteration: &Iteration| iteration.copies() * F32 * of(Counts::new(plan, iteration));
    plan.iterations().iter().map(bytes).max().unwrap_or(0)
}

fn of_iteration(plan: &Plan, iteration: &Iteration, number: u64) -> u64 {
    let Counts { rows, scores } = Counts::new(plan, iteration);
    // The plan counts both copies of the cache.
    let cached = iteration.cache_bytes * number / F32;
    iteration.copies() * F32 * (rows + scores) + cached
}

#[cfg(test)]
mod tests {
    use mgnt_model::{ModelConfig, Preset};

    use super::*;
    use crate::{CachePolicy, Guidance, Strategy};

    #[test]
    fn scale_l_by_hand() {
        let config = ModelConfig::preset(Preset::L);
        let plan = Strategy::baseline(12).plan(&config).unwrap();
        let memory = DecodeMemory::new(&plan, 4);
        assert_eq!(memory.weights, 4 * config.parameters() as u64);
        let joined = memory.on_accelerator(&plan, 4);
        assert_eq!(joined.weights, memory.weights + 4 * 24 * 3 * 1025 * (1024 + 512 + 256 + 128));
        let scores = 16 * 257 * 257;
        assert_eq!(joined.a_sample, memory.a_sample + 4 * scores);
        assert_eq!(memory.on_accelerator(&plan, 2).a_sample, memory.a_sample);
        // 257 (4 + 4 + 2 x 4) x 1024 rows, 2 x 257 x 1024 + 16 x 257 x 257 attending, 3 x 256 x 1024 drawing.
        let numbers = 257 * 16 * 1024 + 2 * 257 * 1024 + 16 * 257 * 257 + 3 * 256 * 1024;
        assert_eq!(memory.a_sample, 4 * numbers);
        let parts = scores + (numbers - scores) * 3 / 10;
        assert_eq!(joined.with_exact_products(&plan).a_sample, joined.a_sample + 4 * parts);
        assert_eq!(memory.of_batch(3), memory.weights + 12 * numbers);
        assert_eq!(memory.largest_batch(memory.of_batch(5) + 1), 5);
        assert_eq!(memory.largest_batch(memory.weights - 1), 0);
    }

    /// What each sample more takes of the emulated CUDA driver, in MB: two layers of scale L's width, 512 codes, `1x2` without a
    /// cache, 24 samples less 8 (docs/cuda.md).
    #[test]
    fn no_less_than_what_cuda_was_asked_for() {
        for (tokens, exact, rounded, halves) in [(256, 37.7, 18.1, 6.8), (1024, 289.6, 174.2, 33.7)] {
            let config = ModelConfig { layers: 2, tokens, codes: 512, ..ModelConfig::preset(Preset::L) };
            let plan = Strategy::baseline(2).with_cache(CachePolicy::Off).plan(&config).unwrap();
            let of = |number| DecodeMemory::new(&plan, number).on_accelerator(&plan, number);
            let megabytes = |memory: DecodeMemory| memory.a_sample as f64 / 1e6;
            let [in_parts, single, half] = [of(4).with_exact_products(&plan), of(4), of(2)].map(megabytes);
            assert!((1.0..1.1).contains(&(in_parts / exact)), "{tokens}: {in_parts} for {exact}");
            assert!((1.0..1.7).contains(&(single / rounded)), "{tokens}: {single} for {rounded}");
            assert!(half > halves, "{tokens}: {half} for {halves}");
        }
    }

    #[test]
    fn guidance_doubles_and_half_a_number_halves_the_cache() {
        let config = ModelConfig::preset(Preset::L);
        let of = |strategy: Strategy, number| DecodeMemory::new(&strategy.plan(&config).unwrap(), number);
        let nested = || Strategy::parse("8x3,4x3,2x3,1x3").unwrap();
        let guided = Strategy { guidance: Guidance::Constant(1.0), ..nested() };
        let plain = of(nested(), 4);
        assert_eq!(of(guided, 4).a_sample, 2 * plain.a_sample);
        let half = of(nested(), 2);
        assert_eq!(2 * half.weights, plain.weights);
        // The fullest iteration is the same: what is left of it is half its cache.
        let plan = nested().plan(&config).unwrap();
        let fullest = plan.iterations().iter().max_by_key(|i| of_iteration(&plan, i, 4)).unwrap();
        assert!(fullest.cache_bytes > 0);
        assert_eq!(2 * (plain.a_sample - half.a_sample), fullest.cache_bytes);
        // 15 positions more for 257 of the full model, in 24 layers.
        let on_accelerator = plain.on_accelerator(&plan, 4);
        assert_eq!(on_accelerator.a_sample, plain.a_sample + 4 * (24 * 2 * 15 * 1024 + 16 * 257 * 257));
    }
}
