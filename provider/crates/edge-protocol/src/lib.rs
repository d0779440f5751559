//! What provider, Crypto Edges and applications say to each other.
