//! The Crypto Edge: keys next to the applications, under a lease.

fn main() {}
