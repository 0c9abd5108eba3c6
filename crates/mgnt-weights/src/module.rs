//! Moves tensors between a [`TensorMap`] and a Burn module.
//!
//! A parameter's name is its path of field names joined with dots, e.g. `blocks.3.attention.query.weight`.
//! Shapes and layout are Burn's (a linear layer's weight is `[in, out]`).

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::kind::Basic;
use burn::tensor::{Device, Element, FloatDType, Tensor, TensorData};

use crate::{Error, Fitting, TensorMap};

/// Copies every float parameter of a module, as `f32`. With low-rank updates ([`Module::apply_lora`]) these are parameters too;
/// [`Module::materialize`] adds them to the weights that they change.
///
/// Fails where the device does, with the first parameter that it did not give.
pub fn to_map<M: Module>(module: &M) -> Result<TensorMap, Error> {
    let mut collector = Collector { path: Vec::new(), map: TensorMap::new(), error: None };
    module.visit(&mut collector);
    match collector.error {
        Some(error) => Err(error),
        None => Ok(collector.map),
    }
}

/// Fills a module's float parameters from a map, on the devices where they are.
///
/// Every parameter must be in the map with its shape, and every tensor of the map must be a parameter;
/// otherwise [`Error::Mismatch`] lists all differences.
pub fn from_map<M: Module>(module: M, map: TensorMap) -> Result<M, Error> {
    let mut filler = Filler { path: Vec::new(), tensors: Fitting::new(map) };
    let module = module.map(&mut filler);
    filler.tensors.end()?;
    Ok(module)
}

/// Fails where a device was [configured](Device::configure) to make floats of another type than `f32`: parameters would
/// be of that type, and so would numbers on the way that layers and kernels take for `f32`.
pub fn check_float_type(device: &Device) -> Result<(), Error> {
    match device.settings().float_dtype {
        FloatDType::F32 => Ok(()),
        other => Err(Error::FloatType { got: format!("{other:?}") }),
    }
}

/// A tensor's numbers in order, read from its device; the error is what the device says.
pub fn numbers<const D: usize, K: Basic, E: Element>(tensor: Tensor<D, K>) -> Result<Vec<E>, String> {
    let data = tensor.try_into_data().map_err(|error| format!("{error:?}"))?;
    data.convert::<E>().try_into_vec().map_err(|error| format!("{error:?}"))
}

struct Collector {
    path: Vec<String>,
    map: TensorMap,
    error: Option<Error>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        let shape = param.val().dims();
        let inserted = numbers(param.val())
            .map_err(|reason| Error::Device { name: name.clone(), reason })
            .and_then(|values| self.map.insert_f32(&name, &shape, &values));
        if let Err(error) = inserted {
            self.error.get_or_insert(error);
        }
    }
}

struct Filler {
    path: Vec<String>,
    tensors: Fitting,
}

impl ModuleMapper for Filler {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        // Nothing here touches the old value, which a module may not have drawn yet and then never will.
        let expected = param.lazy_shape().to_vec();
        let Some(tensor) = self.tensors.take(&name, &expected) else { return param };
        let data = TensorData::new(tensor.to_f32(), expected);
        drop(tensor);
        let (id, device) = (param.id, param.lazy_device());
        param.transform_for_load(Tensor::from_data(data, &device), id)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};

    use super::*;

    #[derive(Module, Debug)]
    struct Pair {
        first: Linear,
        rest: Vec<Linear>,
    }

    #[test]
    fn names_below_a_prefix_are_told_of_first() {
        let device = Device::flex();
        let map = to_map(&pair(&device)).unwrap();
        let prefixed: TensorMap = map.into_iter().map(|(name, t)| (format!("net.trunk.{name}"), t)).collect();
        let error = from_map(pair(&device), prefixed.clone()).unwrap_err().to_string();
        let second = error.lines().nth(1).unwrap();
        assert_eq!(second, "  all that is missing is there below `net.trunk.`");
        let mut fewer = prefixed.clone();
        fewer.remove("net.trunk.first.weight").unwrap();
        let error = from_map(pair(&device), fewer).unwrap_err().to_string();
        assert!(!error.contains("below"), "{error}");
        from_map(pair(&device), prefixed.below("net.trunk.")).unwrap();
    }

    fn pair(device: &Device) -> Pair {
        let linear = LinearConfig::new(2, 3);
        Pair { first: linear.init(device), rest: vec![linear.init(device)] }
    }

    #[test]
    fn parameters_move_by_their_path() {
        let device = Device::flex();
        let map = to_map(&pair(&device)).unwrap();
        let names: Vec<_> = map.iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(names, ["first.bias", "first.weight", "rest.0.bias", "rest.0.weight"]);
        let other = from_map(pair(&device), map.clone()).unwrap();
        assert_eq!(to_map(&other).unwrap(), map);
    }

    #[test]
    fn every_difference_is_listed() {
        let device = Device::flex();
        let mut map = to_map(&pair(&device)).unwrap();
        map.remove("first.bias");
        map.insert_f32("first.weight", &[1], &[0.0]).unwrap();
        map.insert_f32("other", &[1], &[0.0]).unwrap();
        map.insert_i32("rest.0.bias", &[3], &[1, 2, 3]).unwrap();
        let error = from_map(pair(&device), map).unwrap_err().to_string();
        for part in [
            "missing  first.bias [3]",
            "shape    first.weight: expected [2, 3], got [1]",
            "extra    other [1]",
            "type     rest.0.bias: expected a floating-point type, got I32",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
