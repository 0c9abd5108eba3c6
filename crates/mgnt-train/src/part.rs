//! A step in parts: each computes the loss and gradients of some places of the batch, and they add up.
//!
//! On a CPU parts run side by side, each with a tape of its own, since most of the backend's operations know one
//! thread only; and small parts stay in the processor's cache. Several devices take turns, each with a copy of the model that it
//! gets anew in every step, and with a thread of its own for the whole run: a device keeps memory for each thread that asks it. Sums are
//! taken in the order of the parts: a step's result depends on their number, which the recipe names, and not on the
//! machine's threads, nor, but for rounding, on its devices.

use std::ops::Range;
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use mgnt_model::side_by_side::{Pools, pools};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::task::{Figures, PartOutput, Task, number};
use crate::{Error, Optimization};

/// Loss, gradients and figures of a whole step.
pub(crate) struct Computed<E> {
    pub loss: f64,
    pub gradients: GradientsParams,
    pub figures: Figures,
    pub extras: Vec<E>,
}

impl Optimization {
    /// Places of the batch that each part of a step computes.
    pub fn places(&self) -> Vec<Range<usize>> {
        let (batch, parts) = (self.batch, self.parts);
        (0..parts).map(|i| i * batch / parts..(i + 1) * batch / parts).collect()
    }

    /// The device with a tape, as a training has it.
    pub fn taped(&self, device: &Device) -> Device {
        let device = device.clone().autodiff();
        if self.gradient_checkpointing { device.gradient_checkpointing() } else { device }
    }

    /// Samples of a validation that are computed at once: no more than of a step, so that what fits stays what fits.
    pub(crate) fn samples_at_once(&self) -> usize {
        self.batch.div_ceil(self.parts)
    }
}

/// Where the parts of a step are computed.
pub(crate) struct Workers {
    /// Where the model is, and where gradients add up.
    home: Device,
    /// Devices that compute parts too, in turn after the first.
    others: Vec<Device>,
    threads: Threads,
    /// Random numbers of all devices are those of one generator.
    one_generator: bool,
}

/// What computes parts besides the thread that asks.
enum Threads {
    None,
    /// A pool for each of the parts that run side by side on a processor, where nothing has to come in order.
    OfParts(Pools),
    /// A thread for each device but the first, which is the asking thread's.
    OfDevices(Vec<ThreadPool>),
}

impl Workers {
    /// Of a recipe's parts. `side_by_side` are those of one device where it is a CPU.
    pub fn new(home: &Device, others: &[Device], side_by_side: bool, parts: usize) -> Result<Self, Error> {
        let one = || ThreadPoolBuilder::new().num_threads(1).build();
        let threads = match (others, side_by_side) {
            ([], false) => Ok(Threads::None),
            ([], true) => pools(parts).map(Threads::OfParts),
            (others, _) => others.iter().map(|_| one()).collect::<Result<_, _>>().map(Threads::OfDevices),
        };
        let threads = threads.map_err(|e| Error::Device(format!("no threads: {e}")))?;
        Ok(Self { home: home.clone(), others: others.to_vec(), threads, one_generator: false })
    }

    /// Whether the devices' random numbers are those of one generator.
    pub fn sharing_a_generator(self, one_generator: bool) -> Self {
        Self { one_generator, ..self }
    }

    fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// The device of a part, and its number among the others where it is one of those.
    fn device(&self, part: usize) -> (&Device, Option<usize>) {
        match (part % self.count()).checked_sub(1) {
            None => (&self.home, None),
            Some(other) => (&self.others[other], Some(other)),
        }
    }

