//! What tensor cores do: matrices that lie in the registers of all lanes of a warp.
//!
//! The places of `mma` and `ldmatrix` are as NVIDIA's "Parallel Thread Execution ISA" draws them; those of `wmma` are not
//! stated there, so an order of our own serves.

use half::{bf16, f16};

use crate::checks::Access;
use crate::lower::{Place, read, tf32, write};
use crate::machine::{LANES, Step, Warp};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    F16,
    Bf16,
    Tf32,
    F32,
}

impl Element {
    fn of(name: &str) -> Result<Self, String> {
        Ok(match name {
            "f16" => Self::F16,
            "bf16" => Self::Bf16,
            "tf32" => Self::Tf32,
            "f32" => Self::F32,
            other => return Err(format!("matrices of {other}")),
        })
    }

    /// Elements a register.
    fn packed(self) -> usize {
        if matches!(self, Self::F16 | Self::Bf16) { 2 } else { 1 }
    }

    fn bytes(self) -> usize {
        4 / self.packed()
    }

    fn wide(self, bits: u32) -> f32 {
        match self {
            Self::F16 => f16::from_bits(bits as u16).to_f32(),
            Self::Bf16 => bf16::from_bits(bits as u16).to_f32(),
            Self::Tf32 => tf32(f32::from_bits(bits), false),
            Self::F32 => f32::from_bits(bits),
        }
    }

    fn narrow(self, value: f32) -> u32 {
        match self {
            Self::F16 => u32::from(f16::from_f32(value).to_bits()),
            Self::Bf16 => u32::from(bf16::from_f32(value).to_bits()),
            Self::Tf32 | Self::F32 => value.to_bits(),
        }
    }
}

fn shape(parts: &[&str]) -> Result<(usize, usize, usize), String> {
    let text =
        parts.iter().find(|p| p.starts_with('m') && p.contains('n') && p.contains('k')).ok_or("no shape")?;
    let numbers: Vec<usize> =
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    match numbers[..] {
        [m, n, k] => Ok((m, n, k)),
        _ => Err(format!("shape {text}")),
    }
}

/// Bits of element `slot` of a lane, in registers that hold `packed` each.
fn get(warp: &Warp, places: &[Place], element: Element, lane: usize, slot: usize) -> u32 {
    let packed = element.packed();
    let bits = read(warp, places[slot / packed], lane) as u32;
    if packed == 2 { bits >> (16 * (slot % 2)) & 0xffff } else { bits }
}

fn set(warp: &mut Warp, places: &[Place], element: Element, lane: usize, slot: usize, bits: u32) {
    let packed = element.packed();
    if packed == 2 {
        let old = read(warp, places[slot / 2], lane) as u32;
        let shift = 16 * (slot % 2);
        write(warp, places[slot / 2], lane, u64::from(old & !(0xffff << shift) | bits << shift));
    } else {
        write(warp, places[slot], lane, u64::from(bits));
    }
}

/// The most elements that a matrix in registers has.
const MOST: usize = 512;

/// All elements of a matrix whose lanes hold `count / 32` each, one lane after the other, as bits.
fn gather(warp: &Warp, places: &[Place], element: Element, count: usize) -> [u32; MOST] {
    let mut all = [0; MOST];
    let each = count / LANES;
    let packed = element.packed();
    for slot in 0..each {
        // SAFETY: registers of matrices have 32 bits, which `wmma` and `mma` check.
        let bits = unsafe { *warp.lanes::<u32>(places[slot / packed].at) };
        let (shift, mask) = if packed == 2 { (16 * (slot % 2), 0xffff) } else { (0, u32::MAX) };
        for lane in 0..LANES {
            all[lane * each + slot] = bits[lane] >> shift & mask;
        }
    }
    all
}

/// The reverse of `gather`.
fn scatter(warp: &mut Warp, places: &[Place], element: Element, count: usize, all: &[u32; MOST]) {
    let each = count / LANES;
    let packed = element.packed();
    for (register, place) in places.iter().enumerate().take(each / packed) {
        // SAFETY: as above.
        let bits = unsafe { &mut *warp.lanes::<u32>(place.at) };
        for (lane, bits) in bits.iter_mut().enumerate() {
            let at = lane * each + register * packed;
            *bits = if packed == 2 { all[at] | all[at + 1] << 16 } else { all[at] };
        }
    }
}

