//! Publishes the export in the provider workspace, and upgrades it.
