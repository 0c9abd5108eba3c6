//! Arithmetic of floats.

use super::lanes::{lanes, map1, map2, map3, read, write};
use super::{Lowered, Lowering, Step, bytes_of};
use crate::ptx::Statement;

impl Lowering<'_> {
    pub(super) fn halves(
        &mut self,
        s: &Statement,
        parts: &[&str],
        ty: &str,
        wide: fn(u16) -> f64,
        narrow: fn(f64) -> u16,
    ) -> Lowered<Step> {
        let width = bytes_of(ty)?;
        let d = self.value(&s.operands[0], width, s.scope)?;
        let args =
            s.operands[1..].iter().map(|o| self.value(o, width, s.scope)).collect::<Lowered<Vec<_>>>()?;
        let f: fn(&[f64]) -> f64 = match parts[0] {
            "add" => |v| v[0] + v[1],
            "sub" => |v| v[0] - v[1],
            "mul" => |v| v[0] * v[1],
            "fma" if parts.contains(&"relu") => |v| v[0].mul_add(v[1], v[2]).max(0.0),
            "fma" => |v| v[0].mul_add(v[1], v[2]),
            "min" if parts.contains(&"NaN") => {
                |v| if v[0].is_nan() || v[1].is_nan() { f64::NAN } else { v[0].min(v[1]) }
            }
            "max" if parts.contains(&"NaN") => {
                |v| if v[0].is_nan() || v[1].is_nan() { f64::NAN } else { v[0].max(v[1]) }
            }
            "min" => |v| v[0].min(v[1]),
            "max" => |v| v[0].max(v[1]),
            "neg" => |v| -v[0],
            "abs" => |v| v[0].abs(),
            "ex2" => |v| v[0].exp2(),
            "tanh" => |v| v[0].tanh(),
            other => return Err(format!("no instruction {other} for halves")),
        };
        let pieces = width / 2;
        Ok(Box::new(move |warp, mask| {
            for lane in lanes(mask) {
                let mut value = 0u64;
                for piece in 0..pieces {
                    let mut v = [0.0; 3];
                    for (v, arg) in v.iter_mut().zip(&args) {
                        *v = wide((read(warp, *arg, lane) >> (16 * piece)) as u16);
                    }
                    value |= u64::from(narrow(f(&v))) << (16 * piece);
                }
                write(warp, d, lane, value);
            }
        }))
    }

    pub(super) fn floats(&mut self, s: &Statement, parts: &[&str], ty: &str) -> Lowered<Step> {
        let width = bytes_of(ty)?;
        let o = &s.operands;
        let has = |word: &str| parts.contains(&word);
        let d = self.value(&o[0], width, s.scope)?;
        let args = o[1..].iter().map(|o| self.any(o, width, s.scope)).collect::<Lowered<Vec<_>>>()?;
        if parts[0] == "testp" {
            return Err("testp".into());
        }
        if args.iter().any(|a| a.width != width) {
            return Err("widths differ".into());
        }
        macro_rules! floats {
            ($F:ty) => {
                match (parts[0], &args[..]) {
                    ("add", [a, b]) => map2::<$F, $F, $F>(d, *a, *b, |a, b| a + b),
                    ("sub", [a, b]) => map2::<$F, $F, $F>(d, *a, *b, |a, b| a - b),
                    ("mul", [a, b]) => map2::<$F, $F, $F>(d, *a, *b, |a, b| a * b),
                    ("div", [a, b]) => map2::<$F, $F, $F>(d, *a, *b, |a, b| a / b),
                    ("min" | "max", [a, b]) if has("NaN") => {
                        let least = parts[0] == "min";
                        map2::<$F, $F, $F>(d, *a, *b, move |a, b| {
                            if a.is_nan() || b.is_nan() {
                                <$F>::NAN
                            } else if least {
                                a.min(b)
                            } else {
                                a.max(b)
                            }
                        })
                    }
                    ("min", [a, b]) => map2::<$F, $F, $F>(d, *a, *b, |a, b| a.min(b)),
                    ("max", [a, b]) => map2::<$F, $F, $F>(d, *a, *b, |a, b| a.max(b)),
                    ("copysign", [a, b]) => map2::<$F, $F, $F>(d, *a, *b, |a, b| b.copysign(a)),
                    ("fma" | "mad", [a, b, c]) => {
                        map3::<$F, $F, $F, $F>(d, *a, *b, *c, |a, b, c| a.mul_add(b, c))
                    }
                    ("neg", [a]) => map1::<$F, $F>(d, *a, |a| -a),
                    ("abs", [a]) => map1::<$F, $F>(d, *a, |a| a.abs()),
                    ("rcp", [a]) => map1::<$F, $F>(d, *a, |a| 1.0 / a),
                    ("sqrt", [a]) => map1::<$F, $F>(d, *a, |a| a.sqrt()),
                    ("rsqrt", [a]) => map1::<$F, $F>(d, *a, |a| 1.0 / a.sqrt()),
                    ("ex2", [a]) => map1::<$F, $F>(d, *a, |a| a.exp2()),
                    ("lg2", [a]) => map1::<$F, $F>(d, *a, |a| a.log2()),
                    ("sin", [a]) => map1::<$F, $F>(d, *a, |a| a.sin()),
                    ("cos", [a]) => map1::<$F, $F>(d, *a, |a| a.cos()),
                    ("tanh", [a]) => map1::<$F, $F>(d, *a, |a| a.tanh()),
                    (other, args) => return Err(format!("no instruction {other} of {} floats", args.len())),
                }
            };
        }
        let direction = ["rm", "rp", "rz"].into_iter().find(|way| has(way));
        match (direction, &args[..]) {
            (None, _) => {}
            (Some(way), [a, b, c]) if ty == "f32" && matches!(parts[0], "fma" | "mad") => {
                return Ok(map3::<f32, f32, f32, f32>(d, *a, *b, *c, move |a, b, c| fused(a, b, c, way)));
            }
            (Some(way), _) => return Err(format!("no rounding {way} of {} of {ty}", parts[0])),
        }
        Ok(if ty == "f32" { floats!(f32) } else { floats!(f64) })
    }
}

