//! What a kernel may not rely on, looked for while it runs: order among warps and blocks where nothing makes one, and
//! lanes that are taken for present.
//!
//! Every two bytes of shared and global memory know who wrote them last and who read them since. Of two accesses of which one
//! writes, lanes of a warp need a warp's barrier between them, warps of a block the block's, and blocks of a launch can have
//! nothing; atomic operations need nothing among themselves. Whoever runs warps one after the other sees right results in either case.

use std::collections::{BTreeSet, HashMap};

/// Bytes that share a cell. Single bytes are not looked at.
const GRAIN: usize = 2;
const PAGE: usize = 1 << 12;

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    Read,
    /// It is written.
    Write,
    /// It is read in one piece with others.
    OrderedRead,
    /// It is written so.
    OrderedWrite,
    /// Both.
    Update,
}

impl Access {
    fn reads(self) -> bool {
        !matches!(self, Self::Write | Self::OrderedWrite)
    }

    fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::OrderedRead)
    }

    fn is_ordered(self) -> bool {
        !matches!(self, Self::Read | Self::Write)
    }
}

/// Who touched memory, when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Touch {
    /// One more than the block's number; zero is nobody.
    block: u32,
    /// Barriers of the block until then.
    epoch: u32,
    /// Barriers of the warp until then.
    turn: u32,
    warp: u8,
    lane: u8,
    pc: u32,
}

/// What is between two touches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Between {
    Order,
    Lanes,
    Warps,
    Blocks,
}

