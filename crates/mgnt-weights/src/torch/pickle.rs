//! The part of Python's pickle format that a dictionary of tensors needs, as a machine that runs nothing.
//!
//! A pickle is a program for a stack machine. Here its values are numbers, texts, tuples, lists, dictionaries and
//! tensors; the only functions it may name are those in [`Global`], and each of them is carried out by a few lines
//! of this file. Every other name is an error that says it.

use crate::limits::{Budget, MAX_RANK, Name, Reason};

use super::program::Program;
use super::strided::{Storage, StridedTensor};
use super::tree::{Global, Node, Tree, Value};

/// Values that may wait on the stack; Python's own pickles hold a few thousand.
const MAX_STACK: usize = 1 << 16;
/// What a remembered value, a value that leaves the stack and one that enters a list or dictionary cost.
const MEMO_COST: usize = 64;
const ITEM_COST: usize = 24;
const KEPT_COST: usize = 72;

/// What a pickle leaves: all that it made, and the value at its end.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) tree: Tree<'a>,
    pub(super) root: Value<'a>,
}

impl<'a> Outcome<'a> {
    /// The tensors and their names.
    pub(super) fn tensors(&self, budget: &mut Budget) -> Result<Vec<(String, StridedTensor<'a>)>, Reason> {
        let mut found = Vec::new();
        self.tree.collect(self.root, &mut Name::new('.'), budget, &mut found)?;
        Ok(found)
    }
}

/// Runs a pickle up to its end; what follows it is left.
pub(super) fn run<'a>(program: &mut Program<'a>, budget: &mut Budget) -> Result<Outcome<'a>, Reason> {
    let mut machine = Machine {
        program,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        tree: Tree::default(),
        budget,
    };
    let root = machine.run().map_err(|e| format!("byte {}: {e}", machine.program.at()))?;
    Ok(Outcome { tree: machine.tree, root })
}

struct Machine<'a, 'b> {
    program: &'b mut Program<'a>,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: Vec<Option<Value<'a>>>,
    tree: Tree<'a>,
    budget: &'b mut Budget,
}

