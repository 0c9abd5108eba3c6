//! Where a tensor's gradients from several operations are added up: Burn makes a sum of its own of each that comes, in a pass of
//! its own, though many an operation could have added to what is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Whether there is a gradient already, for each tensor that has a place.
static PLACES: Mutex<BTreeMap<u64, bool>> = Mutex::new(BTreeMap::new());

/// The place of a tensor, for as long as the operation that made it is on the tape and has not gone back.
#[derive(Debug, Clone, Default)]
pub struct Place(Arc<Known>);

#[derive(Debug, Default)]
struct Known(OnceLock<u64>);

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(id) = self.0.get() {
            PLACES.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        }
    }
}

impl Place {
    /// For the tensor of that number on the tape, which no other operation makes.
    pub fn open(&self, id: u64) {
        if self.0.0.set(id).is_ok() {
            PLACES.lock().unwrap_or_else(PoisonError::into_inner).insert(id, false);
        }
    }
}

/// Whether a tensor's gradient is to be added to the one that is there, which the container of gradients then gives out; else it is
/// the first, or the tensor has no place.
pub fn has_some(id: u64) -> bool {
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    places.get_mut(&id).is_some_and(|has_some| std::mem::replace(has_some, true))
}

/// Whether a tensor has a place: its gradients are added up in `f32`.
pub fn is_open(id: u64) -> bool {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_some_from_the_first_time_on_and_is_gone_with_its_operation() {
        let (id, other) = (u64::MAX, u64::MAX - 1);
        assert!(!has_some(id), "it is not open");
        let place = Place::default();
        place.open(id);
        let held = place.clone();
        assert_eq!(
            [has_some(id), has_some(id), has_some(other), has_some(other)],
            [false, true, false, false]
        );
        drop(place);
        assert!(has_some(id), "the tape has it still");
        assert_eq!([is_open(id), is_open(other)], [true, false]);
        drop(held);
        assert!(!is_open(id));
        assert!(!has_some(id) && !has_some(id));
    }
}
