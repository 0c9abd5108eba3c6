//! Decodes of parts of a batch side by side, for processors.

use std::time::Instant;

use mgnt_model::NestedTransformer;
use mgnt_model::side_by_side::pools;

use crate::decoder::decode;
use crate::samples::Start;
use crate::{Decoded, Error, Plan};

/// Decodes a batch in as many parts as there are cores, or samples; in one where a thread of a pool asks. No sample depends
/// on its batch, so that the tokens are those of the whole.
pub(crate) fn decode_in_parts(
    model: &NestedTransformer,
    plan: &Plan,
    start: &Start,
) -> Result<Decoded, Error> {
    let batch = start.classes.len();
    // A pool's thread that waits for parts would begin another decode of its queue, whose parts take threads of their own.
    let has_share = rayon::current_thread_index().is_some();
    if has_share || batch.min(rayon::current_num_threads()) < 2 {
        return decode(model, plan, start, false, None);
    }
    let pools = pools(batch).map_err(|e| Error::Device(format!("no threads: {e}")))?;
    let count = pools.len();
    let clock = Instant::now();
    let part = |index: usize| {
        let range = index * batch / count..(index + 1) * batch / count;
        let start = Start {
            first_sample: start.first_sample.wrapping_add(range.start as u64),
            classes: start.classes[range].to_vec(),
            known: start.known.clone(),
            seed: start.seed,
        };
        pools[index].install(|| decode(model, plan, &start, false, None))
    };
    let part = &part;
    let mut whole = std::thread::scope(|scope| {
        let others: Vec<_> = (1..count).map(|index| scope.spawn(move || part(index))).collect();
        let joined = others.into_iter().map(|thread| thread.join());
        let first = part(0);
        joined.fold(first, |whole, other| {
            let other = other.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (mut whole, other) = (whole?, other?);
            whole.tokens.extend(other.tokens);
            whole.ledger.beside(&other.ledger);
            Ok(whole)
        })
    })?;
    whole.ledger.milliseconds = Some(clock.elapsed().as_secs_f64() * 1e3);
    Ok(whole)
}
