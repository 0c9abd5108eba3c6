//! Tensors taken by name and shape, with a list of all that does not fit.

use crate::{Error, NamedTensor, TensorMap};

/// Tensors that are to be those of a model, all of them and no more.
#[derive(Debug)]
pub struct Fitting {
    map: TensorMap,
    missing: Vec<String>,
    problems: Vec<String>,
}

impl Fitting {
    /// Of what a file has.
    pub fn new(map: TensorMap) -> Self {
        Self { map, missing: Vec::new(), problems: Vec::new() }
    }

    /// Takes the floats of that name out, if they have that shape; what is wrong with them is told at the [end](Self::end).
    pub fn take(&mut self, name: &str, shape: &[usize]) -> Option<NamedTensor> {
        match self.map.remove(name) {
            None => {
                self.problems.push(format!("  missing  {name} {shape:?}"));
                self.missing.push(name.into());
            }
            Some(tensor) if tensor.shape() != shape => {
                self.problems
                    .push(format!("  shape    {name}: expected {shape:?}, got {:?}", tensor.shape()));
            }
            Some(tensor) if !tensor.dtype().is_float() => {
                let got = tensor.dtype();
                self.problems.push(format!("  type     {name}: expected a floating-point type, got {got:?}"));
            }
            Some(tensor) => return Some(tensor),
        }
        None
    }

    /// Fails with [`Error::Mismatch`] where something did not fit, or is left.
    pub fn end(mut self) -> Result<(), Error> {
        if let Some(prefix) = prefix_of(&self.missing, &self.map) {
            self.problems.insert(0, format!("  all that is missing is there below `{prefix}`"));
        }
        let left = self.map.iter().map(|(name, tensor)| format!("  extra    {name} {:?}", tensor.shape()));
        self.problems.extend(left);
        if self.problems.is_empty() { Ok(()) } else { Err(Error::Mismatch(self.problems)) }
    }
}

/// What all missing names have before them in the map: the commonest reason why none is there.
fn prefix_of<'a>(missing: &[String], map: &'a TensorMap) -> Option<&'a str> {
    let first = missing.first()?;
    let prefixes = map.iter().filter_map(|(name, _)| name.strip_suffix(first.as_str()));
    prefixes.into_iter().find(|prefix| missing.iter().all(|name| map.get(&format!("{prefix}{name}")).is_ok()))
}

/// Tensors from whose shapes the sizes of a model are read.
#[derive(Debug)]
pub struct Sizing<'a> {
    tensors: &'a TensorMap,
    problems: Vec<String>,
}

impl<'a> Sizing<'a> {
    /// Of what a file has.
    pub fn new(tensors: &'a TensorMap) -> Self {
        Self { tensors, problems: Vec::new() }
    }

    /// The tensors.
    pub fn tensors(&self) -> &'a TensorMap {
        self.tensors
    }

    /// The shape of the tensor of that name; zeros where it is missing or has another number of dimensions.
    pub fn shape(&mut self, name: &str, rank: usize) -> Vec<usize> {
        match self.tensors.get(name).map(NamedTensor::shape) {
            Ok(shape) if shape.len() == rank => return shape.to_vec(),
            Ok(shape) => {
                self.problem(format!("  shape    {name}: expected {rank} dimensions, got {shape:?}"))
            }
            Err(_) => self.problem(format!("  missing  {name}")),
        }
        vec![0; rank]
    }

    /// Something else that is wrong with the sizes.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Fails with [`Error::Mismatch`] where something was wrong. Without sizes nothing more can be compared: what the names
    /// are instead, as `module.encoder…`, shows why.
    pub fn end(mut self) -> Result<(), Error> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let there =
            self.tensors.iter().map(|(name, tensor)| format!("  there    {name} {:?}", tensor.shape()));
        self.problems.extend(there);
        Err(Error::Mismatch(self.problems))
    }
}
