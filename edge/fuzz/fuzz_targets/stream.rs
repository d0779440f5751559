//! However a stream arrives, its bytes come out in order and cut alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openkcm_edge::envelope::Chunker;

fuzz_target!(|input: (u8, Vec<Vec<u8>>)| {
    let (size, parts) = input;
    let size = usize::from(size) + 1;
    let mut chunker = Chunker::new(size);
    let mut chunks = Vec::new();
    for part in &parts {
        let mut part = part.as_slice();
        while let Some(chunk) = chunker.push(&mut part) {
            assert_eq!(chunk.len(), size);
            chunks.push(chunk);
        }
    }
    let last = chunker.finish();
    assert!(last.len() <= size && (!last.is_empty() || chunks.is_empty()));
    chunks.push(last);
    assert_eq!(chunks.concat(), parts.concat());
});
