//! The committed files are what the kinds generate.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

#[test]
fn committed_files_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../apiexport");
    for (name, text) in openkcm_apis::export::files().unwrap() {
        let committed = fs::read_to_string(root.join(&name)).unwrap_or_default();
        assert!(committed == text, "{name}: run `cargo run -p openkcm-apis --bin openkcm-apiexport`");
    }
}

#[test]
fn consumers_may_write_no_status_and_no_tenant() {
    for manifest in openkcm_apis::export::consumer_rights() {
        for rule in manifest["rules"].as_array().into_iter().flatten() {
            for resource in rule["resources"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()) {
                let verbs: Vec<&str> =
                    rule["verbs"].as_array().unwrap().iter().filter_map(|v| v.as_str()).collect();
                assert!(!resource.contains('*') && !verbs.contains(&"*"), "{resource}: {verbs:?}");
                if resource == "tenants" || resource.ends_with("/status") {
                    assert!(
                        verbs.iter().all(|verb| ["get", "list", "watch"].contains(verb)),
                        "{resource}: {verbs:?}"
                    );
                }
            }
        }
    }
}
