//! Functions over a warp's lanes.

use super::{Place, Step};
use crate::machine::{LANES, Warp};

/// The numbers of the lanes in a mask.
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
}

/// `d = f(a)` in every lane of the mask.
pub fn map1<A: Copy + 'static, D: Copy + 'static>(
    d: Place,
    a: Place,
    f: impl Fn(A) -> D + Send + Sync + 'static,
) -> Step {
    Box::new(move |warp, mask| {
        // SAFETY: places were given by width; `place` checked them.
        unsafe {
            let a = *warp.lanes::<A>(a.at);
            let d = &mut *warp.lanes::<D>(d.at);
            if mask == u32::MAX {
                for i in 0..LANES {
                    d[i] = f(a[i]);
                }
            } else {
                lanes(mask).for_each(|i| d[i] = f(a[i]));
            }
        }
    })
}

/// `d = f(a, b)`
pub fn map2<A: Copy + 'static, B: Copy + 'static, D: Copy + 'static>(
    d: Place,
    a: Place,
    b: Place,
    f: impl Fn(A, B) -> D + Send + Sync + 'static,
) -> Step {
    Box::new(move |warp, mask| {
        // SAFETY: as in `map1`.
        unsafe {
            let a = *warp.lanes::<A>(a.at);
            let b = *warp.lanes::<B>(b.at);
            let d = &mut *warp.lanes::<D>(d.at);
            if mask == u32::MAX {
                for i in 0..LANES {
                    d[i] = f(a[i], b[i]);
                }
            } else {
                lanes(mask).for_each(|i| d[i] = f(a[i], b[i]));
            }
        }
    })
}

/// `d = f(a, b, c)`
pub fn map3<A: Copy + 'static, B: Copy + 'static, C: Copy + 'static, D: Copy + 'static>(
    d: Place,
    a: Place,
    b: Place,
    c: Place,
    f: impl Fn(A, B, C) -> D + Send + Sync + 'static,
) -> Step {
    Box::new(move |warp, mask| {
        // SAFETY: as in `map1`.
        unsafe {
            let a = *warp.lanes::<A>(a.at);
            let b = *warp.lanes::<B>(b.at);
            let c = *warp.lanes::<C>(c.at);
            let d = &mut *warp.lanes::<D>(d.at);
            if mask == u32::MAX {
                for i in 0..LANES {
                    d[i] = f(a[i], b[i], c[i]);
                }
            } else {
                lanes(mask).for_each(|i| d[i] = f(a[i], b[i], c[i]));
            }
        }
    })
}

/// Bits of a lane, widened with zeros.
#[inline(always)]
pub fn read(warp: &Warp, place: Place, lane: usize) -> u64 {
    // SAFETY: places were given by width.
    unsafe {
        match place.width {
            1 => u64::from((*warp.lanes::<u8>(place.at))[lane]),
            2 => u64::from((*warp.lanes::<u16>(place.at))[lane]),
            4 => u64::from((*warp.lanes::<u32>(place.at))[lane]),
            _ => (*warp.lanes::<u64>(place.at))[lane],
        }
    }
}

/// Sets a lane to the low bits.
#[inline(always)]
pub fn write(warp: &mut Warp, place: Place, lane: usize, bits: u64) {
    // SAFETY: as in `read`.
    unsafe {
        match place.width {
            1 => (*warp.lanes::<u8>(place.at))[lane] = bits as u8,
            2 => (*warp.lanes::<u16>(place.at))[lane] = bits as u16,
            4 => (*warp.lanes::<u32>(place.at))[lane] = bits as u32,
            _ => (*warp.lanes::<u64>(place.at))[lane] = bits,
        }
    }
}
