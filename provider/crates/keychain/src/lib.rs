//! The key hierarchy and its ledger.
