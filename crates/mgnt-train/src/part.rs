//! A step in parts: each computes the loss and gradients of some places of the batch, and they add up.
//!
//! On a CPU the parts run side by side, a thread and a tape each, since most of the backend's operations know one
//! thread only. Several devices take turns, each with a copy of the model that it gets anew in every step. Sums are
//! taken in the order of the parts: a step's result depends on their number, which the recipe names, and not on the
//! machine's threads, nor, but for rounding, on its devices.

use std::ops::Range;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};

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
}

/// The device with a tape.
pub(crate) fn taped(device: &Device, optimization: &Optimization) -> Device {
    let device = device.clone().autodiff();
    if optimization.gradient_checkpointing { device.gradient_checkpointing() } else { device }
}

/// Where the parts of a step are computed.
pub(crate) struct Workers<'a> {
    /// Where the model is, and where gradients add up.
    pub home: &'a Device,
    /// Devices that compute parts too, in turn after the first.
    pub others: &'a [Device],
    /// Whether the parts of one device run in a thread each.
    pub side_by_side: bool,
}

impl Workers<'_> {
    fn count(&self) -> usize {
        1 + self.others.len()
    }

    fn device(&self, part: usize) -> &Device {
        match part % self.count() {
            0 => self.home,
            other => &self.others[other - 1],
        }
    }

    /// Does `work` for every part, and returns what it gave in the order of the parts. `in_order` parts of one device
    /// come one after the other.
    fn each<R: Send>(&self, parts: usize, in_order: bool, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
        // Parts that share a thread.
        let threads = match self.side_by_side && !in_order {
            true => parts,
            false => self.count().min(parts),
        };
        if threads == 1 {
            return (0..parts).map(work).collect();
        }
        let work = &work;
        let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
            let of = |first: usize| (first..parts).step_by(threads).map(|i| (i, work(i))).collect::<Vec<_>>();
            let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || of(first))).collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined.flat_map(|done| done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        done.sort_by_key(|(part, _)| *part);
        done.into_iter().map(|(_, result)| result).collect()
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
    let one = |index: usize| -> Result<Computed<T::Extra>, Error> {
        let device = workers.device(index);
        if task.draws_on_device() {
            // Dropout draws from the device's generator, which no checkpoint holds.
            let place = (step * optimization.parts + index) as u64;
            device.seed(optimization.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        // A fork has leaves of its own, so that the tapes of parts share nothing and do not wait for each other.
        let fork = model.clone().fork(&taped(device, optimization));
        let PartOutput { loss, figures, extra } = task.part(&fork, step, ranges[index].clone())?;
        let figures = figures.into_iter().map(|(name, value)| Ok((name, number(value)?)));
        let figures = figures.collect::<Result<Vec<_>, Error>>()?;
        let value = number(loss.clone())?;
        let mut gradients = GradientsParams::from_grads(loss.backward(), &fork);
        if device != workers.home {
            gradients = gradients.to_device(workers.home, &fork);
        }
        Ok(Computed { loss: value, gradients, figures, extras: vec![extra] })
    };
    // Draws from one generator must come in order.
    let computed = workers.each(ranges.len(), task.draws_on_device(), one);
    let mut parts = computed.into_iter();
    let first = parts.next().unwrap_or_else(|| Err(Error::run("recipe", "a step has no parts")))?;
    parts.try_fold(first, |mut sum, part| {
        let part = part?;
        sum.loss += part.loss;
        model.visit(&mut Add { sum: &mut sum.gradients, part: part.gradients });
        for ((_, sum), (_, value)) in sum.figures.iter_mut().zip(part.figures) {
            *sum += value;
        }
        sum.extras.extend(part.extras);
        Ok(sum)
    })
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
    fn parts_come_back_in_order_from_any_number_of_threads() {
        let (home, others) = (Device::flex(), [Device::flex(), Device::flex()]);
        for (others, side_by_side, in_order) in
            [(&others[..0], false, false), (&others[..0], true, false), (&others[..], false, true)]
        {
            let workers = Workers { home: &home, others, side_by_side };
            assert_eq!(workers.each(7, in_order, |part| part * part), [0, 1, 4, 9, 16, 25, 36]);
        }
    }

    #[test]
    fn parts_cover_the_batch() {
        let places = |batch, parts| Optimization { batch, parts, ..optimization() }.places();
        assert_eq!(places(7, 3), [0..2, 2..4, 4..7]);
        assert_eq!(places(4, 2), [0..2, 2..4]);
    }
}
