//! Comparisons and what they set.

use std::cmp::Ordering;

use half::{bf16, f16};

use super::lanes::{lanes, read, write};
use super::{Lowered, Lowering, Place, Step, bytes_of, f16_op};
use crate::machine::{LANES, Warp};
use crate::ptx::{Operand, Statement};

impl Lowering<'_> {
    pub(super) fn setp(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let ty = *parts.last().ok_or("no type")?;
        let width = bytes_of(ty)?;
        let o = &s.operands;
        let (d, second) = match &o[0] {
            Operand::Pair(p, q) => {
                let p = if p == "_" { None } else { Some(self.predicate_place(p, s.scope)?) };
                (p, Some(self.predicate_place(q, s.scope)?))
            }
            Operand::Name(name) => (Some(self.predicate_place(name, s.scope)?), None),
            other => return Err(format!("no predicate: {other:?}")),
        };
        let (a, b) = (self.value(&o[1], width, s.scope)?, self.value(&o[2], width, s.scope)?);
        let combine = parts.iter().copied().find(|p| ["and", "or", "xor"].contains(p)).map(str::to_owned);
        let c = match o.get(3) {
            Some(operand) => Some(self.predicate(operand, s.scope)?),
            None => None,
        };
        let compare = comparison(parts[1], ty)?;
        Ok(Box::new(move |warp, mask| {
            let bits = compare(warp, a, b);
            let with = |bits: u32, warp: &Warp| match (&combine, c) {
                (Some(op), Some((place, negated))) => {
                    let c = warp.predicate(place) ^ if negated { u32::MAX } else { 0 };
                    match op.as_str() {
                        "and" => bits & c,
                        "or" => bits | c,
                        _ => bits ^ c,
                    }
                }
                _ => bits,
            };
            let (first, other) = (with(bits, warp), with(!bits, warp));
            if let Some(d) = d {
                warp.set_predicate(d, mask, first);
            }
            if let Some(second) = second {
                warp.set_predicate(second, mask, other);
            }
        }))
    }

    pub(super) fn set(&mut self, s: &Statement, parts: &[&str], ty: &str) -> Lowered<Step> {
        let result = parts[parts.len() - 2];
        let [d, a, b] = s.operands.as_slice() else {
            return Err("set with a third operand".into());
        };
        let d = self.value(d, bytes_of(result)?, s.scope)?;
        let width = bytes_of(ty)?;
        let (a, b) = (self.value(a, width, s.scope)?, self.value(b, width, s.scope)?);
        if let ("f16x2" | "bf16x2", Some((_, narrow))) = (result, f16_op(result)) {
            // Of each half one, or zero.
            let (Some((wide, _)), true) = (f16_op(ty), ty.ends_with("x2")) else {
                return Err(format!("set of {result} by {ty}"));
            };
            let (holds, one) = (of_floats(parts[1])?, u64::from(narrow(1.0)));
            return Ok(Box::new(move |warp, mask| {
                for lane in lanes(mask) {
                    let [a, b] = [a, b].map(|place| read(warp, place, lane));
                    let half = |at: u32| {
                        let [a, b] = [a, b].map(|bits| wide((bits >> at) as u16));
                        if holds(a.partial_cmp(&b)) { one << at } else { 0 }
                    };
                    write(warp, d, lane, half(0) | half(16));
                }
            }));
        }
        let yes = match result {
            "f32" => u64::from(1f32.to_bits()),
            "f16" => u64::from(f16::ONE.to_bits()),
            "bf16" => u64::from(bf16::ONE.to_bits()),
            _ => u64::MAX,
        };
        let compare = comparison(parts[1], ty)?;
        Ok(Box::new(move |warp, mask| {
            let bits = compare(warp, a, b);
            for lane in lanes(mask) {
                write(warp, d, lane, if bits >> lane & 1 == 1 { yes } else { 0 });
            }
        }))
    }
}

pub(super) type Compare = Box<dyn Fn(&Warp, Place, Place) -> u32 + Send + Sync>;

pub(super) fn comparison(op: &str, ty: &str) -> Lowered<Compare> {
    fn all<T: Copy + 'static>(f: impl Fn(T, T) -> bool + Send + Sync + 'static) -> Compare {
        Box::new(move |warp, a, b| {
            // SAFETY: the lowering checked widths.
            let (a, b) = unsafe { (*warp.lanes::<T>(a.at), *warp.lanes::<T>(b.at)) };
            (0..LANES).fold(0, |bits, lane| bits | u32::from(f(a[lane], b[lane])) << lane)
        })
    }
    if ty == "f32" {
        let holds = of_floats(op)?;
        return Ok(all::<f32>(move |a, b| holds(a.partial_cmp(&b))));
    }
    if ty == "f64" {
        let holds = of_floats(op)?;
        return Ok(all::<f64>(move |a, b| holds(a.partial_cmp(&b))));
    }
    if ty.ends_with("x2") {
        return Err(format!("a comparison of {ty}"));
    }
    if let Some((wide, _)) = f16_op(ty) {
        let holds = of_floats(op)?;
        return Ok(all::<u16>(move |a, b| holds(wide(a).partial_cmp(&wide(b)))));
    }
    Ok(match op {
        "eq" => by_int!(ty, T => all::<T>(|a, b| a == b)),
        "ne" => by_int!(ty, T => all::<T>(|a, b| a != b)),
        "lt" | "lo" => by_int!(ty, T => all::<T>(|a, b| a < b)),
        "le" | "ls" => by_int!(ty, T => all::<T>(|a, b| a <= b)),
        "gt" | "hi" => by_int!(ty, T => all::<T>(|a, b| a > b)),
        "ge" | "hs" => by_int!(ty, T => all::<T>(|a, b| a >= b)),
        other => return Err(format!("no comparison {other}")),
    })
}

/// A comparison of floats; those that end in `u` hold for what has no order too.
fn of_floats(op: &str) -> Lowered<fn(Option<Ordering>) -> bool> {
    Ok(match op {
        "eq" => |order| order == Some(Ordering::Equal),
        "ne" => |order| order.is_some_and(Ordering::is_ne),
        "lt" => |order| order.is_some_and(Ordering::is_lt),
        "le" => |order| order.is_some_and(Ordering::is_le),
        "gt" => |order| order.is_some_and(Ordering::is_gt),
        "ge" => |order| order.is_some_and(Ordering::is_ge),
        "equ" => |order| order.is_none_or(Ordering::is_eq),
        "neu" => |order| order.is_none_or(Ordering::is_ne),
        "ltu" => |order| order.is_none_or(Ordering::is_lt),
        "leu" => |order| order.is_none_or(Ordering::is_le),
        "gtu" => |order| order.is_none_or(Ordering::is_gt),
        "geu" => |order| order.is_none_or(Ordering::is_ge),
        "num" => |order| order.is_some(),
        "nan" => |order| order.is_none(),
        other => return Err(format!("no comparison {other}")),
    })
}
