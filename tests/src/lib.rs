//! End-to-end tests of the `mgnt` binary live in `tests/`.
