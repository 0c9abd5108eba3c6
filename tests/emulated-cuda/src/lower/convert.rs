//! Conversions between types.

use half::{bf16, f16};

use super::floats::directed;
use super::lanes::{lanes, map1, map2, read, write};
use super::{Lowered, Lowering, Step, bytes_of, f16_op, to_bf16, to_f16};
use crate::ptx::{self, Statement};

impl Lowering<'_> {
    pub(super) fn convert(&mut self, s: &Statement, parts: &[&str]) -> Lowered<Step> {
        let types: Vec<&str> = parts[1..].iter().copied().filter(|p| ptx::bytes(p).is_some()).collect();
        let rounding = parts
            .iter()
            .copied()
            .find(|p| ["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"].contains(p))
            .unwrap_or("rn")
            .to_owned();
        let saturate = parts.contains(&"sat");
        let relu = parts.contains(&"relu");
        let [to, from] = types[..] else { return Err(format!("types {types:?}")) };
        let (to, from) = (to.to_owned(), from.to_owned());
        if to == "bf16x2" || to == "f16x2" {
            let d = self.value(&s.operands[0], 4, s.scope)?;
            let high = self.value(&s.operands[1], 4, s.scope)?;
            let low = self.value(&s.operands[2], 4, s.scope)?;
            let (_, narrow) = f16_op(&to).ok_or("no half")?;
            return Ok(map2::<f32, f32, u32>(d, high, low, move |high, low| {
                let each = |v: f32| u32::from(narrow(f64::from(if relu { v.max(0.0) } else { v })));
                each(high) << 16 | each(low)
            }));
        }
        let d = self.any(&s.operands[0], bytes_of(&to)?, s.scope)?;
        let a = self.any(&s.operands[1], bytes_of(&from)?, s.scope)?;
        if to == "f32" && from == "bf16" && a.width == 2 {
            return Ok(map1::<u16, u32>(d, a, |a| u32::from(a) << 16));
        }
        if to == "f32" && from == "f16" && a.width == 2 {
            return Ok(map1::<u16, f32>(d, a, |a| f16::from_bits(a).to_f32()));
        }
        if from == "f32" && (to == "bf16" || to == "f16") && d.width == 2 && rounding == "rn" {
            let (_, narrow) = f16_op(&to).ok_or("no half")?;
            return Ok(map1::<f32, u16>(d, a, move |a| narrow(f64::from(if relu { a.max(0.0) } else { a }))));
        }
        let convert = converter(&to, &from, &rounding, saturate)?;
        Ok(Box::new(move |warp, mask| {
            for lane in lanes(mask) {
                let value = convert(read(warp, a, lane));
                write(warp, d, lane, value);
            }
        }))
    }
}

/// Rounds to the 10 bits of TF32; what a tensor core does with an f32 that was not rounded before is to cut it.
pub fn tf32(value: f32, nearest: bool) -> f32 {
    let bits = value.to_bits();
    if !value.is_finite() {
        return value;
    }
    f32::from_bits(if nearest { bits.wrapping_add(1 << 12) & !0x1fff } else { bits & !0x1fff })
}

fn converter(
    to: &str,
    from: &str,
    rounding: &str,
    saturate: bool,
) -> Lowered<Box<dyn Fn(u64) -> u64 + Send + Sync>> {
    let float = |ty: &str| matches!(ty, "f16" | "bf16" | "f32" | "f64" | "tf32");
    let width = bytes_of(to)?;
    let from_bits = 8 * bytes_of(from)? as u32;
    let rounding = rounding.to_owned();
    if !float(to) && !float(from) {
        let signed = from.starts_with('s');
        let to_signed = to.starts_with('s');
        let to_bits = 8 * width as u32;
        return Ok(Box::new(move |v| {
            let v = v << (64 - from_bits);
            let v = if signed {
                (v as i64 >> (64 - from_bits)) as i128
            } else {
                i128::from(v >> (64 - from_bits))
            };
            if !saturate {
                return v as u64;
            }
            let (low, high) = if to_signed {
                (-(1i128 << (to_bits - 1)), (1i128 << (to_bits - 1)) - 1)
            } else {
                (0, (1i128 << to_bits) - 1)
            };
            v.clamp(low, high) as u64
        }));
    }
    if !float(from) {
        let signed = from.starts_with('s');
        let to = to.to_owned();
        return Ok(Box::new(move |v| {
            let v = v << (64 - from_bits);
            let v = if signed {
                i128::from(v as i64 >> (64 - from_bits))
            } else {
                i128::from(v >> (64 - from_bits))
            };
            match to.as_str() {
                "f32" if rounding == "rn" => u64::from((v as f32).to_bits()),
                "f32" => u64::from(directed(v as f64, 0.0, &rounding).to_bits()),
                "f64" => (v as f64).to_bits(),
                "f16" => u64::from(to_f16(v as f64)),
                _ => u64::from(to_bf16(v as f64)),
            }
        }));
    }
    let wide: fn(u64) -> f64 = match from {
        "f32" => |v| f64::from(f32::from_bits(v as u32)),
        "f64" => f64::from_bits,
        "f16" => |v| f16::from_bits(v as u16).to_f64(),
        "bf16" => |v| bf16::from_bits(v as u16).to_f64(),
        other => return Err(format!("from {other}")),
    };
    let direction = rounding.clone();
    let whole = move |v: f64| match rounding.as_str() {
        "rni" => v.round_ties_even(),
        "rzi" => v.trunc(),
        "rmi" => v.floor(),
        "rpi" => v.ceil(),
        _ => v,
    };
    if float(to) {
        let to = to.to_owned();
        let cut = whole(1.5) == 1.5 && from == "f32" && to == "tf32";
        return Ok(Box::new(move |v| {
            let v = whole(wide(v));
            let v = if saturate { v.clamp(0.0, 1.0) } else { v };
            match to.as_str() {
                "f32" => u64::from(directed(v, 0.0, &direction).to_bits()),
                "f64" => v.to_bits(),
                "f16" => u64::from(to_f16(v)),
                "tf32" => u64::from(tf32(v as f32, cut).to_bits()),
                _ => u64::from(to_bf16(v)),
            }
        }));
    }
    let to = to.to_owned();
    Ok(Box::new(move |v| {
        let v = whole(wide(v));
        match to.as_str() {
            "s8" => v as i8 as u64,
            "u8" => v as u8 as u64,
            "s16" => v as i16 as u64,
            "u16" => v as u16 as u64,
            "s32" => v as i32 as u64,
            "u32" => v as u32 as u64,
            "s64" => v as i64 as u64,
            _ => v as u64,
        }
    }))
}
