//! mgnt-model
