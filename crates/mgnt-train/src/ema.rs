//! A moving average of the weights, used for sampling and evaluation.

use std::any::Any;
use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;
use mgnt_model::kernels::Kernels;

/// Decay at a step: young averages follow faster, so that the first weights are forgotten.
pub(crate) fn decay_at(decay: f64, step: usize) -> f64 {
    decay.min((1.0 + step as f64) / (10.0 + step as f64))
}

/// `average <- decay average + (1 - decay) weights`, parameter by parameter; both without a tape.
pub(crate) fn update<M: Module>(average: M, weights: &M, decay: f64, kernels: Option<&dyn Kernels>) -> M {
    let mut current = Current(HashMap::new());
    weights.visit(&mut current);
    average.map(&mut Blend { current: current.0, decay, kernels })
}

struct Current(HashMap<ParamId, Box<dyn Any>>);

impl ModuleVisitor for Current {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id, Box::new(param.val()));
    }
}

struct Blend<'a> {
    current: HashMap<ParamId, Box<dyn Any>>,
    decay: f64,
    kernels: Option<&'a dyn Kernels>,
}

impl ModuleMapper for Blend<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let new = self.current.remove(&param.id).and_then(|tensor| tensor.downcast::<Tensor<D>>().ok());
        let Some(new) = new else { return param };
        param.map(|old| match self.kernels {
            Some(kernels) => {
                let shape = old.dims();
                let all = [shape.iter().product::<usize>()];
                kernels.averaged(old.reshape(all), new.reshape(all), self.decay).reshape(shape)
            }
            None => old * self.decay + *new * (1.0 - self.decay),
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;
    use mgnt_model::kernels::Operations;

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
