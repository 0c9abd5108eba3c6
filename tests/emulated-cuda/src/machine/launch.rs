//! Launches: blocks that take turns on the host's threads, and their warps at barriers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Block, Fault, Kernel, LANES, Ranges, Special, Stop, Warp};
use crate::checks::Checks;

/// A launch, ready to run.
pub struct Launch {
    /// What runs.
    pub kernel: Arc<Kernel>,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads a block.
    pub block: [u32; 3],
    /// Bytes of shared memory beside what the kernel declares.
    pub dynamic_shared: usize,
    /// Parameters.
    pub params: Vec<u8>,
}

/// Shared memory, as it is aligned on a device.
#[derive(Clone, Copy)]
#[repr(align(128))]
struct Line(#[expect(dead_code, reason = "it is read by its address")] [u64; 16]);

impl Launch {
    /// Runs all blocks one after the other, and looks for what the order hides: what was found, with its instructions.
    pub fn check(&self, ranges: &Ranges) -> Result<(u64, BTreeSet<String>), (Fault, String)> {
        let blocks = self.grid.iter().map(|&n| u64::from(n)).product();
        let checks = Rc::new(RefCell::new(Checks::default()));
        let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
        let executed = self.worker(ranges, blocks, &next, &failed, Some(checks.clone()))?;
        self.count(executed);
        let code = &self.kernel.code;
        let found = checks.take().found().into_iter().map(|finding| {
            let (at, before) = finding.at;
            let after = before.map_or(String::new(), |pc| format!(" (before it: `{}`)", code[pc].text));
            format!("`{}` {}{after}", code[at].text, finding.what)
        });
        Ok((executed, found.collect()))
    }

    fn count(&self, executed: u64) {
        self.kernel.launches.fetch_add(1, Ordering::Relaxed);
        self.kernel.executed.fetch_add(executed, Ordering::Relaxed);
    }

    /// Runs all blocks, on all processors; or the first of them, whose instructions then count for all. Gives the
    /// instructions of warps.
    pub fn run(&self, ranges: &Ranges, all: bool) -> Result<u64, (Fault, String)> {
        let in_grid: u64 = self.grid.iter().map(|&n| u64::from(n)).product();
        let blocks = if all { in_grid } else { 1 };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(blocks as usize);
        let next = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let work = || self.worker(ranges, blocks, &next, &failed, None);
        // A second thread costs more than a small launch does.
        let warps = u64::from(self.block.iter().product::<u32>()).div_ceil(LANES as u64);
        let small = blocks * warps * (self.kernel.code.len() as u64) < 200_000;
        let results: Vec<_> = if threads <= 1 || small {
            vec![work()]
        } else {
            std::thread::scope(|scope| {
                let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
                let mut all = vec![work()];
                all.extend(others.into_iter().map(|other| match other.join() {
                    Ok(result) => result,
                    Err(_) => Err((Fault::Unsupported, "the emulator panicked".into())),
                }));
                all
            })
        };
        let executed = results.into_iter().sum::<Result<u64, _>>()? * if all { 1 } else { in_grid };
        self.count(executed);
        Ok(executed)
    }

    fn worker(
        &self,
        ranges: &Ranges,
        blocks: u64,
        next: &AtomicU64,
        failed: &AtomicBool,
        checks: Option<Rc<RefCell<Checks>>>,
    ) -> Result<u64, (Fault, String)> {
        let kernel = &*self.kernel;
        let threads = self.block.iter().map(|&n| n as usize).product::<usize>();
        let count = threads.div_ceil(LANES);
        let shared_bytes = kernel.shared_bytes.next_multiple_of(128) + self.dynamic_shared;
        let mut shared = vec![Line([0; 16]); shared_bytes.div_ceil(128) + 1];
        let mut warps: Vec<Warp> = (0..count)
            .map(|number| Warp {
                registers: vec![[0; 8]; kernel.register_bytes.div_ceil(64) + 2],
                block: Block {
                    shared: shared.as_mut_ptr().cast(),
                    shared_bytes,
                    params: self.params.as_ptr(),
                    param_bytes: self.params.len(),
                },
                local: vec![0; (kernel.local_bytes.next_multiple_of(16) * LANES).div_ceil(8) + 2],
                ranges: ranges.clone(),
                last: (1, 0),
                live: 0,
                mask: 0,
                pc: 0,
                waiting: Vec::new(),
                nearest: usize::MAX,
                fault: None,
                executed: 0,
                number,
                turn: 0,
                checks: checks.clone(),
            })
            .collect();
        for (number, warp) in warps.iter_mut().enumerate() {
            self.start(warp, number);
        }
        let result = loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= blocks || failed.load(Ordering::Relaxed) {
                break Ok(());
            }
            let (x, y) = (u64::from(self.grid[0]), u64::from(self.grid[1]));
            let position = [number % x, number / x % y, number / x / y].map(|n| n as u32);
            if let Some(checks) = &checks {
                checks.borrow_mut().block(shared_bytes);
                // Shared and local memory hold anything at first: all bits set are no numbers.
                shared.fill(Line([u64::MAX; 16]));
                warps.iter_mut().for_each(|warp| warp.local.fill(u64::MAX));
            }
            if let Err(error) = self.one_block(&mut warps, threads, position) {
                failed.store(true, Ordering::Relaxed);
                break Err((
                    error.0,
                    format!("{} of block {position:?} of {:?} x {:?}", error.1, self.grid, self.block),
                ));
            }
        };
        result.map(|()| warps.iter().map(|warp| warp.executed).sum())
    }

    /// Constants and what does not change from block to block.
    fn start(&self, warp: &mut Warp, number: usize) {
        for &(place, width, bits) in &self.kernel.constants {
            // SAFETY: the lowering gave every constant a place of its width.
            unsafe {
                match width {
                    1 => *warp.lanes::<u8>(place) = [bits as u8; LANES],
                    2 => *warp.lanes::<u16>(place) = [bits as u16; LANES],
                    4 => *warp.lanes::<u32>(place) = [bits as u32; LANES],
                    _ => *warp.lanes::<u64>(place) = [bits; LANES],
                }
            }
        }
        let local = warp.local.as_ptr() as u64;
        let stride = self.kernel.local_bytes.next_multiple_of(16) as u64;
        for &(place, special) in &self.kernel.specials {
            let value = |lane: usize| -> u64 {
                let thread = (number * LANES + lane) as u64;
                let (x, y) = (u64::from(self.block[0]), u64::from(self.block[1]));
                match special {
                    Special::Thread(axis) => [thread % x, thread / x % y, thread / x / y][axis],
                    Special::Threads(axis) => u64::from(self.block[axis]),
                    Special::Blocks(axis) => u64::from(self.grid[axis]),
                    Special::Lane => lane as u64,
                    Special::WarpId => number as u64,
                    Special::LaneMask(name) => u64::from(lane_mask(name, lane)),
                    Special::Local(offset) => local.next_multiple_of(16) + stride * lane as u64 + offset,
                    Special::DynamicShared => self.dynamic_shared as u64,
                    Special::TotalShared => warp.block.shared_bytes as u64,
                    Special::Block(_) | Special::Zero => 0,
                    Special::One => 1,
                }
            };
            let values: [u64; LANES] = std::array::from_fn(value);
            // SAFETY: special registers have places of eight bytes a lane.
            unsafe {
                if matches!(special, Special::Local(_)) {
                    *warp.lanes::<u64>(place) = values;
                } else {
                    *warp.lanes::<u32>(place) = values.map(|v| v as u32);
                }
            }
        }
    }

    fn one_block(
        &self,
        warps: &mut [Warp],
        threads: usize,
        position: [u32; 3],
    ) -> Result<(), (Fault, String)> {
        for (number, warp) in warps.iter_mut().enumerate() {
            let here = (threads - number * LANES).min(LANES);
            warp.live = if here == LANES { u32::MAX } else { (1 << here) - 1 };
            warp.mask = warp.live;
            warp.pc = 0;
            warp.waiting.clear();
            warp.nearest = usize::MAX;
            for &(place, special) in &self.kernel.specials {
                if let Special::Block(axis) = special {
                    // SAFETY: as in `start`.
                    unsafe { *warp.lanes::<u32>(place) = [position[axis]; LANES] };
                }
            }
        }
        let mut done = vec![false; warps.len()];
        let mut idle_turns = 0u32;
        let checks = warps.first().and_then(|warp| warp.checks.clone());
        while !done.iter().all(|&d| d) {
            if let Some(checks) = &checks {
                checks.borrow_mut().barrier();
            }
            // Each warp runs to its next barrier; those that only wait for memory to change are asked again.
            let mut at_barrier = done.clone();
            while !at_barrier.iter().all(|&b| b) {
                for (number, warp) in warps.iter_mut().enumerate() {
                    if at_barrier[number] {
                        continue;
                    }
                    match warp.run(&self.kernel.code, 1 << 16) {
                        Stop::Barrier => at_barrier[number] = true,
                        Stop::Done => {
                            at_barrier[number] = true;
                            done[number] = true;
                        }
                        Stop::Pause => idle_turns += 1,
                    }
                    if let Some(fault) = warp.fault.take() {
                        return Err(fault);
                    }
                }
                if idle_turns > 1 << 20 {
                    return Err((Fault::Unsupported, "no end".into()));
                }
            }
        }
        Ok(())
    }
}

fn lane_mask(name: &str, lane: usize) -> u32 {
    let eq = 1u32 << lane;
    match name {
        "lt" => eq - 1,
        "le" => eq | (eq - 1),
        "gt" => !(eq | (eq - 1)),
        "ge" => !(eq - 1),
        _ => eq,
    }
}
