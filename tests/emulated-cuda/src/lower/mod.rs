//! Statements to closures: opcodes become functions over a warp's lanes, of the places that names stand for.

/// A body with `$T` as the integer type that `$ty` names.
macro_rules! by_int {
    ($ty:expr, $T:ident => $body:expr) => {
        match $ty {
            "u16" | "b16" => {
                type $T = u16;
                $body
            }
            "s16" => {
                type $T = i16;
                $body
            }
            "u32" | "b32" => {
                type $T = u32;
                $body
            }
            "s32" => {
                type $T = i32;
                $body
            }
            "u64" | "b64" => {
                type $T = u64;
                $body
            }
            "s64" => {
                type $T = i64;
                $body
            }
            other => return Err(format!("no integer type {other}")),
        }
    };
}

mod compare;
mod convert;
mod floats;
mod integers;
mod lanes;
mod memory;
mod moves;
mod places;

pub use convert::tf32;
use lanes::lanes;
pub use lanes::{read, write};
pub use places::Place;

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;

use half::{bf16, f16};

use crate::machine::{Action, Fault, Instruction, Kernel, Special, Step};
use crate::ptx::{self, Entry, Operand, Statement};
use crate::tensor;

type Lowered<T> = Result<T, String>;

/// Lowers a kernel. `globals` are the addresses of the module's variables.
pub fn lower(entry: &Entry, globals: &HashMap<String, u64>) -> Lowered<Kernel> {
    let mut lowering = Lowering {
        entry,
        globals,
        places: HashMap::new(),
        constants: HashMap::new(),
        specials: HashMap::new(),
        bytes: 0,
    };
    let mut code = Vec::with_capacity(entry.statements.len() + 1);
    for statement in &entry.statements {
        let text = text(statement);
        let instruction =
            lowering.instruction(statement, text.clone()).map_err(|why| format!("{why} in `{text}`"))?;
        code.push(instruction);
    }
    code.push(Instruction { guard: None, action: Action::Exit, text: "ret".into() });
    let param_bytes = entry.params.iter().map(|(_, at, bytes)| at + bytes).max().unwrap_or(0);
    Ok(Kernel {
        name: entry.name.clone(),
        params: entry.params.iter().map(|(_, at, bytes)| (*at, *bytes)).collect(),
        param_bytes,
        code,
        register_bytes: lowering.bytes,
        constants: lowering
            .constants
            .into_iter()
            .map(|((bits, width), place)| (place, width, bits))
            .collect(),
        specials: lowering.specials.into_values().collect(),
        shared_bytes: entry.shared_bytes,
        local_bytes: entry.local_bytes,
        launches: AtomicU64::new(0),
        executed: AtomicU64::new(0),
    })
}

fn text(statement: &Statement) -> String {
    format!("{} {:?}", statement.opcode.join("."), statement.operands)
}

struct Lowering<'a> {
    entry: &'a Entry,
    globals: &'a HashMap<String, u64>,
    places: HashMap<(usize, String), Place>,
    constants: HashMap<(u64, usize), u32>,
    specials: HashMap<String, (u32, Special)>,
    bytes: usize,
}

fn bytes_of(ty: &str) -> Lowered<usize> {
    ptx::bytes(ty).ok_or_else(|| format!("no type {ty}"))
}

/// Bits to a number, and back.
type Half = (fn(u16) -> f64, fn(f64) -> u16);

fn f16_op(ty: &str) -> Option<Half> {
    match ty {
        "f16" | "f16x2" => Some((|b| f16::from_bits(b).to_f64(), to_f16)),
        "bf16" | "bf16x2" => Some((|b| bf16::from_bits(b).to_f64(), to_bf16)),
        _ => None,
    }
}

/// The bits of the nearest half. `half`'s own way from `f64` passes over the last bits.
fn to_f16(value: f64) -> u16 {
    f16::from_f32(to_odd(value)).to_bits()
}

fn to_bf16(value: f64) -> u16 {
    bf16::from_f32(to_odd(value)).to_bits()
}

/// A number as `f32` with its last bit set where it is not exact, so that rounding it once more rounds it once.
fn to_odd(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) == value || !near.is_finite() {
        return near;
    }
    let beyond = f64::from(near).abs() > value.abs();
    f32::from_bits((near.to_bits() - u32::from(beyond)) | 1)
}

