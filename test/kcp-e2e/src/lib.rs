//! Starts a real kcp, real key stores and the built binaries, and drives them.
