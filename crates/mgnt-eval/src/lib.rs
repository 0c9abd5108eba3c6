//! mgnt-eval
