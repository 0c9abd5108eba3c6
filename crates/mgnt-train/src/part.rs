//! A step in parts: each computes the loss and gradients of some places of the batch, and they add up.
//!
//! On a CPU the parts run side by side, a thread and a tape each, since most of the backend's operations know one
//! thread only. Sums are taken in the order of the parts: a step's result depends on their number, which the recipe
//! names, and not on the machine's threads.

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

/// Computes step `step` on forks of the model.
pub(crate) fn compute<T: Task>(
    task: &T,
    model: &T::Model,
    optimization: &Optimization,
    step: usize,
    device: &Device,
    side_by_side: bool,
) -> Result<Computed<T::Extra>, Error> {
    let ranges = optimization.places();
    let one = |(index, range): (usize, Range<usize>)| -> Result<Computed<T::Extra>, Error> {
        if task.draws_on_device() {
            // Dropout draws from the device's generator, which no checkpoint holds.
            let place = (step * optimization.parts + index) as u64;
            device.seed(optimization.seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        // A fork has leaves of its own, so that the tapes of parts share nothing and do not wait for each other.
        let fork = model.clone().fork(&taped(device, optimization));
        let PartOutput { loss, figures, extra } = task.part(&fork, step, range)?;
        let figures = figures.into_iter().map(|(name, value)| Ok((name, number(value)?)));
        let figures = figures.collect::<Result<Vec<_>, Error>>()?;
        let value = number(loss.clone())?;
        let gradients = GradientsParams::from_grads(loss.backward(), &fork);
        Ok(Computed { loss: value, gradients, figures, extras: vec![extra] })
    };
    let parts = ranges.into_iter().enumerate();
    // Draws from one generator must come in order.
    let computed: Vec<_> = if side_by_side && optimization.parts > 1 && !task.draws_on_device() {
        std::thread::scope(|scope| {
            let one = &one;
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || one(part))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    } else {
        parts.map(one).collect()
    };
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
    fn parts_cover_the_batch() {
        let places = |batch, parts| Optimization { batch, parts, ..optimization() }.places();
        assert_eq!(places(7, 3), [0..2, 2..4, 4..7]);
        assert_eq!(places(4, 2), [0..2, 2..4]);
    }
}
