//! A decode whose order and tokens are known beforehand: what the model says on the way, for comparison with other
//! implementations. Sampling plays no part.

use burn::tensor::{Tensor, TensorData};
use mgnt_model::{KvCache, NestedTransformer};

use crate::decoder::{off_the_tape, undecided};
use crate::order::first_wrong;
use crate::samples::{active, read};
use crate::sequence::Sequence;
use crate::{Error, Iteration, Plan};

/// One sample of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its class.
    pub class: usize,
    /// Raster places in the order in which they are decided, each once.
    pub order: Vec<usize>,
    /// The token of each raster place.
    pub tokens: Vec<u16>,
}

/// What the model says at the start of an iteration.
#[derive(Debug)]
pub struct Said<'a> {
    /// The iteration.
    pub iteration: &'a Iteration,
    /// Undecided raster places of each sample, ascending, `[B][M]`.
    pub places: Vec<Vec<usize>>,
    /// Logits over the whole vocabulary there, row by row `[B, M, vocabulary]`.
    pub logits: Vec<f32>,
}

/// Runs a plan over known samples; `hear` gets what the model says in each iteration of the class that was given, whether
/// the plan guides or not.
pub fn replay<E: From<Error>>(
    model: &NestedTransformer,
    plan: &Plan,
    given: &[Given],
    hear: &mut dyn FnMut(Said) -> Result<(), E>,
) -> Result<(), E> {
    plan.check_model(model.config())?;
    if given.is_empty() {
        return Err(Error::field("samples", "at least one", 0).into());
    }
    let (tokens, planned) =
        (model.config().tokens, plan.iterations().first().map_or(0, |first| first.masked));
    if planned != tokens {
        return Err(Error::field("plan", format!("one that decodes all {tokens} tokens"), planned).into());
    }
    let model = &*off_the_tape(model);
    let mut samples = given.iter().map(|g| sequence(model, g)).collect::<Result<Vec<_>, _>>()?;
    let mut cache: Option<KvCache> = None;
    for iteration in plan.iterations() {
        if iteration.refresh {
            cache = None;
        }
        let hidden;
        let start = cache.as_ref().map_or(0, KvCache::len);
        let active = active(&samples, start, &model.config().vocabulary(), false, &model.device());
        (hidden, cache) = undecided(model, iteration, active, cache.take());
        let logits = model.vocabulary_logits(hidden);
        let (places, rows) = ascending(&samples);
        let rows = Tensor::from_data(TensorData::new(rows.clone(), [rows.len()]), &model.device());
        let logits = read(logits.select(0, rows))?;
        hear(Said { iteration, places, logits })?;
        samples.iter_mut().for_each(|sample| sample.advance(iteration.decided));
    }
    Ok(())
}

/// Undecided places of each sample, ascending, and the rows of the logits, which come in decode order, for that.
fn ascending(samples: &[Sequence]) -> (Vec<Vec<usize>>, Vec<i32>) {
    let (mut places, mut rows) = (Vec::with_capacity(samples.len()), Vec::new());
    for sample in samples {
        let open = sample.open_places();
        let first = rows.len();
        let mut order: Vec<usize> = (0..open.len()).collect();
        order.sort_unstable_by_key(|&i| open[i]);
        places.push(order.iter().map(|&i| open[i]).collect());
        rows.extend(order.into_iter().map(|i| (first + i) as i32));
    }
    (places, rows)
}

fn sequence(model: &NestedTransformer, given: &Given) -> Result<Sequence, Error> {
    let config = model.config();
    if let Some(place) = first_wrong(&given.order, config.tokens) {
        return Err(Error::field("order", format!("each of {} places once", config.tokens), place));
    }
    for (field, got) in [("order", given.order.len()), ("final tokens", given.tokens.len())] {
        if got != config.tokens {
            return Err(Error::field(field, format!("{} places", config.tokens), got));
        }
    }
    if let Some(token) = given.tokens.iter().find(|&&token| usize::from(token) >= config.codes) {
        return Err(Error::field("final tokens", format!("codes below {}", config.codes), token));
    }
    let class = config.vocabulary().class(given.class)?;
    Ok(Sequence::replayed(class, &given.order, &given.tokens))
}
