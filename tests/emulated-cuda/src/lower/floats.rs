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
        Ok(if ty == "f32" { floats!(f32) } else { floats!(f64) })
    }
}
