//! Nothing but what was encrypted decrypts. The header's commitment is put right, so that the cipher is reached.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use openkcm_edge::{
    clock::BootInstant,
    envelope::{Header, XaesKey, commitment, decrypt_in_place},
    store::Lent,
};
use openkcm_secret::SecretKey;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    static KEY: OnceLock<SecretKey> = OnceLock::new();
    let key = KEY.get_or_init(|| SecretKey::random().expect("memory for a key"));
    let (mut envelope, aad) = input;
    let Ok(mut header) = Header::parse(&envelope) else { return };
    header.commitment = commitment(key, header.key_id, header.version);
    envelope[..openkcm_edge::envelope::HEADER_LEN].copy_from_slice(&header.to_bytes());
    let lent = Lent {
        key,
        key_id: header.key_id,
        version: header.version,
        commitment: &header.commitment,
        cluster: "2x7k1pq9vd3mzs0a",
        now: BootInstant::BOOT,
    };
    assert!(decrypt_in_place(&lent, &XaesKey::expand(key), &header, &aad, &mut envelope).is_err());
});
