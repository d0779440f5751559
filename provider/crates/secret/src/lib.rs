//! Key bytes in locked, non-dumpable memory that is wiped on drop.