fn widened(bits: &[u32; MOST], element: Element, count: usize) -> [f32; MOST] {
    let mut all = [0.0; MOST];
    for (to, from) in all.iter_mut().zip(bits).take(count) {
        *to = element.wide(*from);
    }
    all
}

/// `wmma.load`, `wmma.store`, `wmma.mma`.
pub fn wmma(
    parts: &[&str],
    vectors: Vec<Vec<Place>>,
    address: Option<(Place, u64)>,
    stride: Option<Place>,
) -> Result<Step, String> {
    let (m, n, k) = shape(parts)?;
    if vectors.iter().flatten().any(|place| place.width != 4) {
        return Err("registers of another width".into());
    }
    if parts[1] == "mma" {
        let types: Vec<Element> = parts.iter().rev().map_while(|p| Element::of(p).ok()).collect();
        let (d, ab, c) = match types[..] {
            // Written from the last to the first: c, d of halves; or c, b, a, d.
            [c, d] => (d, Element::F16, c),
            [c, b, a, d] if a == b => (d, a, c),
            _ => return Err(format!("types {types:?}")),
        };
        let [to, a, b, from] =
            <[Vec<Place>; 4]>::try_from(vectors).map_err(|_| "four matrices are needed")?;
        return Ok(Box::new(move |warp, _| {
            let x = widened(&gather(warp, &a, ab, m * k), ab, m * k);
            let y = widened(&gather(warp, &b, ab, k * n), ab, k * n);
            let mut z = widened(&gather(warp, &from, c, m * n), c, m * n);
            multiply(&x, &y, &mut z, (m, n, k));
            let mut bits = [0; MOST];
            for (to, from) in bits.iter_mut().zip(&z).take(m * n) {
                *to = d.narrow(*from);
            }
            scatter(warp, &to, d, m * n, &bits);
        }));
    }
    let loads = parts[1] == "load";
    let which = parts[2];
    let element = Element::of(parts[parts.len() - 1])?;
    let column_major = parts.contains(&"col");
    let shared = parts.contains(&"shared");
    let (rows, columns) = match which {
        "a" => (m, k),
        "b" => (k, n),
        _ => (m, n),
    };
    let places = vectors.into_iter().next().ok_or("no registers")?;
    let (base, offset) = address.ok_or("no address")?;
    let bytes = element.bytes();
    let access = if loads { Access::Read } else { Access::Write };
    Ok(Box::new(move |warp, mask| {
        warp.together(u32::MAX, mask);
        let start = read(warp, base, 0).wrapping_add(offset);
        let stride = match stride {
            Some(place) => read(warp, place, 0) as usize,
            None => {
                if column_major {
                    rows
                } else {
                    columns
                }
            }
        };
        // Lines that are contiguous in memory.
        let (lines, length) = if column_major { (columns, rows) } else { (rows, columns) };
        let place_of =
            |line: usize, i: usize| if column_major { i * columns + line } else { line * columns + i };
        let mut all = if loads { [0; MOST] } else { gather(warp, &places, element, rows * columns) };
        for line in 0..lines {
            let at = start + (line * stride * bytes) as u64;
            let Some(at) = (if shared { warp.reach_shared(at, bytes) } else { warp.reach(at, bytes) }) else {
                return;
            };
            let last = start + ((line * stride + length - 1) * bytes) as u64;
            if (if shared { warp.reach_shared(last, bytes) } else { warp.reach(last, bytes) }).is_none() {
                return;
            }
            // Which lane takes what is not said: none that touches memory by itself.
            warp.touch(LANES, at, length * bytes, access);
            for i in 0..length {
                // SAFETY: both ends of the line were checked just above.
                unsafe {
                    match (loads, bytes) {
                        (true, 2) => all[place_of(line, i)] = u32::from(at.cast::<u16>().add(i).read()),
                        (true, _) => all[place_of(line, i)] = at.cast::<u32>().add(i).read(),
                        (false, 2) => at.cast::<u16>().add(i).write(all[place_of(line, i)] as u16),
                        (false, _) => at.cast::<u32>().add(i).write(all[place_of(line, i)]),
                    }
                }
            }
        }
        if loads {
            scatter(warp, &places, element, rows * columns, &all);
        }
    }))
}

/// `z += x y`, row by row.
fn multiply(x: &[f32], y: &[f32], z: &mut [f32], (m, n, k): (usize, usize, usize)) {
    for i in 0..m {
        let row = &mut z[i * n..(i + 1) * n];
        for l in 0..k {
            let a = x[i * k + l];
            for (z, y) in row.iter_mut().zip(&y[l * n..(l + 1) * n]) {
                *z += a * y;
            }
        }
    }
}