impl Touch {
    fn against(&self, other: &Self) -> Between {
        if self.block == 0 {
            Between::Order
        } else if self.block != other.block {
            Between::Blocks
        } else if self.epoch != other.epoch {
            Between::Order
        } else if self.warp != other.warp {
            Between::Warps
        } else if self.lane != other.lane && self.turn == other.turn {
            Between::Lanes
        } else {
            Between::Order
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Cell {
    writer: Touch,
    readers: Farthest,
    /// Of atomic operations that write, which race with all but themselves, since the last write that was none.
    atomics: Farthest,
    /// Of those that read, which race with writes that are none.
    ordered_readers: Farthest,
}

/// Two touches that are as far from each other as any: whoever races with one of all races with one of these.
#[derive(Clone, Copy, Default)]
struct Farthest([Touch; 2]);

impl Farthest {
    fn add(&mut self, now: Touch) {
        let [first, second] = &mut self.0;
        match first.against(&now) {
            Between::Order => *first = now,
            far if far > first.against(second) || second.against(&now) == Between::Order => *second = now,
            _ => {}
        }
    }
}

impl Cell {
    fn add(&mut self, now: Touch, access: Access) {
        match access {
            Access::Read => self.readers.add(now),
            Access::OrderedRead => self.ordered_readers.add(now),
            Access::OrderedWrite | Access::Update => self.atomics.add(now),
            Access::Write => *self = Self { writer: now, ..Self::default() },
        }
    }

    fn is_written(&self) -> bool {
        self.writer.block != 0 || self.atomics.0[0].block != 0
    }

    /// Whom the access races with, and how far that is.
    fn race(&self, now: Touch, access: Access) -> Option<(Touch, Between, &'static str)> {
        let readers = self.readers.0.map(|reader| (reader, "read")).into_iter();
        let ordered_readers = self.ordered_readers.0.map(|reader| (reader, "read")).into_iter();
        let atomics = self.atomics.0.map(|atomic| (atomic, "wrote")).into_iter();
        std::iter::once((self.writer, "wrote"))
            .chain(readers.filter(|_| access.writes()))
            .chain(ordered_readers.filter(|_| access == Access::Write))
            .chain(atomics.filter(|_| !access.is_ordered()))
            .map(|(other, did)| (other, other.against(&now), did))
            .filter(|(_, between, _)| *between != Between::Order)
            .max_by_key(|(_, between, _)| *between)
    }
}

/// What was found, by places in the code: later ones of the same kind are not told again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// What is wrong.
    pub what: String,
    /// The instruction, and the one before it that it races with.
    pub at: (usize, Option<usize>),
}

/// The checks of one launch.
#[derive(Default)]
pub struct Checks {
    shared: Vec<Cell>,
    global: HashMap<usize, Box<[Cell]>>,
    block: u32,
    epoch: u32,
    found: BTreeSet<Finding>,
}

impl Checks {
    /// A block begins, with so many bytes of shared memory.
    pub fn block(&mut self, shared_bytes: usize) {
        self.block += 1;
        self.epoch = 0;
        self.shared.clear();
        self.shared.resize(shared_bytes.div_ceil(GRAIN), Cell::default());
    }

    /// All warps of the block have come to a barrier.
    pub fn barrier(&mut self) {
        self.epoch += 1;
    }

    /// Memory is touched: `shared` from the start of shared memory, else by its address.
    pub fn touch(
        &mut self,
        shared: bool,
        at: usize,
        bytes: usize,
        (warp, lane, turn): (usize, usize, u32),
        pc: usize,
        access: Access,
    ) {
        let now = Touch {
            block: self.block,
            epoch: self.epoch,
            turn,
            warp: warp as u8,
            lane: lane as u8,
            pc: pc as u32,
        };
        // Single bytes race with none here, but they are written.
        if shared && bytes < GRAIN && access.writes() && !self.shared[at / GRAIN].is_written() {
            self.shared[at / GRAIN].writer = now;
        }
        for at in (at..at + bytes - bytes % GRAIN).step_by(GRAIN) {
            let cell = if shared {
                &mut self.shared[at / GRAIN]
            } else {
                let page = self
                    .global
                    .entry(at / PAGE)
                    .or_insert_with(|| vec![Cell::default(); PAGE / GRAIN].into_boxed_slice());
                &mut page[at % PAGE / GRAIN]
            };
            if let Some((other, between, did)) = cell.race(now, access) {
                let who = match between {
                    Between::Blocks => "another block",
                    Between::Warps => "another warp",
                    _ => "another lane of the warp",
                };
                let does = if access.writes() { "writes" } else { "reads" };
                let space = if shared { "shared" } else { "global" };
                self.found.insert(Finding {
                    what: format!("{does} {space} memory that {who} {did}, with nothing between"),
                    at: (pc, Some(other.pc as usize)),
                });
            }
            // A maximum, for one, passes over what is no number.
            if shared && access.reads() && !cell.is_written() {
                let what = "reads shared memory that nobody wrote".into();
                self.found.insert(Finding { what, at: (pc, None) });
            }
            cell.add(now, access);
        }
    }

    /// Lanes are taken for present that are elsewhere.
    pub fn absent(&mut self, expected: u32, here: u32, pc: usize) {
        if expected & !here != 0 {
            let what = format!("lanes {expected:#x} are to come here together, {here:#x} do");
            self.found.insert(Finding { what, at: (pc, None) });
        }
    }

    /// What was found.
    pub fn found(self) -> BTreeSet<Finding> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};
    use std::sync::Arc;

    use crate::lower::lower;
    use crate::machine::{Launch, Ranges};
    use crate::ptx;

    /// What is found of a kernel in so many blocks of two warps, whose parameter is the address of 4 KiB.
    fn found(blocks: u32, body: &str) -> BTreeSet<String> {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry f(.param .u64 p)\n{{\n\
             .shared .align 16 .b8 s[512]; .reg .b64 %d<9>; .reg .b32 %r<9>; .reg .pred %p<4>;\n\
             mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; shl.b32 %r3, %r1, 2; xor.b32 %r4, %r3, 128; xor.b32 %r5, %r3, 4;\n\
             {body}\nret;\n}}\n"
        );
        let parsed = ptx::parse(&text).unwrap();
        let kernel = Arc::new(lower(&parsed.entries[0], &HashMap::new()).unwrap());
        let memory = vec![0u64; 512];
        let at = memory.as_ptr() as usize;
        let ranges: Ranges = Arc::new(vec![(at, at + 4096)]);
        let params = (at as u64).to_le_bytes().to_vec();
        let launch = Launch { kernel, grid: [blocks, 1, 1], block: [64, 1, 1], dynamic_shared: 0, params };
        launch.check(&ranges).unwrap().1
    }

