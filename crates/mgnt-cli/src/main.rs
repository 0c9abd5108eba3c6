//! mgnt
fn main() {}
