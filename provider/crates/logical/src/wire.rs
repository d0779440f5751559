//! What comes over the wire.
