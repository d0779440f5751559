//! Placeholder until the table is measured.
fn main() {}
