//! The loop: a plan, a model, and per-sample random numbers become tokens and a ledger.

use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use mgnt_model::{KvCache, NestedTransformer};
use rayon::prelude::*;

use crate::sequence::Sequence;
use crate::{Error, Iteration, Ledger, Noise, Plan, TokenSampler};

/// Decodes a batch of samples by a plan.
///
/// ```no_run
/// # fn generate(device: burn::tensor::Device) -> Result<(), Box<dyn std::error::Error>> {
/// use mgnt_decode::{Decoder, Strategy};
/// let model = mgnt_model::NestedTransformer::load("runs/imagenette-64", &device)?;
/// let plan = Strategy::parse("8x3,4x3,2x3,1x3")?.plan(model.config())?;
/// let decoded = Decoder::new(&model, &plan).classes(&[3, 7]).seed(1).run()?;
/// println!("{}", decoded.ledger);
/// # Ok(()) }
/// ```
pub struct Decoder<'a> {
    model: &'a NestedTransformer,
    plan: &'a Plan,
    /// The class of each sample; `None` is the null class.
    classes: Vec<Option<usize>>,
    seed: u64,
    first_sample: u64,
    known: Option<Vec<Option<u16>>>,
    watch: Option<&'a mut dyn FnMut(&Snapshot)>,
}

/// What a decode leaves.
#[derive(Debug)]
pub struct Decoded {
    /// Tokens of each sample in raster order, `[B][N]`.
    pub tokens: Vec<Vec<u16>>,
    /// Planned compute and measured time of each iteration.
    pub ledger: Ledger,
}

/// The state after one iteration, for who wants to watch.
#[derive(Debug)]
pub struct Snapshot<'s> {
    /// The iteration, 0-based.
    pub iteration: usize,
    /// Tokens of each sample in raster order: decided ones, and at undecided places those last drawn.
    pub tokens: &'s [Vec<u16>],
    /// Whether each place is still undecided, per sample in raster order.
    pub undecided: &'s [Vec<bool>],
}

impl<'a> Decoder<'a> {
    /// A decoder of one sample of class 0 and seed 0, until told otherwise.
    pub fn new(model: &'a NestedTransformer, plan: &'a Plan) -> Self {
        Self { model, plan, classes: vec![Some(0)], seed: 0, first_sample: 0, known: None, watch: None }
    }

    /// The class of each sample; their number is the batch size.
    pub fn classes(mut self, classes: &[usize]) -> Self {
        self.classes = classes.iter().copied().map(Some).collect();
        self
    }

    /// That many samples of no class, which needs a vocabulary with a null class.
    pub fn unconditional(mut self, samples: usize) -> Self {
        self.classes = vec![None; samples];
        self
    }

    /// The seed of all random numbers.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The number of the first sample. A sample's picture depends on the seed and its number, and not on the
    /// batch that it is decoded in.
    pub fn first_sample(mut self, number: u64) -> Self {
        self.first_sample = number;
        self
    }

    /// Tokens given beforehand, in raster order; they are never drawn. The plan must have been made for the
    /// number of the others ([`Strategy::plan_for`](crate::Strategy::plan_for)).
    pub fn known(mut self, tokens: Vec<Option<u16>>) -> Self {
        self.known = Some(tokens);
        self
    }