    /// Does `work` for every part and adds up what it gives, in the order of the parts. `in_order` parts of one generator of
    /// random numbers come one after the other.
    fn sum<R: Send, S: Send>(
        &self,
        parts: usize,
        in_order: bool,
        work: impl Fn(usize) -> R + Sync,
        start: S,
        add: impl Fn(S, R) -> S + Sync,
    ) -> S {
        if let Threads::OfDevices(pools) = &self.threads
            && in_order
            && self.one_generator
        {
            let in_turn = |part: usize| match self.device(part).1 {
                None => work(part),
                Some(other) => pools[other].install(|| work(part)),
            };
            return (0..parts).map(in_turn).fold(start, add);
        }
        // Besides the asking thread, if it computes a part.
        let (pools, here) = match &self.threads {
            Threads::OfParts(pools) if !in_order => (&pools[..], 0),
            Threads::OfDevices(pools) => (&pools[..], 1),
            Threads::None | Threads::OfParts(_) => (&[][..], 1),
        };
        let threads = (here + pools.len()).min(parts);
        if threads == 1 {
            return (0..parts).map(work).fold(start, add);
        }
        // A device has a queue for each thread that asks it, and none knows of what another wrote in place.
        let is_waited_for = matches!(self.threads, Threads::OfDevices(_));
        let add = |sum: S, term: R| {
            let sum = add(sum, term);
            if is_waited_for {
                // What failed fails again where the sum is read.
                let _ = self.home.sync();
            }
            sum
        };
        let turns = Turns::new(start);
        let (turns_of, work, add) = (&turns, &work, &add);
        let of = move |first: usize| {
            let _guard = EndsWait(turns_of);
            (first..parts).step_by(threads).for_each(|part| turns_of.take(part, work(part), add));
        };
        std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (pool, first) in pools.iter().zip(here..threads) {
                running.push(scope.spawn(move || pool.install(|| of(first))));
            }
            (0..here).for_each(of);
            for thread in running {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
        turns.into_sum()
    }
}

/// A sum whose terms are added in order, whichever is there first. Terms that wait are as many as threads.
struct Turns<S> {
    state: Mutex<Turn<S>>,
    next: Condvar,
}

struct Turn<S> {
    /// Whose turn it is.
    part: usize,
    /// Absent while a term is added.
    sum: Option<S>,
    /// A thread panicked: its turn never comes.
    broken: bool,
}

impl<S> Turns<S> {
    fn new(start: S) -> Self {
        Self { state: Mutex::new(Turn { part: 0, sum: Some(start), broken: false }), next: Condvar::new() }
    }

    /// Waits for the turn of a part, and adds what it gave.
    fn take<R>(&self, part: usize, result: R, add: impl Fn(S, R) -> S) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let not_yet = |turn: &mut Turn<S>| turn.part != part && !turn.broken;
        let mut state = self.next.wait_while(state, not_yet).unwrap_or_else(PoisonError::into_inner);
        if let Some(sum) = state.sum.take().filter(|_| !state.broken) {
            state.sum = Some(add(sum, result));
            state.part += 1;
            self.next.notify_all();
        }
    }

    fn into_sum(self) -> S {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.sum.expect("no thread panicked, so every term was added")
    }
}

/// Lets no thread wait for one that panicked.
struct EndsWait<'a, S>(&'a Turns<S>);

impl<S> Drop for EndsWait<'_, S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state.lock().unwrap_or_else(PoisonError::into_inner).broken = true;
            self.0.next.notify_all();
        }
    }
}

/// Computes step `step` on forks of the model.
pub(crate) fn compute<T: Task>(
    task: &T,
    model: &T::Model,
    optimization: &Optimization,
    step: usize,
    workers: &Workers,
) -> Result<Computed<T::Extra>, Error> {
    let ranges = optimization.places();
    // Parameters go to another device once a step, however many parts it computes.
    let copies: Vec<OnceLock<T::Model>> = workers.others.iter().map(|_| OnceLock::new()).collect();
    let one = |index: usize| -> Result<Computed<T::Extra>, Error> {
        let (device, other) = workers.device(index);
        let on = optimization.taped(device);
        if task.draws_on_device() {
            // Dropout draws from the device's generator, which no checkpoint holds.
            let place = (step * optimization.parts + index) as u64;
            device.seed(optimization.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        // With leaves of their own the tapes of parts share nothing and do not wait for each other.
        let copy = || model.clone().map(&mut OwnLeaves).fork(&on);
        let there = other.map_or(model, |other| copies[other].get_or_init(copy));
        let fork = there.clone().map(&mut OwnLeaves);
        let PartOutput { loss, figures, extra } = task.part(&fork, step, ranges[index].clone())?;
        let mut gradients = GradientsParams::from_grads(loss.backward(), &fork);
        // Read behind the backward pass: a device has all of it to do while the host waits.
        let figures = figures.into_iter().map(|(name, value)| Ok((name, number(value)?)));
        let figures = figures.collect::<Result<Vec<_>, Error>>()?;
        let value = number(loss)?;
        if *device != workers.home {
            gradients = gradients.to_device(&workers.home, &fork);
        }
        Ok(Computed { loss: value, gradients, figures, extras: vec![extra] })
    };
    let add =
        |sum: Option<Result<Computed<T::Extra>, Error>>, part: Result<Computed<T::Extra>, Error>| match sum {
            None => Some(part),
            Some(sum) => Some(sum.and_then(|sum| Ok(added(model, sum, part?)))),
        };
    // Draws from one generator must come in order.
    let sum = workers.sum(ranges.len(), task.draws_on_device(), one, None, add);
    sum.unwrap_or_else(|| Err(Error::run("recipe", "a step has no parts")))
}

/// Gives each parameter a leaf of its own. Burn's `fork` records on the leaf that was there a move from it, which the tape keeps as
/// long as that parameter is: of one that no step changes, one more with every fork, and each backward pass goes through all of
/// them (burn-autodiff 0.22.1).
struct OwnLeaves;

impl ModuleMapper for OwnLeaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(Tensor::detach)
    }
}

