//! Moves between registers and between lanes.

use super::lanes::{lanes, map1, read, write};
use super::{Lowered, Lowering, Place, Step, bytes_of};
use crate::machine::{Fault, LANES, Warp};
use crate::ptx::{Operand, Statement};

impl Lowering<'_> {
    pub(super) fn mov(&mut self, s: &Statement, ty: &str) -> Lowered<Step> {
        let o = &s.operands;
        if ty == "pred" {
            let d = self.predicate(&o[0], s.scope)?.0;
            let (a, negated) = self.predicate(&o[1], s.scope)?;
            return Ok(Box::new(move |warp, mask| {
                let bits = warp.predicate(a) ^ if negated { u32::MAX } else { 0 };
                warp.set_predicate(d, mask, bits);
            }));
        }
        let width = bytes_of(ty)?;
        match (&o[0], &o[1]) {
            (Operand::Vector(_), a) => {
                let a = self.value(a, width, s.scope)?;
                let Operand::Vector(parts) = &o[0] else { return Err("no vector".into()) };
                let each = width / parts.len();
                let to = self.places(&o[0], each, s.scope)?;
                Ok(Box::new(move |warp, mask| {
                    for lane in lanes(mask) {
                        let value = read(warp, a, lane);
                        for (i, place) in to.iter().enumerate() {
                            if let Some(place) = *place {
                                write(warp, place, lane, value >> (8 * each * i));
                            }
                        }
                    }
                }))
            }
            (d, Operand::Vector(parts)) => {
                let d = self.value(d, width, s.scope)?;
                let each = width / parts.len();
                let from: Vec<Place> = self.places(&o[1], each, s.scope)?.into_iter().flatten().collect();
                Ok(Box::new(move |warp, mask| {
                    for lane in lanes(mask) {
                        let mut value = 0u64;
                        for (i, place) in from.iter().enumerate() {
                            let bits = read(warp, *place, lane);
                            let bits = if each < 8 { bits & ((1 << (8 * each)) - 1) } else { bits };
                            value |= bits << (8 * each * i);
                        }
                        write(warp, d, lane, value);
                    }
                }))
            }
            (d, Operand::Name(name)) if self.entry.params.iter().any(|(n, _, _)| n == name) => {
                // A parameter's address: its offset.
                let at = self.entry.params.iter().find(|(n, _, _)| n == name).map_or(0, |p| p.1);
                let (d, a) = (self.value(d, width, s.scope)?, self.constant(at as u64, width));
                Ok(Box::new(move |warp, mask| {
                    for lane in lanes(mask) {
                        let value = read(warp, a, lane);
                        write(warp, d, lane, value);
                    }
                }))
            }
            (d, a) => {
                let (d, a) = (self.value(d, width, s.scope)?, self.any(a, width, s.scope)?);
                if a.width != width {
                    return Ok(Box::new(move |warp, mask| {
                        for lane in lanes(mask) {
                            let value = read(warp, a, lane);
                            write(warp, d, lane, value);
                        }
                    }));
                }
                Ok(match width {
                    2 => map1::<u16, u16>(d, a, |a| a),
                    4 => map1::<u32, u32>(d, a, |a| a),
                    _ => map1::<u64, u64>(d, a, |a| a),
                })
            }
        }
    }

    pub(super) fn shuffle(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let o = &s.operands;
        let (d, p) = match &o[0] {
            Operand::Pair(d, p) => {
                (self.register(d, s.scope).ok_or("no register")?, Some(self.predicate_place(p, s.scope)?))
            }
            other => (self.any(other, 4, s.scope)?, None),
        };
        let a = self.value(&o[1], 4, s.scope)?;
        let (b, c) = (self.value(&o[2], 4, s.scope)?, self.value(&o[3], 4, s.scope)?);
        let members = o.get(4).map(|members| self.value(members, 4, s.scope)).transpose()?;
        let mode = parts[2].to_owned();
        Ok(Box::new(move |warp, mask| {
            if let Some(members) = members {
                warp.together(read(warp, members, mask.trailing_zeros() as usize) as u32, mask);
            }
            let mut values = [0u64; LANES];
            let mut inside = 0u32;
            for lane in lanes(mask) {
                let (b, c) = (read(warp, b, lane) as i64 & 31, read(warp, c, lane) as i64);
                let (clamp, segment) = (c & 31, c >> 8 & 31);
                let l = lane as i64;
                let max = (l & segment) | (clamp & !segment);
                let min = l & segment;
                let (from, good) = match mode.as_str() {
                    "up" => (l - b, l - b >= max),
                    "down" => (l + b, l + b <= max),
                    "bfly" => (l ^ b, (l ^ b) <= max),
                    _ => (min | (b & !segment), (min | (b & !segment)) <= max),
                };
                let from = if good { from as usize } else { lane };
                if mask >> from & 1 == 0 {
                    warp.fail(
                        Fault::Unsupported,
                        format!("lane {lane} shuffles from lane {from}, which is not there"),
                    );
                    return;
                }
                inside |= u32::from(good) << lane;
                values[lane] = read(warp, a, from);
            }
            lanes(mask).for_each(|lane| write(warp, d, lane, values[lane]));
            if let Some(p) = p {
                warp.set_predicate(p, mask, inside);
            }
        }))
    }

    pub(super) fn vote(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let o = &s.operands;
        let (a, negated) = self.predicate(&o[1], s.scope)?;
        let bits =
            move |warp: &Warp, mask: u32| (warp.predicate(a) ^ if negated { u32::MAX } else { 0 }) & mask;
        if parts.contains(&"ballot") {
            let d = self.value(&o[0], 4, s.scope)?;
            return Ok(Box::new(move |warp, mask| {
                let value = bits(warp, mask);
                lanes(mask).for_each(|lane| write(warp, d, lane, u64::from(value)));
            }));
        }
        let d = self.predicate(&o[0], s.scope)?.0;
        let mode = parts[2].to_owned();
        Ok(Box::new(move |warp, mask| {
            let value = bits(warp, mask);
            let holds = match mode.as_str() {
                "all" => value == mask,
                "any" => value != 0,
                _ => value == mask || value == 0,
            };
            warp.set_predicate(d, mask, if holds { u32::MAX } else { 0 });
        }))
    }
}
