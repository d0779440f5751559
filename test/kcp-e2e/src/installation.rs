//! One published export with its provider and edges.