fn added<M: Module, E>(model: &M, mut sum: Computed<E>, part: Computed<E>) -> Computed<E> {
    sum.loss += part.loss;
    model.visit(&mut Add { sum: &mut sum.gradients, part: part.gradients });
    for (name, value) in part.figures {
        match sum.figures.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += value,
            None => sum.figures.push((name, value)),
        }
    }
    sum.extras.extend(part.extras);
    sum
}

struct Add<'a> {
    sum: &'a mut GradientsParams,
    part: GradientsParams,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(part) = self.part.remove::<D>(param.id) else { return };
        let sum = match self.sum.remove::<D>(param.id) {
            Some(sum) => sum + part,
            None => part,
        };
        self.sum.register::<D>(param.id, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::tests::optimization;

    #[test]
    fn parts_add_up_in_order_from_any_number_of_threads() {
        let (home, others) = (Device::flex(), [Device::flex(), Device::flex()]);
        for (others, side_by_side, in_order, one_generator) in [
            (&others[..0], false, false, false),
            (&others[..0], true, false, false),
            (&others[..], false, true, false),
            (&others[..], false, true, true),
        ] {
            let workers =
                Workers::new(&home, others, side_by_side, 7).unwrap().sharing_a_generator(one_generator);
            let squares = workers.sum(
                7,
                in_order,
                |part| part * part,
                Vec::new(),
                |mut sum: Vec<usize>, square| {
                    sum.push(square);
                    sum
                },
            );
            assert_eq!(squares, [0, 1, 4, 9, 16, 25, 36]);
        }
    }

    #[test]
    fn a_device_is_one_thread_s_for_the_whole_run() {
        for one_generator in [false, true] {
            each_device_has_a_thread(one_generator);
        }
    }

    fn each_device_has_a_thread(one_generator: bool) {
        let workers = Workers::new(&Device::flex(), &[Device::flex(), Device::flex()], false, 7).unwrap();
        let workers = workers.sharing_a_generator(one_generator);
        let here = std::thread::current().id();
        let of_step = || {
            let thread = |part: usize| (part % 3, std::thread::current().id());
            let add = |mut all: std::collections::HashSet<_>, one| {
                all.insert(one);
                all
            };
            workers.sum(7, true, thread, Default::default(), add)
        };
        let first = of_step();
        assert!(first.len() == 3 && first.contains(&(0, here)), "{first:?}");
        assert_eq!(first, of_step());
    }

    /// Two that draw at once would take each other's random numbers.
    #[test]
    fn parts_of_one_generator_never_meet() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let workers = Workers::new(&Device::flex(), &[Device::flex(), Device::flex()], false, 7).unwrap();
        let workers = workers.sharing_a_generator(true);
        let (at_work, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |part: usize| {
            most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(2));
            at_work.fetch_sub(1, Ordering::SeqCst);
            part
        };
        let count = |in_order| {
            most.store(0, Ordering::SeqCst);
            assert_eq!(workers.sum(7, in_order, work, 0, |sum, part| sum + part), 21);
            most.load(Ordering::SeqCst)
        };
        assert_eq!(count(true), 1);
        assert!(count(false) > 1);
    }

    /// Parts wait for their turn inside the pools: two runs of one process must not share any.
    #[test]
    fn two_runs_do_not_wait_for_each_other() {
        let run = || {
            let workers = Workers::new(&Device::flex(), &[], true, 9).unwrap();
            (0..50).map(|_| workers.sum(9, false, |part| part, 0, |sum, part| sum + part)).sum::<usize>()
        };
        let sums = std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(sums, [50 * 36; 4]);
    }

    #[test]
    fn a_part_that_panics_ends_the_step() {
        let workers = Workers::new(&Device::flex(), &[Device::flex(), Device::flex()], false, 7).unwrap();
        for panics in 0..7 {
            let work = |part: usize| assert!(part != panics, "part {part}");
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                workers.sum(7, false, work, 0, |sum, ()| sum + 1)
            }));
            assert!(result.is_err(), "{panics}");
        }
    }

    #[test]
    fn parts_cover_the_batch() {
        let places = |batch, parts| Optimization { batch, parts, ..optimization() }.places();
        assert_eq!(places(7, 3), [0..2, 2..4, 4..7]);
        assert_eq!(places(4, 2), [0..2, 2..4]);
        let at_once = |batch, parts| Optimization { batch, parts, ..optimization() }.samples_at_once();
        assert_eq!([at_once(7, 3), at_once(4, 2), at_once(4, 4)], [3, 2, 1]);
    }
}