/// `a b + c`, rounded once: down, up or toward zero.
fn fused(a: f32, b: f32, c: f32, way: &str) -> f32 {
    // The product is exact, and what the sum leaves out is known (Knuth's two-sum).
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let of_c = sum - product;
    let left = (product - (sum - of_c)) + (c - of_c);
    directed(sum, left, way)
}

/// The number `value + left`, of which `left` is less than the last bit of `value`, rounded down, up or toward zero.
pub(super) fn directed(value: f64, left: f64, way: &str) -> f32 {
    let near = value as f32;
    if !value.is_finite() {
        return near;
    }
    let beyond = match value - f64::from(near) {
        0.0 => left,
        off => off,
    };
    match way {
        "rm" if beyond < 0.0 => near.next_down(),
        "rp" if beyond > 0.0 => near.next_up(),
        "rz" if near > 0.0 && beyond < 0.0 => near.next_down(),
        "rz" if near < 0.0 && beyond > 0.0 => near.next_up(),
        _ => near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_rounded_as_they_are_told() {
        let hair = f32::EPSILON;
        // 1 + 2^-46, and 1 - 2^-46.
        for (c, [down, up, zero]) in
            [(1.0, [1.0, 1.0 + hair, 1.0]), (-1.0, [-1.0, -1.0 + hair / 2.0, -1.0 + hair / 2.0])]
        {
            let tiny = 2f32.powi(-23);
            assert_eq!(["rm", "rp", "rz"].map(|way| fused(tiny, tiny, c, way)), [down, up, zero], "{c}");
        }
        // Below what f64 holds beside one.
        let tiny = 2f32.powi(-40);
        assert_eq!(
            ["rm", "rp", "rz"].map(|way| fused(tiny, -tiny, 1.0, way)),
            [1.0 - hair / 2.0, 1.0, 1.0 - hair / 2.0]
        );
        assert_eq!(["rm", "rp", "rz"].map(|way| fused(3.0, 2.0, 1.0, way)), [7.0; 3], "exact");
        assert_eq!(
            ["rm", "rp", "rz"].map(|way| fused(f32::MAX, 2.0, 0.0, way)).map(f32::is_finite),
            [true, false, true]
        );
    }
}
