//! Decoders of others, whose panics are a fault of the file that they were given.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Does `work`; `None` if it panicked. Whoever has a million files wants to hear which one it was, and to go on.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    DEPTH.set(DEPTH.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    DEPTH.set(DEPTH.get() - 1);
    done
}

/// Whether this thread is in a decoder whose panic becomes an error about its file: a panic hook has nothing to tell
/// then.
pub fn in_guarded_decoder() -> bool {
    DEPTH.get() > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer_and_leaves_no_trace() {
        assert!(!in_guarded_decoder());
        assert_eq!(guarded(in_guarded_decoder), Some(true));
        assert_eq!(guarded(|| -> u8 { guarded(|| panic!("the inner one")).unwrap_or(3) }), Some(3));
        assert_eq!(guarded(|| -> u8 { panic!("the outer one") }), None);
        assert!(!in_guarded_decoder());
    }
}
