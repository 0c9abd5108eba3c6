//! Loads, stores, atomic operations and copies.

use super::lanes::{lanes, read, write};
use super::{Lowered, Lowering, Place, Step, bytes_of, f16_op};
use crate::checks::Access;
use crate::machine::{ATOMICS, Action, Fault};
use crate::ptx::{self, Operand, Statement};

impl Lowering<'_> {
    pub(super) fn load(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let ty = *parts.last().ok_or("no type")?;
        let width = bytes_of(ty)?;
        let signed = ty.starts_with('s');
        let to = self.places(&s.operands[0], width, s.scope)?;
        let count = to.len();
        if parts.contains(&"param") {
            let Operand::Address(name, offset) = &s.operands[1] else { return Err("no parameter".into()) };
            // A parameter by name, or through a register that holds its offset.
            let (base, fixed) = match self.entry.params.iter().find(|(n, _, _)| n == name) {
                Some((_, at, _)) => (self.constant(0, 8), *at as u64 + *offset as u64),
                None => (self.any(&Operand::Name(name.clone()), 8, s.scope)?, *offset as u64),
            };
            return Ok(Box::new(move |warp, mask| {
                for lane in lanes(mask) {
                    let at = read(warp, base, lane).wrapping_add(fixed) as usize;
                    if at.saturating_add(width * count) > warp.block.param_bytes {
                        warp.fail(Fault::IllegalAddress, format!("parameters at {at}"));
                        return;
                    }
                    for (i, place) in to.iter().enumerate() {
                        let Some(place) = *place else { continue };
                        // SAFETY: inside the parameters.
                        let value = unsafe { raw(warp.block.params.add(at + i * width), width, signed) };
                        write(warp, place, lane, value);
                    }
                }
            }));
        }
        let (base, offset) = self.address(&s.operands[1], s.scope)?;
        let shared = parts.contains(&"shared");
        let access = ordered(parts, Access::Read);
        // The common case: one value of four bytes.
        if let ([Some(place)], 4, false) = (to.as_slice(), width, signed)
            && place.width == 4
        {
            let place = *place;
            return Ok(Box::new(move |warp, mask| {
                for lane in lanes(mask) {
                    let at = read(warp, base, lane).wrapping_add(offset);
                    let Some(from) = (if shared { warp.reach_shared(at, 4) } else { warp.reach(at, 4) })
                    else {
                        return;
                    };
                    warp.touch(lane, from, 4, access);
                    // SAFETY: checked above.
                    unsafe { (*warp.lanes::<u32>(place.at))[lane] = from.cast::<u32>().read() };
                }
            }));
        }
        Ok(Box::new(move |warp, mask| {
            for lane in lanes(mask) {
                let at = read(warp, base, lane).wrapping_add(offset);
                let all = width * count;
                let Some(from) = (if shared { warp.reach_shared(at, all) } else { warp.reach(at, all) })
                else {
                    return;
                };
                warp.touch(lane, from, all, access);
                for (i, place) in to.iter().enumerate() {
                    let Some(place) = *place else { continue };
                    // SAFETY: checked above.
                    let value = unsafe { raw(from.add(i * width), width, signed) };
                    write(warp, place, lane, value);
                }
            }
        }))
    }

    pub(super) fn store(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let ty = *parts.last().ok_or("no type")?;
        let width = bytes_of(ty)?;
        let from: Vec<Place> = self.places(&s.operands[1], width, s.scope)?.into_iter().flatten().collect();
        let count = from.len();
        let (base, offset) = self.address(&s.operands[0], s.scope)?;
        let shared = parts.contains(&"shared");
        let access = ordered(parts, Access::Write);
        Ok(Box::new(move |warp, mask| {
            for lane in lanes(mask) {
                let at = read(warp, base, lane).wrapping_add(offset);
                let all = width * count;
                let Some(to) = (if shared { warp.reach_shared(at, all) } else { warp.reach(at, all) }) else {
                    return;
                };
                warp.touch(lane, to, all, access);
                for (i, place) in from.iter().enumerate() {
                    let value = read(warp, *place, lane);
                    // SAFETY: checked above.
                    unsafe { put(to.add(i * width), width, value) };
                }
            }
        }))
    }

    pub(super) fn atomic(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let ty = *parts.last().ok_or("no type")?;
        let width = bytes_of(ty)?;
        let result = parts[0] == "atom";
        let o = &s.operands[usize::from(result)..];
        let d = if result { Some(self.any(&s.operands[0], width, s.scope)?) } else { None };
        let (base, offset) = self.address(&o[0], s.scope)?;
        let a = self.value(&o[1], width, s.scope)?;
        let b = match o.get(2) {
            Some(operand) => Some(self.value(operand, width, s.scope)?),
            None => None,
        };
        let shared = parts.contains(&"shared");
        let which = *parts
            .iter()
            .find(|p| ["add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec"].contains(p))
            .ok_or("no operation")?;
        let f = atomic_function(which, ty)?;
        Ok(Box::new(move |warp, mask| {
            let _turn = ATOMICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for lane in lanes(mask) {
                let at = read(warp, base, lane).wrapping_add(offset);
                let Some(at) = (if shared { warp.reach_shared(at, width) } else { warp.reach(at, width) })
                else {
                    return;
                };
                warp.touch(lane, at, width, Access::Update);
                // SAFETY: checked above.
                let old = unsafe { raw(at, width, false) };
                let new = f(old, read(warp, a, lane), b.map_or(0, |b| read(warp, b, lane)));
                // SAFETY: checked above.
                unsafe { put(at, width, new) };
                if let Some(d) = d {
                    write(warp, d, lane, old);
                }
            }
        }))
    }

    pub(super) fn copy(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Action> {
        if parts[..2] != ["cp", "async"] || parts.contains(&"bulk") {
            return Err("a copy that is not known".into());
        }
        if ["commit_group", "wait_group", "wait_all"].iter().any(|p| parts.contains(p)) {
            return Ok(Action::Run(Box::new(|_, _| {})));
        }
        if parts.contains(&"mbarrier") {
            return Err("an asynchronous arrival".into());
        }
        let (to, to_offset) = self.address(&s.operands[0], s.scope)?;
        let (from, from_offset) = self.address(&s.operands[1], s.scope)?;
        let Operand::Name(size) = &s.operands[2] else { return Err("no size".into()) };
        let size = ptx::number(size).ok_or("no size")? as usize;
        let source = match s.operands.get(3) {
            Some(operand) => Some(self.any(operand, 4, s.scope)?),
            None => None,
        };
        Ok(Action::Run(Box::new(move |warp, mask| {
            for lane in lanes(mask) {
                let taken = source.map_or(size, |place| read(warp, place, lane) as usize).min(size);
                let to = read(warp, to, lane).wrapping_add(to_offset);
                let Some(to) = warp.reach_shared(to, size) else { return };
                warp.touch(lane, to, size, Access::Write);
                // SAFETY: both ends were checked.
                unsafe {
                    std::ptr::write_bytes(to, 0, size);
                    if taken > 0 {
                        let from = read(warp, from, lane).wrapping_add(from_offset);
                        let Some(from) = warp.reach(from, taken) else { return };
                        warp.touch(lane, from, taken, Access::Read);
                        std::ptr::copy_nonoverlapping(from, to, taken);
                    }
                }
            }
        })))
    }
}

