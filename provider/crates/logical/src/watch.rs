//! One list+watch.
