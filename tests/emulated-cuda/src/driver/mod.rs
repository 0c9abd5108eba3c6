//! The functions of libcuda that Burn's backend calls, by NVIDIA's "CUDA Driver API".
//!
//! Every call runs to its end before it returns, which is one of the orders that streams allow.

mod device;
mod library;
mod memory;
mod modules;
mod streams;

use std::alloc::Layout;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{c_int, c_uint};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::machine::{Fault, Kernel, Launch, Ranges};

type Status = c_int;
const SUCCESS: Status = 0;
const INVALID_VALUE: Status = 1;
const OUT_OF_MEMORY: Status = 2;
const INVALID_PTX: Status = 218;
const NOT_FOUND: Status = 500;
const CAPTURE_UNSUPPORTED: Status = 900;
const CAPTURE_INVALIDATED: Status = 901;

/// More devices than anybody asks for.
const MOST_DEVICES: usize = 8;

/// Of what `cuMemAlloc` gives.
const ALIGNMENT: usize = 512;

/// What a stream is asked to do.
enum Work {
    Launch(Launch),
    Product(library::Product),
    Copy { to: usize, from: usize, bytes: usize },
    Fill { to: usize, value: u8, bytes: usize },
    Memory,
}

struct Capture {
    stream: usize,
    works: Vec<Work>,
    broken: bool,
}

#[derive(Clone, Copy)]
struct Allocation {
    bytes: usize,
    device: usize,
}

#[derive(Default)]
struct State {
    /// Nanoseconds that a device might have taken for what was launched.
    clock: u64,
    allocations: BTreeMap<usize, Allocation>,
    /// Where the host's allocation of each starts.
    bases: HashMap<usize, usize>,
    /// What the kernels of a device reach: its own memory.
    ranges: [Ranges; MOST_DEVICES],
    held: [usize; MOST_DEVICES],
    /// The most that one device held.
    peak: usize,
    capture: Option<Capture>,
    kernels: Vec<Arc<Kernel>>,
    next_stream: usize,
    counts: BTreeMap<&'static str, u64>,
    sticky: Status,
    told: HashSet<String>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static REPLAYED: AtomicU64 = AtomicU64::new(0);

struct Locked(MutexGuard<'static, Option<State>>);

impl std::ops::Deref for Locked {
    type Target = State;
    fn deref(&self) -> &State {
        self.0.as_ref().expect("set by `state`")
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut State {
        self.0.as_mut().expect("set by `state`")
    }
}

fn state() -> Locked {
    let mut guard = STATE.lock().unwrap_or_else(PoisonError::into_inner);
    guard.get_or_insert_with(|| State { next_stream: 0x1000, ..State::default() });
    Locked(guard)
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn memory_limit() -> usize {
    setting("EMULATED_CUDA_MEMORY_GIB", 16) << 30
}

static STARTED: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
static TRACE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| setting("EMULATED_CUDA_TRACE", 0) == 1);
static CHECK: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| setting("EMULATED_CUDA_CHECK", 0) == 1);
static RUN: std::sync::LazyLock<Run> =
    std::sync::LazyLock::new(|| match std::env::var("EMULATED_CUDA_RUN") {
        Ok(value) if value == "0" => Run::OneBlock,
        Ok(value) if value == "none" => Run::Nothing,
        _ => Run::All,
    });

/// How much of what is launched is run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    All,
    OneBlock,
    /// What is left is the time of the host that launches.
    Nothing,
}

/// Compute capability, times ten.
fn capability() -> usize {
    setting("EMULATED_CUDA_CAPABILITY", 80)
}

impl State {
    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn changed(&mut self, device: usize) {
        let own = self.allocations.iter().filter(|(_, allocation)| allocation.device == device);
        self.ranges[device] =
            Arc::new(own.map(|(&start, allocation)| (start, start + allocation.bytes)).collect());
    }

    fn allocate(&mut self, bytes: usize) -> Result<usize, Status> {
        let device = device::current();
        if self.held[device] + bytes > memory_limit() {
            return Err(OUT_OF_MEMORY);
        }
        // With more alignment than the system gives, the allocator would touch every page.
        let layout = Layout::from_size_align(bytes + ALIGNMENT, 16).map_err(|_| INVALID_VALUE)?;
        // SAFETY: the layout has bytes.
        let base = unsafe { std::alloc::alloc_zeroed(layout) };
        if base.is_null() {
            return Err(OUT_OF_MEMORY);
        }
        let at = base.wrapping_add(base.align_offset(ALIGNMENT));
        self.bases.insert(at as usize, base as usize);
        if setting("EMULATED_CUDA_POISON", 0) == 1 {
            // Memory holds anything at first: all bits set are no numbers.
            // SAFETY: just allocated.
            unsafe { at.write_bytes(0xff, bytes) };
        }
        self.held[device] += bytes;
        self.peak = self.peak.max(self.held[device]);
        self.allocations.insert(at as usize, Allocation { bytes, device });
        self.changed(device);
        Ok(at as usize)
    }

    fn release(&mut self, at: usize) -> Status {
        let Some(Allocation { bytes, device }) = self.allocations.remove(&at) else { return INVALID_VALUE };
        self.held[device] -= bytes;
        self.changed(device);
        if let (Ok(layout), Some(base)) =
            (Layout::from_size_align(bytes + ALIGNMENT, 16), self.bases.remove(&at))
        {
            // SAFETY: allocated with this layout, and out of the tables now.
            unsafe { std::alloc::dealloc(base as *mut u8, layout) };
        }
        SUCCESS
    }

    fn holds(&self, at: usize, bytes: usize) -> bool {
        let nearest = self.allocations.range(..=at).next_back();
        nearest.is_some_and(|(&start, allocation)| at + bytes <= start + allocation.bytes)
    }

