//! mgnt-decode