/// `mma.sync`.
pub fn mma(parts: &[&str], vectors: Vec<Vec<Place>>) -> Result<Step, String> {
    let (m, n, k) = shape(parts)?;
    let types: Vec<Element> = parts.iter().rev().map_while(|p| Element::of(p).ok()).collect();
    let [c_type, b_type, a_type, d_type] = types[..] else { return Err(format!("types {types:?}")) };
    if (m, n) != (16, 8) || a_type != b_type || !parts.contains(&"row") || !parts.contains(&"col") {
        return Err("a product that is not known".into());
    }
    let packed = a_type.packed();
    // Columns that one register's four lanes cover.
    let span = 4 * packed;
    if k % span != 0 || k / span > 2 {
        return Err(format!("k = {k}"));
    }
    let [d, a, b, c] = <[Vec<Place>; 4]>::try_from(vectors).map_err(|_| "four matrices are needed")?;
    Ok(Box::new(move |warp, mask| {
        warp.together(u32::MAX, mask);
        let (mut x, mut y, mut z) = ([0f32; 16 * 16], [0f32; 16 * 8], [0f32; 16 * 8]);
        for lane in 0..LANES {
            let (group, rest) = (lane >> 2, lane & 3);
            for slot in 0..a.len() * packed {
                let (register, half) = (slot / packed, slot % packed);
                let row = group + 8 * (register & 1);
                let column = rest * packed + half + span * (register >> 1);
                x[row * k + column] = a_type.wide(get(warp, &a, a_type, lane, slot));
            }
            for slot in 0..b.len() * packed {
                let (register, half) = (slot / packed, slot % packed);
                y[(rest * packed + half + span * register) * 8 + group] =
                    a_type.wide(get(warp, &b, a_type, lane, slot));
            }
            for slot in 0..4 {
                z[result(lane, slot)] = c_type.wide(get(warp, &c, c_type, lane, slot));
            }
        }
        multiply(&x[..m * k], &y[..k * n], &mut z, (m, n, k));
        for lane in 0..LANES {
            for slot in 0..4 {
                set(warp, &d, d_type, lane, slot, d_type.narrow(z[result(lane, slot)]));
            }
        }
    }))
}

/// Where a result's element lies in rows of eight.
fn result(lane: usize, slot: usize) -> usize {
    ((lane >> 2) + 8 * (slot >> 1)) * 8 + (lane & 3) * 2 + (slot & 1)
}

/// `ldmatrix` and `stmatrix`: matrices of 8 by 8 elements of 16 bits.
pub fn matrix(parts: &[&str], places: Vec<Place>, (base, offset): (Place, u64)) -> Result<Step, String> {
    if !parts.contains(&"m8n8") || !parts.contains(&"b16") {
        return Err("matrices of another shape".into());
    }
    let transposed = parts.contains(&"trans");
    let loads = parts[0] == "ldmatrix";
    // Without a space the address is generic.
    let shared = parts.contains(&"shared");
    let access = if loads { Access::Read } else { Access::Write };
    Ok(Box::new(move |warp, mask| {
        warp.together(u32::MAX, mask);
        for (number, place) in places.iter().enumerate() {
            let mut rows = [std::ptr::null_mut::<u16>(); 8];
            for (row, pointer) in rows.iter_mut().enumerate() {
                let at = read(warp, base, number * 8 + row).wrapping_add(offset);
                let Some(at) = (if shared { warp.reach_shared(at, 16) } else { warp.reach(at, 16) }) else {
                    return;
                };
                *pointer = at.cast();
            }
            for lane in 0..LANES {
                let mut value = if loads { 0 } else { read(warp, *place, lane) as u32 };
                for half in 0..2 {
                    let (i, j) = (lane >> 2, (lane & 3) * 2 + half);
                    let (i, j) = if transposed { (j, i) } else { (i, j) };
                    // Whose value it is, not who gave the row's address.
                    warp.touch(lane, rows[i].wrapping_add(j).cast(), 2, access);
                    // SAFETY: every row has 16 bytes, checked above.
                    unsafe {
                        if loads {
                            value |= u32::from(rows[i].add(j).read()) << (16 * half);
                        } else {
                            rows[i].add(j).write((value >> (16 * half)) as u16);
                        }
                    }
                }
                if loads {
                    write(warp, *place, lane, u64::from(value));
                }
            }
        }
    }))
}
