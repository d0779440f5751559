//! OpenKCM provider: the parts that the binary wires together.
