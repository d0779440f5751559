//! What the kernel says of a hardened process. Alone in its file: it changes the process that it runs in.
#![allow(clippy::unwrap_used)]

use openkcm_secret::harden_process;
use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

#[test]
fn a_hardened_process_leaves_no_core_dump_and_cannot_be_read_by_its_own_user() {
    harden_process().unwrap();
    let limit = getrlimit(Resource::Core);
    assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
}
