//! mgnt-data
