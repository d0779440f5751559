//! What a scenario is written in.
