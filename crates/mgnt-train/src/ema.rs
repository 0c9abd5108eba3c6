//! A moving average of the weights, used for sampling and evaluation.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use mgnt_model::kernels::{Kernels, Operations};

/// Decay at a step: young averages follow faster, so that the first weights are forgotten.
pub(crate) fn decay_at(decay: f64, step: usize) -> f64 {
    decay.min((1.0 + step as f64) / (10.0 + step as f64))
}

/// `average <- decay average + (1 - decay) weights`, both without a tape; a parameter that only the average has stays.
pub(crate) fn update<M: Module>(average: M, weights: &M, decay: f64, kernels: Option<&dyn Kernels>) -> M {
    let [before, current] = [&average, weights].map(|module| {
        let mut numbers = Numbers::default();
        module.visit(&mut numbers);
        numbers.0
    });
    let mut current: HashMap<_, _> = current.into_iter().collect();
    let pair = |(id, average)| Some((id, [average, current.remove(&id)?]));
    let (ids, pairs): (Vec<_>, Vec<_>) = before.into_iter().filter_map(pair).unzip();
    // Of all parameters at once: a device's kernels take several in a launch.
    let averaged = kernels.unwrap_or(&Operations).averaged(pairs, decay);
    average.map(&mut Replace(ids.into_iter().zip(averaged).collect()))
}

/// The numbers of each parameter, one behind the other, in the module's order.
#[derive(Default)]
struct Numbers(Vec<(ParamId, Tensor<1>)>);

impl ModuleVisitor for Numbers {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let count = value.shape().num_elements();
        self.0.push((param.id, value.reshape([count])));
    }
}

struct Replace(HashMap<ParamId, Tensor<1>>);

impl ModuleMapper for Replace {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(numbers) = self.0.remove(&param.id) else { return param };
        param.map(|old| numbers.reshape(old.dims()))
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_constant_target_is_approached_geometrically() {
        let device = Device::flex();
        let start: Linear = LinearConfig::new(2, 2).init(&device);
        let target = start.clone().map(&mut Shift);
        for kernels in [None, Some(&Operations as &dyn Kernels)] {
            let mut average = start.clone();
            for _ in 0..5 {
                average = update(average, &target, 0.9, kernels);
            }
            let left = (target.weight.val() - average.weight.val()).mean().into_scalar::<f32>();
            assert!((left - 0.9f32.powi(5)).abs() < 1e-5, "{left}");
            assert_eq!(average.weight.id, start.weight.id);
        }
    }

    struct Shift;
    impl ModuleMapper for Shift {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|t| t + 1.0)
        }
    }

    #[test]
    fn the_decay_warms_up() {
        assert_eq!(decay_at(0.99, 0), 0.1);
        assert_eq!(decay_at(0.99, 1_000_000), 0.99);
    }
}
