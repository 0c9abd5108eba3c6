//! Blocks, warps and lanes: how a lowered kernel runs on the host.
//!
//! A warp's 32 lanes go through its instructions together. Where they part, those with the smallest program counter go
//! first, so that they meet again where their ways do. Warps take turns at barriers.

mod launch;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use launch::Launch;

use crate::checks::{Access, Checks};

/// Lanes of a warp.
pub const LANES: usize = 32;

/// Work on the lanes of a mask.
pub type Step = Box<dyn Fn(&mut Warp, u32) + Send + Sync>;

/// What an instruction does.
pub enum Action {
    /// Computes or moves, for the lanes in the mask.
    Run(Step),
    /// Goes to another instruction.
    Branch(usize),
    /// Goes to one of several, by a register.
    Table(u32, Vec<usize>),
    /// Waits for the block's other warps.
    Barrier,
    /// Waits for the warp's other lanes.
    WarpBarrier,
    /// Ends the lanes.
    Exit,
}

/// An instruction as it runs.
pub struct Instruction {
    /// The predicate's place, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    /// What it does.
    pub action: Action,
    /// As written, for messages.
    pub text: String,
}

/// What a register holds before the first instruction.
#[derive(Clone, Copy, Debug)]
pub enum Special {
    /// `%tid`
    Thread(usize),
    /// `%ntid`
    Threads(usize),
    /// `%ctaid`
    Block(usize),
    /// `%nctaid`
    Blocks(usize),
    /// `%laneid`
    Lane,
    /// `%warpid`
    WarpId,
    /// `%lanemask_lt`, and the others by name.
    LaneMask(&'static str),
    /// A local variable's address, 64 bits.
    Local(u64),
    /// `%dynamic_smem_size`
    DynamicShared,
    /// `%total_smem_size`
    TotalShared,
    /// Zero: clusters of one block, clocks.
    Zero,
    /// One: sizes of a cluster.
    One,
}

/// A kernel as it runs.
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// Offset and bytes of each parameter.
    pub params: Vec<(usize, usize)>,
    /// Bytes of all parameters.
    pub param_bytes: usize,
    /// Its instructions.
    pub code: Vec<Instruction>,
    /// Bytes of a warp's registers.
    pub register_bytes: usize,
    /// Constants: place, width, bits.
    pub constants: Vec<(u32, usize, u64)>,
    /// Special registers: place, what.
    pub specials: Vec<(u32, Special)>,
    /// Bytes of shared memory that are known before the launch.
    pub shared_bytes: usize,
    /// Bytes of local memory a thread.
    pub local_bytes: usize,
    /// Launches so far.
    pub launches: AtomicU64,
    /// Warp instructions so far.
    pub executed: AtomicU64,
}

/// Where memory may be touched: sorted ranges of addresses.
pub type Ranges = Arc<Vec<(usize, usize)>>;

/// What all warps of a block share.
pub struct Block {
    /// Base of shared memory.
    pub shared: *mut u8,
    /// Its bytes.
    pub shared_bytes: usize,
    /// Kernel parameters.
    pub params: *const u8,
    /// Their bytes.
    pub param_bytes: usize,
}

/// One warp.
pub struct Warp {
    registers: Vec<[u64; 8]>,
    /// The block's memory.
    pub block: Block,
    local: Vec<u64>,
    ranges: Ranges,
    last: (usize, usize),
    /// Threads that were there at the start and have not ended.
    pub live: u32,
    mask: u32,
    pc: usize,
    waiting: Vec<(usize, u32)>,
    nearest: usize,
    /// Why it cannot go on.
    pub fault: Option<(Fault, String)>,
    executed: u64,
    number: usize,
    turn: u32,
    checks: Option<Rc<RefCell<Checks>>>,
}

/// Kinds of faults, as CUDA numbers them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// An address that no allocation has.
    IllegalAddress = 700,
    /// An address that the access's size does not divide.
    Misaligned = 716,
    /// Something that this emulator does not know.
    Unsupported = 719,
}

enum Stop {
    Barrier,
    Done,
    Pause,
}

impl Warp {
    /// The lanes of a register.
    #[inline(always)]
    pub fn lanes<T>(&self, place: u32) -> *mut [T; LANES] {
        debug_assert!(place as usize + size_of::<[T; LANES]>() <= self.registers.len() * 64 + 64);
        (self.registers.as_ptr() as *mut u8).wrapping_add(place as usize).cast()
    }

    /// A predicate's lanes, as a mask.
    #[inline(always)]
    pub fn predicate(&self, place: u32) -> u32 {
        // SAFETY: predicates have places of four bytes and more.
        unsafe { *(self.registers.as_ptr() as *const u8).add(place as usize).cast::<u32>() }
    }

    /// Sets a predicate for the lanes in `mask`.
    #[inline(always)]
    pub fn set_predicate(&mut self, place: u32, mask: u32, bits: u32) {
        // SAFETY: as above.
        let at = unsafe { &mut *(self.registers.as_ptr() as *mut u8).add(place as usize).cast::<u32>() };
        *at = (*at & !mask) | (bits & mask);
    }

    /// Keeps the first fault.
    pub fn fail(&mut self, fault: Fault, why: String) {
        if self.fault.is_none() {
            self.fault = Some((fault, why));
        }
    }

    /// Checks an address in global, generic or local memory.
    #[inline(always)]
    pub fn reach(&mut self, address: u64, bytes: usize) -> Option<*mut u8> {
        let at = address as usize;
        if !at.is_multiple_of(bytes.min(16)) {
            self.fail(Fault::Misaligned, format!("{bytes} bytes at {at:#x}"));
            return None;
        }
        if at >= self.last.0 && at.saturating_add(bytes) <= self.last.1 {
            return Some(at as *mut u8);
        }
        self.reach_slowly(at, bytes)
    }