    fn tells(blocks: u32, body: &str, words: &str) {
        let found = found(blocks, body);
        assert!(found.iter().any(|line| line.contains(words)), "{found:?}");
    }

    #[test]
    fn warps_need_the_blocks_barrier() {
        let (store, load) = ("st.shared.u32 [%r3], %r1;", "ld.shared.u32 %r6, [%r4];");
        tells(1, &format!("{store} {load}"), "reads shared memory that another warp wrote");
        tells(1, &format!("{load} {store}"), "writes shared memory that another warp read");
        tells(1, &format!("{store} bar.warp.sync -1; {load}"), "another warp");
        tells(1, "st.shared.u32 [0], %r1;", "another");
        assert!(found(2, &format!("{store} bar.sync 0; {load} bar.sync 0; {store}")).is_empty());
        // Twice over the same memory, with one barrier where two are needed.
        tells(
            1,
            &format!("{store} bar.sync 0; {load} {store}"),
            "writes shared memory that another warp read",
        );
    }

    #[test]
    fn lanes_need_the_warps_barrier() {
        let (store, load) = ("st.shared.u32 [%r3], %r1;", "ld.shared.u32 %r6, [%r5];");
        tells(1, &format!("{store} {load}"), "another lane of the warp wrote");
        assert!(found(1, &format!("{store} bar.warp.sync -1; {load}")).is_empty());
        assert!(found(1, &format!("{store} ld.shared.u32 %r6, [%r3];")).is_empty(), "a lane's own");
        tells(1, "ld.shared.u32 %r6, [%r3];", "reads shared memory that nobody wrote");
    }

    #[test]
    fn blocks_have_nothing_between_them_but_atomic_operations() {
        let address = "ld.param.u64 %d1, [p]; mul.wide.u32 %d2, %r1, 4; add.s64 %d3, %d1, %d2;";
        tells(2, &format!("{address} st.global.u32 [%d3], %r1;"), "global memory that another block wrote");
        assert!(found(1, &format!("{address} st.global.u32 [%d3], %r1;")).is_empty());
        assert!(found(2, &format!("{address} ld.global.u32 %r6, [%d3];")).is_empty());
        assert!(found(2, &format!("{address} red.global.add.u32 [%d1], %r1;")).is_empty());
        tells(2, &format!("{address} red.global.add.u32 [%d1], %r1; ld.global.u32 %r6, [%d1];"), "another");
        // One lane makes it zero, and adds as all do: what the others add before is lost.
        let zero = "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.u32 [0], 0;";
        let add = "red.shared.add.u32 [0], %r1;";
        tells(1, add, "reads shared memory that nobody wrote");
        tells(1, "ld.volatile.shared.u32 %r6, [%r3]; bar.sync 0; ld.shared.u32 %r7, [%r3];", "nobody wrote");
        tells(1, &format!("{zero} {add}"), "writes shared memory that another warp wrote");
        assert!(
            found(1, &format!("{zero} bar.sync 0; {add} bar.sync 0; ld.shared.u32 %r6, [0];")).is_empty()
        );
    }

    #[test]
    fn all_lanes_come_to_a_barrier_and_to_a_shuffle() {
        let half = "setp.lt.u32 %p1, %r1, 16; @!%p1 bra $end;";
        tells(1, &format!("{half} bar.warp.sync -1; $end:"), "0xffff do");
        tells(1, &format!("{half} bar.sync 0; $end:"), "0xffff do");
        tells(1, &format!("{half} shfl.sync.bfly.b32 %r6|%p2, %r1, 1, 31, -1; $end:"), "0xffff do");
        assert!(found(1, &format!("{half} shfl.sync.bfly.b32 %r6|%p2, %r1, 1, 31, 65535; $end:")).is_empty());
        // As CubeCL shuffles: among whoever is there.
        tells(1, &format!("{half} activemask.b32 %r6; $end:"), "0xffff do");
        assert!(
            found(1, "bar.sync 0; bar.warp.sync -1; shfl.sync.bfly.b32 %r6|%p2, %r1, 1, 31, -1;").is_empty()
        );
    }
}
