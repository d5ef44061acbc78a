//! The svcnat binary.

fn main() {}
