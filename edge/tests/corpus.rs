//! Every parser keeps its promise for the kept corpus and for a few hundred inputs made from it; the fuzzer goes on from
//! there (`fuzz/`).
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../fuzz/targets.rs"]
mod targets;

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn every_target_has_a_program_and_keeps_its_promise_for_its_corpus() {
    for (name, target) in targets::ALL {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/fuzz_targets/{name}.rs"));
        assert!(program.exists(), "{}", program.display());
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name}");
        corpus.iter().for_each(|input| target(input));
    }
}

#[test]
fn every_target_keeps_its_promise_for_changed_inputs() {
    for (name, target) in targets::ALL {
        let seeds = corpus(name);
        let changes =
            proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_usize..4), 0..8);
        let inputs = (prop::sample::select(seeds), changes).prop_map(|(mut input, changes)| {
            for (place, byte, change) in changes {
                let place = place.index(input.len() + 1);
                match change {
                    0 => input.insert(place, byte),
                    1 => input.truncate(place),
                    _ if place < input.len() => input[place] = byte,
                    _ => {}
                }
            }
            input
        });
        let config = Config { cases: 256, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&inputs, |input| {
                target(&input);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
