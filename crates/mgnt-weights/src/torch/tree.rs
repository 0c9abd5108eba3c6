//! What a pickle leaves behind: containers and tensors that refer to each other by number.
//!
//! The only functions that a pickle may name are those in [`Global`].
//!
//! Nodes lie in one list, so that no shape of data makes copying or freeing it expensive; a container may even hold
//! itself. Only the walk for the tensors follows references, with a bound on depth and steps.

use crate::DType;
use crate::limits::{Budget, Name, Reason, shown};

use super::strided::{Storage, StridedTensor};

/// What a node, a tensor of the result and a step to an item of a container cost.
const NODE_COST: usize = 96;
const TENSOR_COST: usize = 256;
const STEP_COST: usize = 8;

/// What lies on the stack and in containers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    /// Something that is never part of a tensor: none, a float, bytes.
    Plain,
    Truth(bool),
    Integer(i64),
    Text(&'a str),
    Global(Global),
    /// A container or tensor, by its number.
    Node(usize),
}

impl Value<'_> {
    /// The number of values that this counts.
    pub(super) fn length(self) -> Result<usize, Reason> {
        match self {
            Value::Integer(number) => usize::try_from(number)
                .map_err(|_| format!("a tensor has the size, stride or offset {number}")),
            _ => Err("a size, stride or offset of a tensor is not a number".into()),
        }
    }
}

/// What a number stands for.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dictionary(Vec<(Value<'a>, Value<'a>)>),
    Storage(Storage<'a>),
    Tensor(Box<StridedTensor<'a>>),
}

/// The names that a pickle may use.
#[derive(Debug, Clone, Copy)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Size,
    Storage(DType),
}

impl Global {
    /// The function of that name, if it is one of these.
    pub(super) fn named(module: &str, name: &str) -> Result<Self, Reason> {
        Ok(match (module, name) {
            ("collections", "OrderedDict") => Global::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
            ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
            ("torch", "Size") => Global::Size,
            ("torch", "FloatStorage") => Global::Storage(DType::F32),
            ("torch", "DoubleStorage") => Global::Storage(DType::F64),
            ("torch", "HalfStorage") => Global::Storage(DType::F16),
            ("torch", "BFloat16Storage") => Global::Storage(DType::Bf16),
            ("torch", "LongStorage") => Global::Storage(DType::I64),
            ("torch", "IntStorage") => Global::Storage(DType::I32),
            ("torch", "ShortStorage") => Global::Storage(DType::I16),
            ("torch", "CharStorage") => Global::Storage(DType::I8),
            ("torch", "ByteStorage" | "BoolStorage") => Global::Storage(DType::U8),
            _ => {
                return Err(format!(
                    "it asks for `{}.{}`, which no weights need; nothing was run",
                    shown(module),
                    shown(name)
                ));
            }
        })
    }
}

/// All containers and tensors of a pickle.
#[derive(Debug, Default)]
pub(super) struct Tree<'a> {
    nodes: Vec<Node<'a>>,
}

impl<'a> Tree<'a> {
    /// Keeps a node; gives the value that stands for it.
    pub(super) fn add(&mut self, node: Node<'a>, budget: &mut Budget) -> Result<Value<'a>, Reason> {
        budget.take(NODE_COST)?;
        self.nodes.push(node);
        Ok(Value::Node(self.nodes.len() - 1))
    }

    /// The node that a value stands for.
    pub(super) fn node(&self, value: Value<'a>) -> Option<&Node<'a>> {
        match value {
            Value::Node(at) => self.nodes.get(at),
            _ => None,
        }
    }

    /// The node that a value stands for, to change it.
    pub(super) fn node_mut(&mut self, value: Value<'a>) -> Option<&mut Node<'a>> {
        match value {
            Value::Node(at) => self.nodes.get_mut(at),
            _ => None,
        }
    }

    /// Every storage that is named, whether a tensor uses it or not.
    pub(super) fn storages(&self) -> impl Iterator<Item = Storage<'a>> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Storage(storage) => Some(*storage),
            _ => None,
        })
    }

    /// Walks through everything below `value` and keeps the tensors.
    pub(super) fn collect(
        &self,
        value: Value<'a>,
        name: &mut Name,
        budget: &mut Budget,
        found: &mut Vec<(String, StridedTensor<'a>)>,
    ) -> Result<(), Reason> {
        let Value::Node(at) = value else { return Ok(()) };
        let length = match &self.nodes[at] {
            Node::Tuple(items) | Node::List(items) => items.len(),
            Node::Dictionary(items) => items.len(),
            Node::Storage(_) => 0,
            Node::Tensor(_) if name.text().is_empty() => {
                return Err("it holds one tensor without a name".into());
            }
            Node::Tensor(tensor) => {
                budget.take(name.text().len() + TENSOR_COST + 16 * tensor.shape.len())?;
                found.push((name.text().to_owned(), StridedTensor::clone(tensor)));
                return Ok(());
            }
        };
        // What is shared is walked through each time, so the steps are counted too.
        budget.take(length * STEP_COST)?;
        for i in 0..length {
            let (key, item) = match &self.nodes[at] {
                Node::Tuple(items) | Node::List(items) => (Value::Integer(i as i64), items[i]),
                Node::Dictionary(items) => items[i],
                _ => continue,
            };
            if !matches!(item, Value::Node(_)) {
                continue;
            }
            let tensors = found.len();
            let before = match key {
                Value::Text(key) => name.enter(key)?,
                Value::Integer(key) => name.enter(&key.to_string())?,
                _ => name.enter("?")?,
            };
            self.collect(item, name, budget, found)?;
            if found.len() > tensors && !matches!(key, Value::Text(_) | Value::Integer(_)) {
                return Err(format!("{}: the key of a tensor is neither a text nor a number", name.quoted()));
            }
            name.leave(before);
        }
        Ok(())
    }
}