    #[cold]
    fn reach_slowly(&mut self, at: usize, bytes: usize) -> Option<*mut u8> {
        let shared = self.block.shared as usize;
        let local = self.local.as_ptr() as usize;
        let own = [(shared, shared + self.block.shared_bytes), (local, local + self.local.len() * 8)];
        let i = self.ranges.partition_point(|range| range.0 <= at);
        let known = i.checked_sub(1).map(|i| self.ranges[i]);
        for range in own.into_iter().chain(known) {
            if at >= range.0 && at.saturating_add(bytes) <= range.1 {
                self.last = range;
                return Some(at as *mut u8);
            }
        }
        self.fail(Fault::IllegalAddress, format!("{bytes} bytes at {at:#x}"));
        None
    }

    /// Checks an address in shared memory.
    #[inline(always)]
    pub fn reach_shared(&mut self, offset: u64, bytes: usize) -> Option<*mut u8> {
        let at = offset as usize;
        if !at.is_multiple_of(bytes.min(16)) {
            self.fail(Fault::Misaligned, format!("{bytes} bytes at {at} of shared memory"));
            return None;
        }
        // Below the start is far beyond the end.
        if at.saturating_add(bytes) > self.block.shared_bytes {
            self.fail(
                Fault::IllegalAddress,
                format!("{bytes} bytes at {at} of {} bytes of shared memory", self.block.shared_bytes),
            );
            return None;
        }
        Some(self.block.shared.wrapping_add(at))
    }

    /// Tells the checks that a lane touches memory, which was reached before.
    #[inline(always)]
    pub fn touch(&self, lane: usize, at: *const u8, bytes: usize, access: Access) {
        if let Some(checks) = &self.checks {
            self.note(checks, lane, at as usize, bytes, access);
        }
    }

    #[cold]
    fn note(&self, checks: &RefCell<Checks>, lane: usize, at: usize, bytes: usize, access: Access) {
        let inside = |start: usize, bytes: usize| (start..start + bytes).contains(&at);
        if inside(self.local.as_ptr() as usize, self.local.len() * 8) {
            return;
        }
        let start = self.block.shared as usize;
        let shared = inside(start, self.block.shared_bytes);
        let at = if shared { at - start } else { at };
        checks.borrow_mut().touch(shared, at, bytes, (self.number, lane, self.turn), self.pc, access);
    }

    /// Tells the checks which lanes an instruction takes for present, of those that have not ended.
    #[inline(always)]
    pub fn together(&self, expected: u32, here: u32) {
        if let Some(checks) = &self.checks {
            checks.borrow_mut().absent(expected & self.live, here, self.pc);
        }
    }

    fn switch(&mut self, pc: usize) {
        // Whoever stands at the smallest program counter goes on; all that stand there go together.
        if self.mask != 0 {
            self.waiting.push((pc, self.mask));
        }
        let first = self.waiting.iter().map(|group| group.0).min().unwrap_or(usize::MAX);
        self.mask = 0;
        let mask = &mut self.mask;
        self.waiting.retain(|&(at, lanes)| {
            if at == first {
                *mask |= lanes;
            }
            at != first
        });
        self.pc = first;
        self.nearest = self.waiting.iter().map(|group| group.0).min().unwrap_or(usize::MAX);
    }

    fn run(&mut self, code: &[Instruction], mut quantum: u64) -> Stop {
        loop {
            if self.pc >= self.nearest {
                self.switch(self.pc);
            }
            if quantum == 0 {
                return Stop::Pause;
            }
            quantum -= 1;
            self.executed += 1;
            let instruction = &code[self.pc];
            let mut mask = self.mask;
            if let Some((place, negated)) = instruction.guard {
                let bits = self.predicate(place);
                mask &= if negated { !bits } else { bits };
            }
            match &instruction.action {
                Action::Run(step) => {
                    if mask != 0 {
                        step(self, mask);
                        if let Some((_, why)) = &mut self.fault {
                            why.push_str(&format!(" in `{}`", instruction.text));
                            return Stop::Done;
                        }
                    }
                    self.pc += 1;
                }
                Action::Branch(target) => self.branch(*target, mask),
                Action::Table(place, targets) => {
                    // SAFETY: an index has 32 bits.
                    let index = unsafe { *self.lanes::<u32>(*place) };
                    for (i, target) in targets.iter().enumerate() {
                        let going =
                            (0..LANES).filter(|&l| index[l] as usize == i).fold(0, |m, l| m | 1 << l) & mask;
                        if going != 0 {
                            self.waiting.push((*target, going));
                        }
                    }
                    self.mask &= !mask;
                    self.switch(self.pc + 1);
                }
                Action::Barrier => {
                    self.together(u32::MAX, mask);
                    self.pc += 1;
                    return Stop::Barrier;
                }
                Action::WarpBarrier => {
                    self.together(u32::MAX, mask);
                    self.turn += 1;
                    self.pc += 1;
                }
                Action::Exit => {
                    self.live &= !mask;
                    self.mask &= !mask;
                    if self.live == 0 {
                        return Stop::Done;
                    }
                    let next = self.pc + 1;
                    if self.mask == 0 { self.switch(next) } else { self.pc = next }
                }
            }
        }
    }

    #[inline(always)]
    fn branch(&mut self, target: usize, mask: u32) {
        if mask == self.mask {
            self.pc = target;
        } else if mask == 0 {
            self.pc += 1;
        } else {
            self.waiting.push((target, mask));
            self.mask &= !mask;
            self.nearest = self.nearest.min(target);
            self.pc += 1;
        }
    }
}

/// Atomic operations of different threads of the host take turns.
pub static ATOMICS: std::sync::Mutex<()> = std::sync::Mutex::new(());