impl<'a> Machine<'a, '_> {
    /// Runs up to the end mark and gives the value that it leaves.
    fn run(&mut self) -> Result<Value<'a>, Reason> {
        loop {
            match self.program.byte()? {
                b'.' => return self.pop(),
                opcode => self.step(opcode)?,
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), Reason> {
        match opcode {
            // PROTO, FRAME: the numbers do not matter.
            0x80 => self.program.take(1).map(drop),
            0x95 => self.program.take(8).map(drop),
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT, BINBYTES, SHORT_BINBYTES.
            b'N' => self.push(Value::Plain),
            0x88 | 0x89 => self.push(Value::Truth(opcode == 0x88)),
            b'G' => self.plain(8),
            b'B' => self.program.u32().and_then(|length| self.plain(length)),
            b'C' => self.program.byte().and_then(|length| self.plain(length.into())),
            // BININT, BININT1, BININT2, LONG1.
            b'J' => self.program.u32().and_then(|v| self.push(Value::Integer((v as i32).into()))),
            b'K' => self.program.byte().and_then(|v| self.push(Value::Integer(v.into()))),
            b'M' => self.program.u16().and_then(|v| self.push(Value::Integer(v.into()))),
            0x8a => self.program.long().and_then(|v| self.push(v.map_or(Value::Plain, Value::Integer))),
            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8.
            b'X' => self.program.u32().and_then(|length| self.text(length)),
            0x8c => self.program.byte().and_then(|length| self.text(length.into())),
            0x8d => self.program.u64().and_then(|length| self.text(length)),
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' => self.program.byte().and_then(|at| self.remember(at.into())),
            b'r' => self.program.u32().and_then(|at| self.remember(at)),
            0x94 => self.remember(self.memo.len()),
            b'h' => self.program.byte().and_then(|at| self.recall(at.into())),
            b'j' => self.program.u32().and_then(|at| self.recall(at)),
            // GLOBAL, STACK_GLOBAL, BINPERSID, REDUCE, BUILD.
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'Q' => self.storage(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            _ => self.container(opcode),
        }
    }

    /// The opcodes that make and fill tuples, lists and dictionaries.
    fn container(&mut self, opcode: u8) -> Result<(), Reason> {
        match opcode {
            // MARK.
            b'(' => match self.marks.len() < MAX_STACK {
                true => {
                    self.marks.push(self.stack.len());
                    Ok(())
                }
                false => Err("too many marks".into()),
            },
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE.
            b')' => self.tuple(0),
            0x85..=0x87 => self.tuple(usize::from(opcode - 0x84)),
            b't' => {
                let length = self.above_mark()?;
                self.tuple(length)
            }
            // EMPTY_LIST, EMPTY_DICT.
            b']' => self.push_node(Node::List(Vec::new())),
            b'}' => self.push_node(Node::Dictionary(Vec::new())),
            // APPEND, APPENDS, SETITEM, SETITEMS.
            b'a' => self.append(1),
            b'e' => {
                let length = self.above_mark()?;
                self.append(length)
            }
            b's' => self.set_items(2),
            b'u' => {
                let length = self.above_mark()?;
                self.set_items(length)
            }
            _ => Err(format!("opcode {opcode:#04x} has no place in a dictionary of tensors")),
        }
    }

    fn tuple(&mut self, length: usize) -> Result<(), Reason> {
        let items = self.pop_many(length)?;
        self.push_node(Node::Tuple(items))
    }

    fn append(&mut self, length: usize) -> Result<(), Reason> {
        let items = self.pop_many(length)?;
        self.budget.take(length * KEPT_COST)?;
        match self.top()? {
            Some(Node::List(list)) => {
                list.extend(items);
                Ok(())
            }
            _ => Err("something is appended to what is not a list".into()),
        }
    }

    fn set_items(&mut self, length: usize) -> Result<(), Reason> {
        let items = self.pop_many(length)?;
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err("a key has no value".into());
        };
        self.budget.take(length * KEPT_COST)?;
        match self.top()? {
            Some(Node::Dictionary(dictionary)) => {
                dictionary.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => Err("a key is set in what is not a dictionary".into()),
        }
    }

    /// A function is called: one of ours, or none.
    fn reduce(&mut self) -> Result<(), Reason> {
        let arguments = self.pop()?;
        let function = self.pop()?;
        let arguments = self.items(arguments)?;
        match (function, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push_node(Node::Dictionary(Vec::new())),
            // A seventh argument says that values are negated or conjugated when they are read.
            (Value::Global(Global::RebuildTensor), &[storage, offset, shape, strides, _, _]) => {
                let tensor = self.tensor(storage, offset, shape, strides)?;
                self.push_node(Node::Tensor(Box::new(tensor)))
            }
            (Value::Global(Global::RebuildParameter), &[tensor, _, _]) => match self.tree.node(tensor) {
                Some(Node::Tensor(_)) => self.push(tensor),
                _ => Err("a parameter is not a tensor".into()),
            },
            (Value::Global(Global::Size), &[size]) => self.push(size),
            (Value::Global(global), _) => {
                Err(format!("{global:?} is called with other arguments than PyTorch's"))
            }
            _ => Err("something that is not a function is called".into()),
        }
    }

    fn tensor(
        &self,
        storage: Value<'a>,
        offset: Value<'a>,
        shape: Value<'a>,
        strides: Value<'a>,
    ) -> Result<StridedTensor<'a>, Reason> {
        let Some(&Node::Storage(storage)) = self.tree.node(storage) else {
            return Err("a tensor has no storage".into());
        };
        let lengths = |value| -> Result<Vec<usize>, Reason> {
            let items = self.items(value)?;
            if items.len() > MAX_RANK {
                return Err(format!("a tensor has {} dimensions", items.len()));
            }
            items.iter().map(|item| item.length()).collect()
        };
        Ok(StridedTensor {
            storage,
            offset: offset.length()?,
            shape: lengths(shape)?,
            strides: lengths(strides)?,
        })
    }

    /// `("storage", type, key, place, count)` becomes the storage that it names. The old format has a sixth value,
    /// none unless the storage is a part of another, which no version of PyTorch since 0.4 writes.
    fn storage(&mut self) -> Result<(), Reason> {
        let value = self.pop()?;
        match self.items(value)? {
            &[Value::Text("storage"), Value::Global(Global::Storage(dtype)), Value::Text(key), _, count]
            | &[
                Value::Text("storage"),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                _,
                count,
                Value::Plain,
            ] => {
                let count = count.length()?;
                self.push_node(Node::Storage(Storage { key, dtype, count }))
            }
            _ => Err("a reference is not one to a storage of numbers".into()),
        }
    }

    /// Attributes of an object. Dictionaries get some (`_metadata`) that no tensor depends on.
    fn build(&mut self) -> Result<(), Reason> {
        self.pop()?;
        match self.top()? {
            Some(Node::Dictionary(_)) => Ok(()),
            _ => Err("attributes are set of what is not a dictionary".into()),
        }
    }

    fn global(&mut self) -> Result<(), Reason> {
        let module = self.program.line()?;
        let name = self.program.line()?;
        self.push(Value::Global(Global::named(module, name)?))
    }

    fn stack_global(&mut self) -> Result<(), Reason> {
        let name = self.pop()?;
        match (self.pop()?, name) {
            (Value::Text(module), Value::Text(name)) => {
                self.push(Value::Global(Global::named(module, name)?))
            }
            _ => Err("a function's name is not a text".into()),
        }
    }

    fn remember(&mut self, at: usize) -> Result<(), Reason> {
        let value = *self.stack.last().ok_or_else(missing)?;
        if at >= self.memo.len() {
            // Python numbers what it remembers from 0, so there are never more numbers than bytes.
            if at > self.program.length() {
                return Err(format!("{at} is not a number that Python gives a value"));
            }
            self.budget.take((at + 1 - self.memo.len()) * MEMO_COST)?;
            self.memo.resize(at + 1, None);
        }
        self.memo[at] = Some(value);
        Ok(())
    }

    fn recall(&mut self, at: usize) -> Result<(), Reason> {
        match self.memo.get(at) {
            Some(&Some(value)) => self.push(value),
            _ => Err(format!("value {at} is used before it is there")),
        }
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), Reason> {
        if self.stack.len() == MAX_STACK {
            return Err("too many values wait on the stack".into());
        }
        self.stack.push(value);
        Ok(())
    }

    fn push_node(&mut self, node: Node<'a>) -> Result<(), Reason> {
        let value = self.tree.add(node, self.budget)?;
        self.push(value)
    }

    /// What lies under the last mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value<'a>, Reason> {
        match self.stack.len() > self.floor() {
            true => self.stack.pop().ok_or_else(missing),
            false => Err(missing()),
        }
    }

    fn pop_many(&mut self, length: usize) -> Result<Vec<Value<'a>>, Reason> {
        let floor = self.floor();
        let start =
            self.stack.len().checked_sub(length).filter(|&start| start >= floor).ok_or_else(missing)?;
        self.budget.take(length * ITEM_COST)?;
        Ok(self.stack.split_off(start))
    }

    /// Takes the last mark away; gives the number of values above it.
    fn above_mark(&mut self) -> Result<usize, Reason> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        self.stack.len().checked_sub(mark).ok_or_else(missing)
    }

    /// The container on top of the stack, which stays there.
    fn top(&mut self) -> Result<Option<&mut Node<'a>>, Reason> {
        let floor = self.floor();
        let value = *self.stack.get(floor..).and_then(<[_]>::last).ok_or_else(missing)?;
        Ok(self.tree.node_mut(value))
    }

    /// What a tuple holds.
    fn items(&self, value: Value<'a>) -> Result<&[Value<'a>], Reason> {
        match self.tree.node(value) {
            Some(Node::Tuple(items)) => Ok(items),
            _ => Err("a tuple is missing".into()),
        }
    }

    fn plain(&mut self, length: usize) -> Result<(), Reason> {
        self.program.take(length)?;
        self.push(Value::Plain)
    }

    fn text(&mut self, length: usize) -> Result<(), Reason> {
        let text = std::str::from_utf8(self.program.take(length)?).map_err(|_| "a text is not UTF-8")?;
        self.push(Value::Text(text))
    }
}

