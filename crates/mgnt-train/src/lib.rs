//! mgnt-train
