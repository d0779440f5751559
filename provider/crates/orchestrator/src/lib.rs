//! Hands key versions to Crypto Edges under leases and takes them back.
