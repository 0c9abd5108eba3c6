//! Threads for parts of a batch that run side by side on a processor: most of its backend's operations use one thread, and
//! products of several parts in one pool for all would wait for each other.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool for each part. They are one owner's at a time, since parts may wait for each other inside them; given back, they
/// serve the next who asks for as many, and with them the memory that their threads freed.
#[derive(Debug)]
pub struct Pools {
    pools: Vec<ThreadPool>,
    /// Cores that they share.
    cores: usize,
}

/// Pools that nobody owns, those that were given back last at the end.
static FREE: Mutex<Vec<Pools>> = Mutex::new(Vec::new());

/// Threads without an owner that are kept, over the cores: enough for two sizes of a batch in turn.
const KEPT: usize = 2;

fn free() -> MutexGuard<'static, Vec<Pools>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deref for Pools {
    type Target = [ThreadPool];

    fn deref(&self) -> &[ThreadPool] {
        &self.pools
    }
}

impl Drop for Pools {
    fn drop(&mut self) {
        let pools = std::mem::take(&mut self.pools);
        // Taken out of the list, its own would come back here.
        if pools.is_empty() {
            return;
        }
        let (cores, mut surplus) = (self.cores, Vec::new());
        let mut free = free();
        free.push(Self { pools, cores });
        while threads(&free, cores) > KEPT * cores
            && let Some(oldest) = free.iter().position(|pools| pools.cores == cores)
        {
            surplus.push(std::mem::take(&mut free.remove(oldest).pools));
        }
        // Nobody waits for the list while threads end.
        drop(free);
        drop(surplus);
    }
}

/// Threads of the pools that share so many cores.
fn threads(of: &[Pools], cores: usize) -> usize {
    of.iter()
        .filter(|pools| pools.cores == cores)
        .flat_map(|pools| &pools.pools)
        .map(ThreadPool::current_num_threads)
        .sum()
}

/// A pool for each of at most `parts` parts, and no more than cores, each with a share of the cores.
///
/// Fails where the system gives no threads.
pub fn pools(parts: usize) -> Result<Pools, ThreadPoolBuildError> {
    let cores = rayon::current_num_threads();
    let count = cores.min(parts).max(1);
    {
        let mut free = free();
        let known = free.iter().position(|pools| pools.cores == cores && pools.len() == count);
        if let Some(known) = known {
            return Ok(free.swap_remove(known));
        }
    }
    let pool = |_| ThreadPoolBuilder::new().num_threads(cores / count).build();
    Ok(Pools { pools: (0..count).map(pool).collect::<Result<_, _>>()?, cores })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_and_pools_have_one_owner() {
        let machine = ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let of = |parts| machine.install(|| pools(parts).unwrap());
        for (parts, count, each) in [(0, 1, 5), (1, 1, 5), (2, 2, 2), (5, 5, 1), (9, 5, 1)] {
            let pools = of(parts);
            let threads: Vec<_> = pools.iter().map(ThreadPool::current_num_threads).collect();
            assert_eq!(threads, vec![each; count], "{parts} parts");
            let place = |pools: &Pools| std::ptr::from_ref(&pools[0]);
            let (first, other) = (place(&pools), of(parts));
            assert_ne!(first, place(&other), "{parts} parts");
            drop(pools);
            assert_eq!(first, place(&of(parts)), "{parts} parts");
        }
    }

    #[test]
    fn threads_without_an_owner_are_no_more_than_a_few_for_each_core() {
        let machine = ThreadPoolBuilder::new().num_threads(7).build().unwrap();
        let of = |parts| machine.install(|| pools(parts).unwrap());
        let all: Vec<Pools> = (1..8).chain(1..8).map(of).collect();
        assert_eq!(threads(&all, 7), 82);
        drop(all);
        let kept = threads(&free(), 7);
        assert!((7..=KEPT * 7).contains(&kept), "{kept}");
    }
}
