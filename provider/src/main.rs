//! OpenKCM's provider: publishes the export and reconciles every workspace that binds it.

fn main() {}