impl Lowering<'_> {
    fn instruction(&mut self, statement: &Statement, text: String) -> Lowered<Instruction> {
        let guard = match &statement.guard {
            Some((name, negated)) => Some((self.predicate_place(name, statement.scope)?, *negated)),
            None => None,
        };
        let action = self.action(statement)?;
        Ok(Instruction { guard, action, text })
    }

    fn label(&self, operand: &Operand) -> Lowered<usize> {
        match operand {
            Operand::Name(name) => {
                self.entry.labels.get(name).copied().ok_or_else(|| format!("no label {name}"))
            }
            other => Err(format!("no label: {other:?}")),
        }
    }

    fn action(&mut self, s: &Statement) -> Lowered<Action> {
        let parts: Vec<&str> = s.opcode.iter().map(String::as_str).collect();
        let nothing = || Action::Run(Box::new(|_, _| {}));
        Ok(match parts[0] {
            "ret" | "exit" => Action::Exit,
            "trap" => Action::Run(Box::new(|warp, _| warp.fail(Fault::Unsupported, "a trap".into()))),
            "bra" => Action::Branch(self.label(&s.operands[0])?),
            "brx" => {
                let index = self.value(&s.operands[0], 4, s.scope)?;
                let Operand::Name(table) = &s.operands[1] else { return Err("no table".into()) };
                let table = self.entry.targets.get(table).ok_or("no table of that name")?.clone();
                let targets =
                    table.iter().map(|l| self.label(&Operand::Name(l.clone()))).collect::<Lowered<_>>()?;
                Action::Table(index.at, targets)
            }
            "bar" | "barrier" if parts.contains(&"warp") => Action::WarpBarrier,
            "bar" | "barrier" if parts.contains(&"cluster") => {
                if parts.contains(&"wait") {
                    Action::Barrier
                } else {
                    nothing()
                }
            }
            "bar" | "barrier" => match &s.operands[0] {
                Operand::Name(name) if name == "0" && s.operands.len() == 1 => Action::Barrier,
                other => return Err(format!("a barrier with a number: {other:?}")),
            },
            "membar" | "fence" | "prefetch" | "discard" | "createpolicy" | "griddepcontrol"
            | "setmaxnreg" | "nanosleep" => nothing(),
            "cp" => self.copy(s, &parts)?,
            _ => Action::Run(self.step(s, &parts)?),
        })
    }

    fn step(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let scope = s.scope;
        let ty = *parts.last().ok_or("no opcode")?;
        let o = &s.operands;
        let has = |word: &str| parts.contains(&word);
        Ok(match parts[0] {
            "ld" | "ldu" => self.load(s, parts)?,
            "st" => self.store(s, parts)?,
            "atom" | "red" => self.atomic(s, parts)?,
            "mov" => self.mov(s, ty)?,
            "cvta" => {
                let width = bytes_of(ty)?;
                let (d, a) = (self.value(&o[0], width, scope)?, self.any(&o[1], width, scope)?);
                let shared = has("shared");
                let to = has("to");
                Box::new(move |warp, mask| {
                    let base = warp.block.shared as u64;
                    for lane in lanes(mask) {
                        let a = read(warp, a, lane);
                        let value = match (shared, to) {
                            (true, true) => a.wrapping_sub(base),
                            (true, false) => a.wrapping_add(base),
                            _ => a,
                        };
                        write(warp, d, lane, value);
                    }
                })
            }
            "isspacep" => {
                let d = self.predicate(&o[0], scope)?.0;
                let a = self.any(&o[1], 8, scope)?;
                let shared = has("shared");
                let global = has("global");
                Box::new(move |warp, mask| {
                    let base = warp.block.shared as u64;
                    let end = base + warp.block.shared_bytes as u64;
                    let inside = lanes(mask)
                        .filter(|&l| (base..end).contains(&read(warp, a, l)))
                        .fold(0, |m, l| m | 1 << l);
                    let bits = if shared {
                        inside
                    } else if global {
                        !inside
                    } else {
                        0
                    };
                    warp.set_predicate(d, mask, bits);
                })
            }
            "cvt" => self.convert(s, parts)?,
            "setp" => self.setp(s, parts)?,
            "set" => self.set(s, parts, ty)?,
            "selp" => {
                let width = bytes_of(ty)?;
                let d = self.value(&o[0], width, scope)?;
                let (a, b) = (self.value(&o[1], width, scope)?, self.value(&o[2], width, scope)?);
                let (p, negated) = self.predicate(&o[3], scope)?;
                Box::new(move |warp, mask| {
                    let bits = warp.predicate(p) ^ if negated { u32::MAX } else { 0 };
                    for lane in lanes(mask) {
                        let from = if bits >> lane & 1 == 1 { a } else { b };
                        let value = read(warp, from, lane);
                        write(warp, d, lane, value);
                    }
                })
            }
            "and" | "or" | "xor" | "not" if ty == "pred" => {
                let d = self.predicate(&o[0], scope)?.0;
                let a = self.predicate(&o[1], scope)?;
                let b = if parts[0] == "not" { a } else { self.predicate(&o[2], scope)? };
                let which = parts[0].to_owned();
                Box::new(move |warp, mask| {
                    let get = |(place, negated): (u32, bool)| {
                        warp.predicate(place) ^ if negated { u32::MAX } else { 0 }
                    };
                    let (a, b) = (get(a), get(b));
                    let bits = match which.as_str() {
                        "and" => a & b,
                        "or" => a | b,
                        "xor" => a ^ b,
                        _ => !a,
                    };
                    warp.set_predicate(d, mask, bits);
                })
            }
            "shfl" => self.shuffle(s, parts)?,
            "vote" => self.vote(s, parts)?,
            "activemask" => {
                let d = self.value(&o[0], 4, scope)?;
                Box::new(move |warp, mask| {
                    // Who is there is whoever happens to be: a shuffle among them is one among all, or luck.
                    warp.together(u32::MAX, mask);
                    lanes(mask).for_each(|lane| write(warp, d, lane, u64::from(mask)));
                })
            }
            "elect" => {
                let Operand::Pair(d, p) = &o[0] else { return Err("no pair".into()) };
                let d = if d == "_" { None } else { self.register(d, scope) };
                let p = self.predicate_place(p, scope)?;
                Box::new(move |warp, mask| {
                    let first = mask.trailing_zeros();
                    if let Some(d) = d {
                        lanes(mask).for_each(|lane| write(warp, d, lane, u64::from(first)));
                    }
                    warp.set_predicate(p, mask, 1 << first);
                })
            }
            "redux" => {
                let (d, a) = (self.value(&o[0], 4, scope)?, self.value(&o[1], 4, scope)?);
                let which = parts[2].to_owned();
                let signed = ty == "s32";
                Box::new(move |warp, mask| {
                    let values: Vec<u64> = lanes(mask).map(|l| read(warp, a, l)).collect();
                    let value =
                        values.into_iter().map(|v| v as u32).reduce(|a, b| match (which.as_str(), signed) {
                            ("add", _) => a.wrapping_add(b),
                            ("min", true) => (a as i32).min(b as i32) as u32,
                            ("max", true) => (a as i32).max(b as i32) as u32,
                            ("min", false) => a.min(b),
                            ("max", false) => a.max(b),
                            ("and", _) => a & b,
                            ("or", _) => a | b,
                            _ => a ^ b,
                        });
                    lanes(mask).for_each(|lane| write(warp, d, lane, u64::from(value.unwrap_or(0))));
                })
            }
            "ldmatrix" | "stmatrix" => {
                let regs = self.places(&o[usize::from(parts[0] == "stmatrix")], 4, scope)?;
                let regs: Vec<Place> = regs.into_iter().flatten().collect();
                let address = self.address(&o[usize::from(parts[0] == "ldmatrix")], scope)?;
                tensor::matrix(parts, regs, address)?
            }
            "wmma" => {
                let mut vectors = Vec::new();
                let mut address = None;
                let mut stride = None;
                for operand in o {
                    match operand {
                        Operand::Vector(_) => {
                            let places = self.places(operand, 4, scope)?;
                            vectors.push(places.into_iter().flatten().collect::<Vec<_>>());
                        }
                        Operand::Address(..) => address = Some(self.address(operand, scope)?),
                        Operand::Name(_) => stride = Some(self.any(operand, 4, scope)?),
                        Operand::Pair(..) => return Err("a pair".into()),
                    }
                }
                tensor::wmma(parts, vectors, address, stride)?
            }
            "mma" => {
                let vectors = o
                    .iter()
                    .map(|operand| {
                        Ok(self.places(operand, 4, scope)?.into_iter().flatten().collect::<Vec<_>>())
                    })
                    .collect::<Lowered<Vec<_>>>()?;
                tensor::mma(parts, vectors)?
            }
            _ => self.arithmetic(s, parts, ty)?,
        })
    }
}