    /// Calls `watch` after each iteration.
    pub fn watch(mut self, watch: &'a mut dyn FnMut(&Snapshot)) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Decodes. Fails before the model runs where classes, known tokens and plan do not fit the model.
    pub fn run(mut self) -> Result<Decoded, Error> {
        let mut samples = self.sequences()?;
        let noise = Noise::new(self.seed);
        let mut ledger = Ledger::new(self.plan, self.classes.len());
        let mut cache: Option<KvCache> = None;

        for iteration in self.plan.iterations() {
            let clock = Instant::now();
            if iteration.refresh {
                cache = None;
            }
            let logits;
            (logits, cache) = self.forward(iteration, &samples, cache.as_ref())?;
            let sampling = Instant::now();
            let vocabulary = self.model.config().codes;
            let sampler = TokenSampler::new(self.plan, iteration);
            samples.par_iter_mut().enumerate().for_each(|(row, sample)| {
                let width = iteration.masked * vocabulary;
                let logits = &logits[row * width..(row + 1) * width];
                let stream = noise.stream(self.first_sample + row as u64, iteration.index);
                sample.draw_and_decide(logits, &sampler, &stream, iteration.decided);
            });
            let held = cache.as_ref().map_or(0, KvCache::bytes);
            ledger.record(clock.elapsed(), sampling.elapsed(), held);
            self.report(iteration.index, &samples);
        }
        Ok(Decoded { tokens: samples.iter().map(Sequence::raster).collect(), ledger })
    }

    /// Logits over the codes at the undecided places of each sample, `[B, M, V]`, and the cache for the next
    /// iteration.
    fn forward(
        &self,
        iteration: &Iteration,
        samples: &[Sequence],
        cache: Option<&KvCache>,
    ) -> Result<(Vec<f32>, Option<KvCache>), Error> {
        let guided = iteration.guidance > 0.0;
        let (hidden, cache) = undecided(self.model, iteration, samples, guided, cache);
        let [rows, _] = hidden.dims();
        let mut logits = self.model.code_logits(hidden);
        if guided {
            let [conditional, unconditional] =
                [0, 1].map(|half| logits.clone().narrow(0, half * rows / 2, rows / 2));
            logits = conditional * (1.0 + iteration.guidance) - unconditional * iteration.guidance;
        }
        let logits = logits.into_data().convert::<f32>().try_into_vec::<f32>();
        Ok((logits.map_err(|error| Error::Device(format!("{error:?}")))?, cache))
    }

    fn sequences(&self) -> Result<Vec<Sequence>, Error> {
        let config = self.model.config();
        self.plan.check_model(config)?;
        let known = match &self.known {
            Some(known) => known.clone(),
            None => vec![None; config.tokens],
        };
        if known.len() != config.tokens {
            return Err(Error::Field {
                field: "known tokens",
                expected: config.tokens.to_string(),
                got: known.len().to_string(),
            });
        }
        if let Some(token) = known.iter().flatten().find(|&&token| usize::from(token) >= config.codes) {
            return Err(Error::Field {
                field: "known tokens",
                expected: format!("codes below {}", config.codes),
                got: token.to_string(),
            });
        }
        let unknown = known.iter().filter(|token| token.is_none()).count();
        let planned = self.plan.iterations().first().map_or(0, |iteration| iteration.masked);
        if unknown != planned {
            return Err(Error::Field {
                field: "tokens to decode",
                expected: format!("{planned}, as planned"),
                got: unknown.to_string(),
            });
        }
        let vocabulary = config.vocabulary();
        let token = |class: Option<usize>| match class {
            Some(class) => Ok(vocabulary.class(class)?),
            None if config.null_class => Ok(vocabulary.null()),
            None => Err(Error::field("class", "one, since the model has no null class", "none")),
        };
        self.classes.iter().map(|&class| Ok(Sequence::new(token(class)?, &known))).collect()
    }

    fn report(&mut self, iteration: usize, samples: &[Sequence]) {
        if let Some(watch) = &mut self.watch {
            let tokens: Vec<_> = samples.iter().map(Sequence::raster).collect();
            let undecided: Vec<_> = samples.iter().map(Sequence::undecided).collect();
            watch(&Snapshot { iteration, tokens: &tokens, undecided: &undecided });
        }
    }
}

/// The residual stream at the undecided places of each sample, `[B * M, D]` (where `guided`, then those of the same
/// samples without their class), and the cache for the next iteration: everything decided before this one.
pub(crate) fn undecided(
    model: &NestedTransformer,
    iteration: &Iteration,
    samples: &[Sequence],
    guided: bool,
    cache: Option<&KvCache>,
) -> (Tensor<2>, Option<KvCache>) {
    let (config, device) = (model.config(), model.device());
    let start = cache.map_or(0, KvCache::len);
    let vocabulary = config.vocabulary();
    let conditional = samples.iter().map(|s| s.active(start, &vocabulary, false));
    let unconditional = samples.iter().filter(|_| guided).map(|s| s.active(start, &vocabulary, true));
    let (tokens, positions): (Vec<_>, Vec<_>) = conditional.chain(unconditional).unzip();
    let rows = tokens.len();
    let masked = iteration.masked;
    let keep = if iteration.cache_serves_next { config.positions() - masked } else { 0 };
    let (hidden, kept) = model.forward_cached(
        indices(tokens, rows, &device),
        indices(positions, rows, &device),
        cache,
        keep,
        iteration.sub_model,
    );
    let [_, active, width] = hidden.dims();
    let hidden = hidden.narrow(1, active - masked, masked).reshape([rows * masked, width]);
    (hidden, iteration.cache_serves_next.then_some(kept))
}

fn indices(rows: Vec<Vec<i32>>, batch: usize, device: &Device) -> Tensor<2, Int> {
    let values: Vec<i32> = rows.concat();
    let length = values.len() / batch.max(1);
    Tensor::from_data(TensorData::new(values, [batch, length]), device)
}
