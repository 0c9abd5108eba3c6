//! mgnt-weights
