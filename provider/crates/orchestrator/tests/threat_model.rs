//! The threat model names the tests that hold its answers; each of them must be there.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let model = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let folders = [
        ("O/", "provider/crates/orchestrator/"),
        ("P/", "provider/crates/edge-protocol/"),
        ("K/", "test/kcp-e2e/tests/e2e/"),
    ];
    let (mut source, mut named) = (String::new(), 0);
    for row in model.lines().filter(|line| line.starts_with('|')) {
        let held_by = row.trim_end_matches('|').rsplit('|').next().unwrap();
        // In backticks: `FILE: TEST`, then `TEST` for more of the same file.
        for code in held_by.split('`').skip(1).step_by(2) {
            let test = match code.split_once(": ") {
                Some((file, test)) => {
                    let (short, folder) =
                        folders.iter().find(|(short, _)| file.starts_with(short)).unwrap_or(&("", ""));
                    let path = root.join(folder).join(file.strip_prefix(short).unwrap());
                    source = fs::read_to_string(&path).unwrap_or_else(|_| format!("no {}", path.display()));
                    test
                }
                None => code,
            };
            assert!(
                source.contains(&format!("fn {test}(")),
                "{code} is not there: {}",
                &source[..source.len().min(60)]
            );
            named += 1;
        }
    }
    assert!(named > 30, "only {named} tests are named");
}
