//! The loop: a plan, a model, and per-sample random numbers become tokens and a ledger.

use std::borrow::Cow;
use std::fmt;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Int, Tensor};
use mgnt_model::{KvCache, NestedTransformer};

use crate::resident::{Inputs, Resident};
use crate::samples::{OnHost, Samples, Start};
use crate::side_by_side::decode_in_parts;
use crate::{Error, Iteration, Ledger, Plan};

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
    resident: bool,
    watch: Option<&'a mut dyn FnMut(&Snapshot)>,
}

impl fmt::Debug for Decoder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("strategy", self.plan.strategy())
            .field("classes", &self.classes)
            .field("seed", &self.seed)
            .field("first_sample", &self.first_sample)
            .field("resident", &self.resident)
            .finish_non_exhaustive()
    }
}

/// What a decode leaves.
#[derive(Debug, Clone, PartialEq)]
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
        Self {
            model,
            plan,
            classes: vec![Some(0)],
            seed: 0,
            first_sample: 0,
            known: None,
            resident: false,
            watch: None,
        }
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

    /// The class of each sample, `None` for no class, which needs a vocabulary with a null class.
    pub fn labels(mut self, labels: &[Option<usize>]) -> Self {
        self.classes = labels.to_vec();
        self
    }

    /// The seed of all random numbers.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The number of the first sample. A sample's random numbers depend on the seed and its number, and not on the
    /// batch that it is decoded in; products of other sizes may be rounded otherwise on accelerators.
    pub fn first_sample(mut self, number: u64) -> Self {
        self.first_sample = number;
        self
    }

    /// Tokens given beforehand, in raster order, the same in all samples of the batch; they are never drawn. The plan must
    /// have been made for the number of the others ([`Strategy::plan_for`](crate::Strategy::plan_for)).
    pub fn known(mut self, tokens: Vec<Option<u16>>) -> Self {
        self.known = Some(tokens);
        self
    }

    /// Keeps tokens, noise and choices on the model's device, and reads tokens once, at the end: for accelerators, which
    /// run ahead of the host then, so that single iterations have no time unless they are watched. Draws are made in f32
    /// instead of f64, so that a token may differ where rounding decides. An order of one's own ([`Plan::with_order`])
    /// and top-p stay on the host.
    pub fn resident(mut self) -> Self {
        self.resident = true;
        self
    }

    /// Calls `watch` after each iteration.
    pub fn watch(mut self, watch: &'a mut dyn FnMut(&Snapshot)) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Decodes. Fails before the model runs where classes, known tokens and plan do not fit the model.
    ///
    /// A batch of a model that is [`on_processor`](NestedTransformer::on_processor) is decoded in parts side by side, each
    /// on a share of the cores; in one part where it is watched, or where a thread of a rayon pool decodes, which has a
    /// share of its own already. A model on a device with a tape decodes as its [`valid`](Module::valid) form does: without
    /// dropout, and off the tape.
    pub fn run(self) -> Result<Decoded, Error> {
        let start = self.start()?;
        let Self { model, plan, resident, watch, .. } = self;
        let model = &*off_the_tape(model);
        match watch {
            None if model.is_on_processor() && !resident => decode_in_parts(model, plan, &start),
            watch => decode(model, plan, &start, resident, watch),
        }
    }

    /// What the decode begins with, checked.
    pub(crate) fn start(&self) -> Result<Start, Error> {
        let config = self.model.config();
        self.plan.check_model(config)?;
        let known = match &self.known {
            Some(known) => known.clone(),
            None => vec![None; config.tokens],
        };
        if known.len() != config.tokens {
            return Err(Error::field("known tokens", config.tokens, known.len()));
        }
        if let Some(token) = known.iter().flatten().find(|&&token| usize::from(token) >= config.codes) {
            return Err(Error::field("known tokens", format!("codes below {}", config.codes), token));
        }
        let unknown = known.iter().filter(|token| token.is_none()).count();
        let planned = self.plan.iterations().first().map_or(0, |iteration| iteration.masked);
        if unknown != planned {
            return Err(Error::field("tokens to decode", format!("{planned}, as planned"), unknown));
        }
        let vocabulary = config.vocabulary();
        let token = |class: Option<usize>| match class {
            Some(class) => Ok(vocabulary.class(class)?),
            None if config.null_class => Ok(vocabulary.null()),
            None => Err(Error::field("class", "one, since the model has no null class", "none")),
        };
        if self.classes.is_empty() {
            return Err(Error::field("classes", "at least one sample", 0));
        }
        let classes = self.classes.iter().map(|&class| token(class)).collect::<Result<_, _>>()?;
        Ok(Start { classes, known, seed: self.seed, first_sample: self.first_sample })
    }
}

