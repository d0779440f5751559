//! A header that parses is the only writing of itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openkcm_edge::envelope::{HEADER_LEN, Header};

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = Header::parse(data) {
        assert_eq!(header.to_bytes()[..], data[..HEADER_LEN]);
    }
});