/// The access, or an atomic one where the instruction asks for an order of its own.
fn ordered(parts: &[&str], access: Access) -> Access {
    let own = ["volatile", "relaxed", "acquire", "release"].iter().any(|word| parts.contains(word));
    match access {
        Access::Read if own => Access::OrderedRead,
        Access::Write if own => Access::OrderedWrite,
        access => access,
    }
}

/// Bits at an address, widened with zeros or signs.
///
/// # Safety
///
/// `width` bytes can be read at `from`.
unsafe fn raw(from: *const u8, width: usize, signed: bool) -> u64 {
    // SAFETY: by the caller.
    unsafe {
        match (width, signed) {
            (1, false) => u64::from(from.read()),
            (1, true) => from.cast::<i8>().read() as i64 as u64,
            (2, false) => u64::from(from.cast::<u16>().read_unaligned()),
            (2, true) => from.cast::<i16>().read_unaligned() as i64 as u64,
            (4, false) => u64::from(from.cast::<u32>().read_unaligned()),
            (4, true) => from.cast::<i32>().read_unaligned() as i64 as u64,
            _ => from.cast::<u64>().read_unaligned(),
        }
    }
}

/// Writes the low bits.
///
/// # Safety
///
/// `width` bytes can be written at `to`.
unsafe fn put(to: *mut u8, width: usize, bits: u64) {
    // SAFETY: by the caller.
    unsafe {
        match width {
            1 => to.write(bits as u8),
            2 => to.cast::<u16>().write_unaligned(bits as u16),
            4 => to.cast::<u32>().write_unaligned(bits as u32),
            _ => to.cast::<u64>().write_unaligned(bits),
        }
    }
}

/// The new value, of the old one and two operands.
type Update = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

fn atomic_function(which: &str, ty: &str) -> Lowered<Update> {
    let f32s = |f: fn(f32, f32) -> f32| -> Update {
        Box::new(move |old, a, _| {
            u64::from(f(f32::from_bits(old as u32), f32::from_bits(a as u32)).to_bits())
        })
    };
    Ok(match (which, ty) {
        ("add", "f32") => f32s(|a, b| a + b),
        ("add", "f64") => Box::new(|old, a, _| (f64::from_bits(old) + f64::from_bits(a)).to_bits()),
        ("add", "f16" | "bf16" | "f16x2" | "bf16x2") => {
            let (wide, narrow) = f16_op(ty).ok_or("no half")?;
            let pieces = if ty.ends_with("x2") { 2 } else { 1 };
            Box::new(move |old, a, _| {
                (0..pieces).fold(0, |all, i| {
                    let sum = wide((old >> (16 * i)) as u16) + wide((a >> (16 * i)) as u16);
                    all | u64::from(narrow(sum)) << (16 * i)
                })
            })
        }
        ("add", _) => Box::new(|old, a, _| old.wrapping_add(a)),
        ("exch", _) => Box::new(|_, a, _| a),
        ("cas", _) => Box::new(|old, a, b| if old == a { b } else { old }),
        ("and", _) => Box::new(|old, a, _| old & a),
        ("or", _) => Box::new(|old, a, _| old | a),
        ("xor", _) => Box::new(|old, a, _| old ^ a),
        ("min", "u32" | "u64") => Box::new(|old, a, _| old.min(a)),
        ("max", "u32" | "u64") => Box::new(|old, a, _| old.max(a)),
        ("min", "s32") => Box::new(|old, a, _| (old as i32).min(a as i32) as u32 as u64),
        ("max", "s32") => Box::new(|old, a, _| (old as i32).max(a as i32) as u32 as u64),
        ("min", "s64") => Box::new(|old, a, _| (old as i64).min(a as i64) as u64),
        ("max", "s64") => Box::new(|old, a, _| (old as i64).max(a as i64) as u64),
        ("inc", "u32") => Box::new(|old, a, _| if old >= a { 0 } else { old + 1 }),
        ("dec", "u32") => Box::new(|old, a, _| if old == 0 || old > a { a } else { old - 1 }),
        other => return Err(format!("no atomic {other:?}")),
    })
}
