//! OpenKCM's decisions as pure functions: what is there, what time it is, what to do.
