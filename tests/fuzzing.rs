//! What the tests of hostile files share: random bytes, damage, and holding a reader to its promises.
//!
//! Whatever the bytes, a reader answers soon, without a panic and without taking much more memory than the file. Each
//! run takes `MGNT_FUZZ_SECONDS` (1 if unset) from the seed `MGNT_FUZZ_SEED` (a fixed one if unset). Bytes that break a
//! promise are kept in a file that the failure names.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const PEAK_SLACK: usize = 6 << 20;
/// Far above what any of these files needs, also on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(20);

static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);
/// One reader at a time, so that what is counted is its own.
static ALONE: Mutex<()> = Mutex::new(());

/// Counts what is allocated.
struct Counting;

fn count(bytes: isize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may both be there for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    /// Mostly small numbers, some up to 2^bits.
    pub fn small(&mut self, bits: usize) -> usize {
        let bound = 1 << self.below(bits + 1);
        self.below(bound)
    }

    pub fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        start..length.min(start + self.small(9))
    }
}

/// Flips, overwrites, cuts, doubles, moves and mixes bytes; `tail` keeps to the last bytes, where a zip has its index.
pub fn damage(bytes: &mut Vec<u8>, others: &[Vec<u8>], tail: Option<usize>, rng: &mut Rng) {
    const NUMBERS: [u64; 12] =
        [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];
    for _ in 0..1 + rng.small(4) {
        let length = bytes.len();
        let first = tail.map_or(0, |tail| length.saturating_sub(tail));
        let at = first + rng.below(length - first);
        match rng.below(10) {
            0..3 if length > 0 => bytes[at] ^= 1 << rng.below(8),
            3 if length > 0 => bytes[at] = rng.next() as u8,
            4 => {
                let width = 1 << rng.below(4);
                let number = NUMBERS[rng.below(NUMBERS.len())].wrapping_add(rng.below(3) as u64);
                let little = number.to_le_bytes();
                let big = number.to_be_bytes();
                let value = if rng.below(2) == 0 { &little[..width] } else { &big[8 - width..] };
                let end = (at + width).min(length);
                bytes[at..end].copy_from_slice(&value[..end - at]);
            }
            5 => {
                let range = rng.range(length);
                bytes.drain(range);
            }
            6 if rng.below(4) == 0 => bytes.truncate(at),
            7 => {
                let range = rng.range(length);
                let copy = bytes[range].to_vec();
                bytes.splice(at..at, copy);
            }
            8 if !others.is_empty() => {
                let other = &others[rng.below(others.len())];
                let copy = other[rng.range(other.len())].to_vec();
                let end = if rng.below(2) == 0 { at } else { (at + copy.len()).min(length) };
                bytes.splice(at..end, copy);
            }
            9 => {
                let value = rng.next() as u8;
                let range = rng.range(length);
                bytes[range].fill(value);
            }
            _ => {}
        }
    }
}

/// A reader, and what came of it so far.
pub struct Trial<R> {
    what: &'static str,
    peak_factor: usize,
    read: R,
    cases: u64,
    accepted: u64,
    largest_peak: usize,
    slowest: Duration,
}

impl<R, E: Display> Trial<R>
where
    R: Fn(&[u8]) -> Result<(), E>,
{
    /// `read` may take `peak_factor` times the bytes at once, and a constant.
    pub fn new(what: &'static str, peak_factor: usize, read: R) -> Self {
        Self { what, peak_factor, read, cases: 0, accepted: 0, largest_peak: 0, slowest: Duration::ZERO }
    }

    /// Makes cases and reads them until the time is over.
    pub fn run(mut self, mut make: impl FnMut(&mut Rng) -> Vec<u8>) {
        let variable =
            |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().expect("a whole number"));
        let seconds = variable("MGNT_FUZZ_SECONDS").unwrap_or(1);
        let mut rng = Rng(variable("MGNT_FUZZ_SEED").unwrap_or(20_261_125));
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            self.check(&make(&mut rng));
        }
        assert!(self.cases > 0 && self.accepted < self.cases);
        self.tell();
    }

    /// Reads one case.
    pub fn check(&mut self, bytes: &[u8]) {
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = LIVE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let start = Instant::now();
        let answer = catch_unwind(AssertUnwindSafe(|| (self.read)(bytes)));
        let (took, peak) = (start.elapsed(), (PEAK.load(Ordering::Relaxed) - before) as usize);
        self.cases += 1;
        self.accepted += u64::from(matches!(answer, Ok(Ok(()))));
        self.largest_peak = self.largest_peak.max(peak);
        self.slowest = self.slowest.max(took);
        let problem = match answer {
            Err(_) => "a panic".to_owned(),
            Ok(Err(error)) if error.to_string().len() > 4096 => "a very long message".into(),
            _ if peak > bytes.len() * self.peak_factor + PEAK_SLACK => {
                format!("{peak} bytes at once for a file of {}", bytes.len())
            }
            _ if took > TIME_LIMIT => format!("it took {took:?}"),
            _ => return,
        };
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile.{}", self.what));
        std::fs::write(&path, bytes).expect("the bytes are kept");
        panic!("{}, case {}: {problem}; the bytes are in {}", self.what, self.cases, path.display());
    }

    /// Prints what came of it.
    pub fn tell(&self) {
        println!(
            "{}: {} cases, {} accepted, largest peak {} KiB, slowest {:.1?}",
            self.what,
            self.cases,
            self.accepted,
            self.largest_peak >> 10,
            self.slowest
        );
    }
}