/// The model without a tape, on which dropout would act and all iterations would be kept.
pub(crate) fn off_the_tape(model: &NestedTransformer) -> Cow<'_, NestedTransformer> {
    match model.device().is_autodiff() {
        true => Cow::Owned(model.valid()),
        false => Cow::Borrowed(model),
    }
}

/// Decodes a batch together.
pub(crate) fn decode(
    model: &NestedTransformer,
    plan: &Plan,
    start: &Start,
    resident: bool,
    mut watch: Option<&mut dyn FnMut(&Snapshot)>,
) -> Result<Decoded, Error> {
    let begin = Instant::now();
    let inputs = if resident { Inputs::new(model, plan, start) } else { None };
    let mut samples: Box<dyn Samples> = match &inputs {
        Some(inputs) => Box::new(Resident::new(inputs)),
        None => Box::new(OnHost::new(plan, model.config().vocabulary(), start, model.device())),
    };
    let mut ledger = Ledger::new(plan, start.classes.len());
    let mut cache: Option<KvCache> = None;
    for iteration in plan.iterations() {
        let clock = Instant::now();
        let logits = logits(model, iteration, samples.as_ref(), &mut cache);
        let sampled = samples.draw_and_decide(logits, iteration)?;
        // What is not waited for has no time before the end.
        let mut time = sampled.map(|_| clock.elapsed());
        let held = cache.as_ref().map_or(0, KvCache::bytes);
        if let Some(watch) = &mut watch {
            let (tokens, undecided) = (samples.raster()?, samples.undecided()?);
            // What is read was waited for; what the watcher does then is not the decode's.
            time = time.or_else(|| Some(clock.elapsed()));
            watch(&Snapshot { iteration: iteration.index, tokens: &tokens, undecided: &undecided });
        }
        ledger.record(iteration.index, held, time, sampled);
    }
    let tokens = samples.raster()?;
    ledger.end(begin.elapsed());
    Ok(Decoded { tokens, ledger })
}

/// The residual stream at the undecided places of the `active` tokens and positions of each sample, `[B * M, D]`, and the
/// cache for the next iteration: everything decided before this one.
pub(crate) fn undecided(
    model: &NestedTransformer,
    iteration: &Iteration,
    (tokens, positions): (Tensor<2, Int>, Tensor<2, Int>),
    cache: Option<KvCache>,
) -> (Tensor<2>, Option<KvCache>) {
    let masked = iteration.masked;
    let keep = if iteration.cache_serves_next { model.config().positions() - masked } else { 0 };
    let (hidden, kept) = model.forward_cached(tokens, positions, cache, keep, iteration.sub_model);
    let [rows, active, width] = hidden.dims();
    let hidden = hidden.narrow(1, active - masked, masked).reshape([rows * masked, width]);
    (hidden, iteration.cache_serves_next.then_some(kept))
}

/// Logits over the codes at the undecided places of each sample, `[B * M, V]`, guided where the iteration is. `cache` is
/// dropped where the iteration makes it anew, and becomes that for the next one.
pub(crate) fn logits(
    model: &NestedTransformer,
    iteration: &Iteration,
    samples: &dyn Samples,
    cache: &mut Option<KvCache>,
) -> Tensor<2> {
    if iteration.refresh {
        *cache = None;
    }
    let guided = iteration.is_guided();
    let active = samples.active(cache.as_ref().map_or(0, KvCache::len), guided);
    let (hidden, kept) = undecided(model, iteration, active, cache.take());
    *cache = kept;
    let [rows, _] = hidden.dims();
    let logits = model.code_logits(hidden);
    if !guided {
        return logits;
    }
    let [conditional, unconditional] = [0, 1].map(|half| logits.clone().narrow(0, half * rows / 2, rows / 2));
    conditional * (1.0 + iteration.guidance) - unconditional * iteration.guidance
}
