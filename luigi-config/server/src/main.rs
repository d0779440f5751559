//! Serves the console's micro-frontend with a strict content security policy.

fn main() {}
