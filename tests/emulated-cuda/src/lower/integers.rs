//! Arithmetic of whole numbers.

use super::lanes::{lanes, map1, map2, map3, read, write};
use super::{Lowered, Lowering, Step, bytes_of, f16_op};
use crate::ptx::{self, Operand, Statement};

impl Lowering<'_> {
    pub(super) fn arithmetic(&mut self, s: &Statement, parts: &[&str], ty: &str) -> Lowered<Step> {
        let o = &s.operands;
        let scope = s.scope;
        let name = parts[0];
        let has = |word: &str| parts.contains(&word);
        // Halves go through doubles, which hold every product and sum of theirs.
        if let Some((wide, narrow)) = f16_op(ty) {
            return self.halves(s, parts, ty, wide, narrow);
        }
        if ty == "f32" || ty == "f64" {
            return self.floats(s, parts, ty);
        }
        let width = bytes_of(ty)?;
        let wide = has("wide");
        let d_width = if wide { width * 2 } else { width };
        match name {
            "popc" | "clz" | "bfind" => {
                let d = self.value(&o[0], 4, scope)?;
                let a = self.value(&o[1], width, scope)?;
                let (which, bits) = (name.to_owned(), 8 * width as u32);
                let shift = has("shiftamt");
                return Ok(Box::new(move |warp, mask| {
                    for lane in lanes(mask) {
                        let a = read(warp, a, lane);
                        let clz = a.leading_zeros() - (64 - bits);
                        let value = match which.as_str() {
                            "popc" => a.count_ones(),
                            "clz" => clz,
                            _ if a == 0 => u32::MAX,
                            _ if shift => clz,
                            _ => bits - 1 - clz,
                        };
                        write(warp, d, lane, u64::from(value));
                    }
                }));
            }
            "shl" | "shr" => {
                let (d, a) = (self.value(&o[0], width, scope)?, self.value(&o[1], width, scope)?);
                let b = self.value(&o[2], 4, scope)?;
                let left = name == "shl";
                return Ok(by_int!(ty, T => map2::<T, u32, T>(d, a, b, move |a, b| {
                    if left {
                        if b >= T::BITS { 0 } else { a << b }
                    } else if b >= T::BITS {
                        // Signs fill.
                        a >> (T::BITS - 1) >> 1u32.min(u32::from(T::MIN == 0))
                    } else {
                        a >> b
                    }
                })));
            }
            "shf" => {
                let (d, a, b) = (
                    self.value(&o[0], 4, scope)?,
                    self.value(&o[1], 4, scope)?,
                    self.value(&o[2], 4, scope)?,
                );
                let c = self.value(&o[3], 4, scope)?;
                let (left, wrap) = (has("l"), has("wrap"));
                return Ok(Box::new(move |warp, mask| {
                    for lane in lanes(mask) {
                        let both = read(warp, b, lane) << 32 | read(warp, a, lane);
                        let c = read(warp, c, lane) as u32;
                        let by = if wrap { c & 31 } else { c.min(32) };
                        let value = if left { (both << by) >> 32 } else { both >> by };
                        write(warp, d, lane, value);
                    }
                }));
            }
            "lop3" => {
                let d = self.value(&o[0], 4, scope)?;
                let (a, b, c) = (
                    self.value(&o[1], 4, scope)?,
                    self.value(&o[2], 4, scope)?,
                    self.value(&o[3], 4, scope)?,
                );
                let Operand::Name(table) = &o[4] else { return Err("no table".into()) };
                let table = ptx::number(table).ok_or("no table")?;
                return Ok(map3::<u32, u32, u32, u32>(d, a, b, c, move |a, b, c| {
                    (0..8u32).filter(|i| table >> i & 1 == 1).fold(0, |all, i| {
                        let take = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
                        all | (take(a, 2) & take(b, 1) & take(c, 0))
                    })
                }));
            }
            "prmt" => {
                let d = self.value(&o[0], 4, scope)?;
                let (a, b, c) = (
                    self.value(&o[1], 4, scope)?,
                    self.value(&o[2], 4, scope)?,
                    self.value(&o[3], 4, scope)?,
                );
                return Ok(map3::<u32, u32, u32, u32>(d, a, b, c, |a, b, c| {
                    let bytes = u64::from(b) << 32 | u64::from(a);
                    (0..4).fold(0, |all, i| {
                        let pick = c >> (4 * i) & 15;
                        let byte = (bytes >> (8 * (pick & 7))) as u8;
                        let byte = if pick & 8 == 0 {
                            byte
                        } else if byte & 128 == 0 {
                            0
                        } else {
                            255
                        };
                        all | u32::from(byte) << (8 * i)
                    })
                }));
            }
            "bfe" => {
                let (d, a) = (self.value(&o[0], width, scope)?, self.value(&o[1], width, scope)?);
                let (b, c) = (self.value(&o[2], 4, scope)?, self.value(&o[3], 4, scope)?);
                let (signed, bits) = (ty.starts_with('s'), 8 * width as u32);
                return Ok(Box::new(move |warp, mask| {
                    for lane in lanes(mask) {
                        let a = read(warp, a, lane);
                        let (from, count) =
                            (read(warp, b, lane) as u32 & 255, read(warp, c, lane) as u32 & 255);
                        let kept = count.min(bits.saturating_sub(from));
                        let mut value = if kept == 0 { 0 } else { a >> from & (u64::MAX >> (64 - kept)) };
                        let top = (from + count).min(bits).wrapping_sub(1).min(bits - 1);
                        if signed && count > 0 && a >> top & 1 == 1 && kept < 64 {
                            value |= u64::MAX << kept;
                        }
                        write(warp, d, lane, value);
                    }
                }));
            }
            "bfi" => {
                let (d, a, b) = (
                    self.value(&o[0], width, scope)?,
                    self.value(&o[1], width, scope)?,
                    self.value(&o[2], width, scope)?,
                );
                let (c, e) = (self.value(&o[3], 4, scope)?, self.value(&o[4], 4, scope)?);
                return Ok(Box::new(move |warp, mask| {
                    for lane in lanes(mask) {
                        let (at, count) = (read(warp, c, lane) & 255, read(warp, e, lane) & 255);
                        let field =
                            if count == 0 || at >= 64 { 0 } else { (u64::MAX >> (64 - count.min(64))) << at };
                        let inserted = if at >= 64 { 0 } else { read(warp, a, lane) << at };
                        let value = read(warp, b, lane) & !field | inserted & field;
                        write(warp, d, lane, value);
                    }
                }));
            }
            "cnot" => {
                let (d, a) = (self.value(&o[0], width, scope)?, self.value(&o[1], width, scope)?);
                return Ok(by_int!(ty, T => map1::<T, T>(d, a, |a| T::from(a == 0))));
            }
            _ => {}
        }
        let d = self.any(&o[0], d_width, scope)?;
        if d.width != d_width {
            return Err(format!("a result of {} bytes", d.width));
        }
        let a = self.value(&o[1], width, scope)?;
        match name {
            "not" => return Ok(by_int!(ty, T => map1::<T, T>(d, a, |a| !a))),
            "neg" => return Ok(by_int!(ty, T => map1::<T, T>(d, a, |a| (0 as T).wrapping_sub(a)))),
            "abs" => {
                return Ok(match ty {
                    "s32" => map1::<i32, i32>(d, a, i32::wrapping_abs),
                    "s64" => map1::<i64, i64>(d, a, i64::wrapping_abs),
                    "s16" => map1::<i16, i16>(d, a, i16::wrapping_abs),
                    _ => return Err("abs of that type".into()),
                });
            }
            "brev" => return Ok(by_int!(ty, T => map1::<T, T>(d, a, T::reverse_bits))),
            _ => {}
        }
        let b = self.value(&o[2], width, scope)?;
        if wide || has("hi") {
            let signed = ty.starts_with('s');
            let c = match (name, o.get(3)) {
                ("mad", Some(operand)) => Some(self.value(operand, d_width, scope)?),
                ("mul", None) => None,
                _ => return Err("a wide operation".into()),
            };
            let bits = 8 * width as u32;
            let extend = move |v: u64| -> i128 {
                if signed { i128::from(((v << (64 - bits)) as i64) >> (64 - bits)) } else { i128::from(v) }
            };
            return Ok(Box::new(move |warp, mask| {
                for lane in lanes(mask) {
                    let product = extend(read(warp, a, lane)).wrapping_mul(extend(read(warp, b, lane)));
                    let product = if wide { product as u64 } else { (product >> bits) as u64 };
                    let sum = product.wrapping_add(c.map_or(0, |c| read(warp, c, lane)));
                    write(warp, d, lane, sum);
                }
            }));
        }
        if name == "mad" {
            let c = self.value(&o[3], width, scope)?;
            return Ok(
                by_int!(ty, T => map3::<T, T, T, T>(d, a, b, c, |a, b, c| a.wrapping_mul(b).wrapping_add(c))),
            );
        }
        if name == "sad" {
            let c = self.value(&o[3], width, scope)?;
            return Ok(by_int!(ty, T => map3::<T, T, T, T>(d, a, b, c, |a, b, c| {
                c.wrapping_add(if a > b { a.wrapping_sub(b) } else { b.wrapping_sub(a) })
            })));
        }
        Ok(match name {
            "add" if has("sat") => return Err("saturation".into()),
            "add" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a.wrapping_add(b))),
            "sub" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a.wrapping_sub(b))),
            "mul" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a.wrapping_mul(b))),
            // What a division by zero gives is not stated; the machine gives all ones.
            "div" => {
                by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) }))
            }
            "rem" => {
                by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| if b == 0 { a } else { a.wrapping_rem(b) }))
            }
            "min" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a.min(b))),
            "max" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a.max(b))),
            "and" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a & b)),
            "or" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a | b)),
            "xor" => by_int!(ty, T => map2::<T, T, T>(d, a, b, |a, b| a ^ b)),
            other => return Err(format!("no instruction {other}")),
        })
    }
}