fn missing() -> Reason {
    "a value is missing on the stack".into()
}

#[cfg(test)]
mod tests {
    use super::super::assembler::Assembler;
    use super::*;
    use crate::DType;

    fn run(program: &[u8]) -> Result<Vec<(String, StridedTensor<'_>)>, Reason> {
        let budget = &mut Budget::of_file(program.len());
        super::run(&mut Program::new(program), budget)?.tensors(budget)
    }

    fn refused(program: &[u8]) -> String {
        run(program).unwrap_err()
    }

    #[test]
    fn a_dictionary_of_tensors() {
        let mut code = Assembler::new();
        code.op(b"}(").text("a").tensor("7", 12, 1, &[2, 3], &[3, 1]);
        code.text("n").integer(-3).text("b").op(b"}").text("c").tensor("7", 12, 0, &[], &[]).op(b"su.");
        let found = run(code.bytes()).unwrap();
        assert_eq!(found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b.c"]);
        let (_, a) = &found[0];
        assert_eq!((a.storage.key, a.storage.count, a.storage.dtype), ("7", 12, DType::F32));
        assert_eq!((a.offset, &a.shape[..], &a.strides[..]), (1, &[2, 3][..], &[3, 1][..]));
    }

    #[test]
    fn other_functions_are_refused_by_name() {
        let message = refused(b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR.");
        assert!(message.contains("`os.system`"), "{message}");
        let message = refused(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.");
        assert!(message.contains("`builtins.eval`"), "{message}");
        let message = refused(b"c\x1b[2J\ntorch\n.");
        assert!(message.contains("\\u{1b}"), "{message}");
        // Near misses of names that are allowed.
        for name in
            ["torch._utils\n_rebuild_tensor", "torch\n_utils._rebuild_tensor_v2", "Collections\nOrderedDict"]
        {
            assert!(refused(format!("c{name}\n.").as_bytes()).contains("asks for"), "{name}");
        }
    }

    #[test]
    fn functions_take_only_their_own_arguments() {
        for arguments in [&b")"[..], b"(K\x01K\x02K\x03K\x04K\x05K\x06t", b"N", b"]"] {
            for global in [
                "torch._utils\n_rebuild_tensor_v2",
                "torch._utils\n_rebuild_parameter",
                "torch\nFloatStorage",
            ] {
                let program = [b"c", global.as_bytes(), b"\n", arguments, b"R."].concat();
                assert!(run(&program).is_err(), "{global} {arguments:?}");
            }
        }
        // A size is only ever handed on.
        assert!(run(b"}X\x01\0\0\0sctorch\nSize\nK\x02\x85\x85Rs.").unwrap().is_empty());
        assert!(refused(b"K\x01)R.").contains("not a function"));
    }

    #[test]
    fn every_opcode_needs_its_values() {
        for opcode in 0..=255u8 {
            for rest in [&b""[..], b".", b"\0\0\0\0\0\0\0\0.", b"\xff\xff\xff\xff\xff\xff\xff\xff."] {
                for before in [&b""[..], b"(", b"N", b"N(", b"(N", b"})", b"]NN", b"}NN", b"}(N"] {
                    // Whatever comes out, it comes out.
                    let _ = run(&[before, &[opcode], rest].concat());
                }
            }
        }
        assert!(refused(b"0.").contains("0x30"));
    }

    #[test]
    fn what_lies_under_a_mark_is_out_of_reach() {
        for program in [&b"}(NNs."[..], b"N(\x85.", b"](Na.", b"}(Nb.", b"N(."] {
            assert!(run(program).is_err(), "{program:?}");
        }
    }

    #[test]
    fn lengths_are_believed_only_if_the_bytes_are_there() {
        for program in [
            &b"X\xff\xff\xff\xff."[..],
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"B\xff\xff\xff\x7f.",
            b"\x95\0\0\0",
            b"\x8a\x09.",
            b"ctorch",
        ] {
            assert!(run(program).is_err(), "{program:?}");
        }
        assert!(refused(b"Nr\xff\xff\xff\xff.").contains("Python"));
        assert!(refused(b"j\x01\0\0\0.").contains("before it is there"));
    }

    #[test]
    fn a_list_in_itself_and_deep_nesting_end() {
        // l = []; l.append(l)
        assert!(refused(b"]q\0h\0a.").contains("levels"));
        let mut deep = vec![b')'];
        deep.extend([0x85].repeat(200_000));
        deep.push(b'.');
        assert!(run(&deep).is_err());
    }

    #[test]
    fn a_doubling_tree_ends() {
        // Each level holds the one below twice: 2^60 ways through a few hundred bytes.
        let mut code = Assembler::new();
        code.op(b")");
        for _ in 0..60 {
            code.op(b"q\0h\0\x86");
        }
        assert!(refused(code.op(b".").bytes()).contains("far more"));
    }

    #[test]
    fn long_names_and_many_values_end() {
        let mut code = Assembler::new();
        code.op(b"}").text(&"x".repeat(2000)).op(b"}s.");
        assert!(refused(code.bytes()).contains("longer than"));
        assert!(refused(&b"N".repeat(100_000)).contains("stack"));
        assert!(refused(&b"(".repeat(100_000)).contains("marks"));
        let rank = [b"(".as_slice(), &b"K\x01".repeat(33), b"t"].concat();
        let message =
            refused(Assembler::new().op(b"}").text("a").tensor_of_sizes("0", &rank).op(b"s.").bytes());
        assert!(message.contains("33 dimensions"), "{message}");
    }

    #[test]
    fn numbers_have_their_signs() {
        let lengths =
            [(&b"\x8a\x01\xff"[..], "-1"), (b"\x8a\x02\0\x80", "-32768"), (b"J\xfe\xff\xff\xff", "-2")];
        for (number, text) in lengths {
            let sizes = [b"(", number, b"t"].concat();
            let message = refused(Assembler::new().op(b"}").text("a").tensor_of_sizes("0", &sizes).bytes());
            assert!(message.contains(&format!("offset {text}")), "{message}");
        }
    }

    #[test]
    fn a_tensor_needs_a_usable_name() {
        let mut code = Assembler::new();
        code.tensor("0", 1, 0, &[1], &[1]).op(b".");
        assert!(refused(code.bytes()).contains("without a name"));
        let mut code = Assembler::new();
        code.op(b"}N").tensor("0", 1, 0, &[1], &[1]).op(b"s.");
        assert!(refused(code.bytes()).contains("neither"));
        // Without a tensor below, such a key does not matter.
        assert!(run(b"}N]s.").unwrap().is_empty());
    }
}