    /// What kernels of the current device reach.
    fn reached(&self) -> &Ranges {
        &self.ranges[device::current()]
    }

    /// Does the work, or records it.
    fn submit(&mut self, stream: usize, work: Work) -> Status {
        if self.sticky != SUCCESS {
            return self.sticky;
        }
        if let Some(capture) = &mut self.capture
            && capture.stream == stream
        {
            capture.works.push(work);
            return SUCCESS;
        }
        self.perform(&work)
    }

    fn perform(&mut self, work: &Work) -> Status {
        match work {
            Work::Launch(launch) if *RUN == Run::Nothing => {
                launch.kernel.launches.fetch_add(1, Ordering::Relaxed);
                SUCCESS
            }
            Work::Launch(launch) => {
                let began = Instant::now();
                let result =
                    if *CHECK { self.check(launch) } else { launch.run(self.reached(), *RUN == Run::All) };
                if *TRACE {
                    let (grid, block, name) = (launch.grid, launch.block, &launch.kernel.name);
                    eprintln!("{:9.3} ms {grid:?} {block:?} {name}", began.elapsed().as_secs_f64() * 1e3);
                }
                match result {
                    Ok(executed) => {
                        // A guess, for whoever compares kernels: so many instructions a nanosecond, and a launch.
                        self.clock += 3_000 + executed / 800;
                        SUCCESS
                    }
                    // A block alone finds what the others would have written to be anything.
                    Err(_) if *RUN != Run::All => SUCCESS,
                    Err((fault, why)) => {
                        eprintln!("emulated CUDA: {}: {why}", launch.kernel.name);
                        self.sticky = fault as Status;
                        self.sticky
                    }
                }
            }
            Work::Product(product) => {
                self.count("products of the library");
                let began = Instant::now();
                let result = if *RUN == Run::All { product.run(self.reached()) } else { Ok(()) };
                if *TRACE {
                    eprintln!("{:9.3} ms {product}", began.elapsed().as_secs_f64() * 1e3);
                }
                match result {
                    Ok(()) => {
                        // As if half of what warps do there were products of 16 x 8 x 16.
                        self.clock += 3_000 + product.flops() / 4096 / 400;
                        SUCCESS
                    }
                    Err(why) => {
                        eprintln!("emulated CUDA: {product}: {why}");
                        self.sticky = 700;
                        self.sticky
                    }
                }
            }
            Work::Copy { to, from, bytes } => {
                // SAFETY: device ends were checked by `copy`; host ends are the caller's.
                unsafe { std::ptr::copy(*from as *const u8, *to as *mut u8, *bytes) };
                SUCCESS
            }
            Work::Fill { to, value, bytes } => {
                // SAFETY: checked by the caller.
                unsafe { (*to as *mut u8).write_bytes(*value, *bytes) };
                SUCCESS
            }
            Work::Memory => SUCCESS,
        }
    }

    /// Runs a launch under checks, and tells what they find, once of each kernel.
    fn check(&mut self, launch: &Launch) -> Result<u64, (Fault, String)> {
        let (executed, found) = launch.check(self.reached())?;
        for finding in found {
            let line = format!("{}: {finding}", launch.kernel.name);
            if !self.told.contains(&line) {
                eprintln!("emulated CUDA: {line}");
                self.count("findings of checks");
                self.told.insert(line);
            }
        }
        Ok(executed)
    }

    fn copy(&mut self, stream: usize, to: (usize, bool), from: (usize, bool), bytes: usize) -> Status {
        for (at, device) in [to, from] {
            if device && bytes > 0 && !self.holds(at, bytes) {
                eprintln!("emulated CUDA: a copy of {bytes} bytes at {at:#x}, which no allocation has");
                return INVALID_VALUE;
            }
        }
        if *RUN == Run::Nothing && !to.1 {
            // What would be there was not computed, and who reads it may want a number.
            return self.submit(stream, Work::Fill { to: to.0, value: 0, bytes });
        }
        self.submit(stream, Work::Copy { to: to.0, from: from.0, bytes })
    }
}

extern "C" fn at_exit() {
    let Ok(path) = std::env::var("EMULATED_CUDA_LOG") else { return };
    let Ok(mut file) = std::fs::File::create(path) else { return };
    let state = state();
    let _ = writeln!(file, "peak bytes {}", state.peak);
    let _ = writeln!(file, "launches in replays {}", REPLAYED.load(Ordering::Relaxed));
    for (name, count) in &state.counts {
        let _ = writeln!(file, "{name} {count}");
    }
    let mut kernels: Vec<_> = state.kernels.iter().collect();
    kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.executed.load(Ordering::Relaxed)));
    for kernel in kernels {
        let (executed, launches) =
            (kernel.executed.load(Ordering::Relaxed), kernel.launches.load(Ordering::Relaxed));
        let _ = writeln!(file, "{executed:>14} {launches:>8} {:>7} {}", kernel.code.len(), kernel.name);
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;

/// # Safety
///
/// As the driver's.
unsafe fn set<T>(to: *mut T, value: T) -> Status {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: by the caller.
    unsafe { to.write(value) };
    SUCCESS
}

macro_rules! fine {
    ($($name:ident($($type:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($(_: $type),*) -> Status {
                SUCCESS
            }
        )*
    };
}

fine! {
    cuInit(c_uint);
    cuDevicePrimaryCtxRelease_v2(c_int);
    cuStreamDestroy_v2(usize);
    cuStreamWaitEvent(usize, usize, c_uint);
    cuEventQuery(usize);
    cuFuncSetCacheConfig(usize, c_int);
    cuModuleUnload(usize);
    cuGraphUpload(usize, usize);
    cuCtxSynchronize();
}
