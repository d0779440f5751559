//! The threat model names the tests that hold its answers; each of them must be there.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let model = fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let folders = [
        ("O/", "provider/crates/orchestrator/"),
        ("P/", "provider/crates/edge-protocol/"),
        ("K/", "test/kcp-e2e/tests/e2e/"),
        ("S/", "provider/crates/keystores/"),
        ("D/", "provider/crates/plan/tests/"),
        ("edge/", "edge/"),
        ("provider/", "provider/"),
    ];
    let (mut source, mut named) = (None, 0);
    for row in model.lines().filter(|line| line.starts_with('|')) {
        let held_by = row.trim_end_matches('|').rsplit('|').next().unwrap();
        // In backticks: `FILE: TEST`, then `TEST` for more of the same file. A bare file name stands for all of it.
        for code in held_by.split('`').skip(1).step_by(2) {
            let test = match code.split_once(": ") {
                Some((file, test)) => {
                    let folder = folders.iter().find(|(short, _)| file.starts_with(short));
                    source = folder.map(|(short, folder)| {
                        let path = root.join(folder).join(file.strip_prefix(short).unwrap());
                        fs::read_to_string(&path).unwrap_or_else(|_| panic!("there is no {}", path.display()))
                    });
                    test
                }
                None => code,
            };
            if let Some(source) = source.as_ref().filter(|_| !test.contains(['.', ' '])) {
                assert!(source.contains(&format!("fn {test}(")), "{code} is not there");
                named += 1;
            }
        }
    }
    assert!(named > 30, "only {named} tests are named");
}
