//! Threads for parts of a batch that run side by side on a processor: most of its backend's operations use one thread, and
//! products of several parts in one pool for all would wait for each other.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// A pool for each part, shared by all who ask for as many.
pub type Pools = Arc<Vec<ThreadPool>>;

/// A pool for each of at most `parts` parts, and no more than cores, each with a share of the cores. They stay for the next
/// call, and with them the memory that their threads freed.
///
/// Fails where the system gives no threads.
pub fn pools(parts: usize) -> Result<Pools, ThreadPoolBuildError> {
    static POOLS: Mutex<BTreeMap<(usize, usize), Pools>> = Mutex::new(BTreeMap::new());
    let cores = rayon::current_num_threads();
    let count = cores.min(parts).max(1);
    let mut all = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(pools) = all.get(&(cores, count)) {
        return Ok(pools.clone());
    }
    let pool = |_| ThreadPoolBuilder::new().num_threads(cores / count).build();
    let pools = Arc::new((0..count).map(pool).collect::<Result<Vec<_>, _>>()?);
    all.insert((cores, count), pools.clone());
    Ok(pools)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_shared_and_pools_stay() {
        let machine = ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        let of = |parts| machine.install(|| pools(parts).unwrap());
        for (parts, count, each) in [(0, 1, 5), (1, 1, 5), (2, 2, 2), (5, 5, 1), (9, 5, 1)] {
            let pools = of(parts);
            let threads: Vec<_> = pools.iter().map(ThreadPool::current_num_threads).collect();
            assert_eq!(threads, vec![each; count], "{parts} parts");
            assert!(Arc::ptr_eq(&pools, &of(parts)));
        }
    }
}
