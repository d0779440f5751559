//! What is accepted as a name may be quoted in an error without harm.
#![no_main]

use libfuzzer_sys::fuzz_target;
use openkcm_edge::engine::address;

fuzz_target!(|input: (&str, &str)| {
    let (tenant, key) = input;
    if let Ok(address) = address(tenant, key) {
        assert_eq!(format!("{}/{}", address.namespace, address.name), key);
        assert!(tenant.bytes().chain(key.bytes()).all(|byte| byte.is_ascii_graphic()));
    }
});
