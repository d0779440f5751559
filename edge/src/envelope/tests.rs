#![allow(clippy::unwrap_used, clippy::panic)]

use openkcm_secret::SecretKey;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{clock::BootInstant, store::Lent};

const KEY_ID: [u8; 16] = [9; 16];

struct Held {
    cipher: XaesKey,
    commitment: [u8; COMMITMENT_LEN],
    version: u32,
}

impl Held {
    fn new(byte: u8, version: u32) -> Self {
        let key = SecretKey::from_bytes(&mut [byte; 32]).unwrap();
        let commitment = commitment(&key, KEY_ID, version);
        Self { cipher: XaesKey::expand(&key), commitment, version }
    }

    fn lent<'a>(&'a self, cluster: &'a str) -> Lent<'a> {
        let now = BootInstant::from_nanos(7);
        Lent {
            cipher: &self.cipher,
            key_id: KEY_ID,
            version: self.version,
            commitment: &self.commitment,
            cluster,
            now,
        }
    }

    fn encrypt(&self, cluster: &str, plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encrypt_into(&self.lent(cluster), plaintext, aad, &mut out).unwrap();
        out
    }

    fn decrypt(&self, cluster: &str, envelope: &[u8], aad: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        let mut envelope = envelope.to_vec();
        let header = Header::parse(&envelope)?;
        let range = decrypt_in_place(&self.lent(cluster), &header, aad, &mut envelope);
        match range {
            Ok(range) => Ok(envelope[range].to_vec()),
            Err(error) => {
                let rest = envelope.get(HEADER_LEN..).unwrap_or_default();
                let wiped = rest.iter().all(|byte| *byte == 0);
                // What was not decrypted may stay as it came.
                let tried = header.format == Format::Message && header.commitment == self.commitment;
                assert!(wiped || !tried || rest.len() < TAG_LEN);
                Err(error)
            }
        }
    }

    fn encrypt_stream(&self, chunks: &[Vec<u8>]) -> (Header, Vec<Vec<u8>>) {
        let mut position = Position::begin(&self.lent("a"), b"aad").unwrap();
        let sealed = chunks.iter().enumerate().map(|(index, chunk)| {
            let mut chunk = chunk.clone();
            position.seal(&self.lent("a"), &mut chunk, index + 1 == chunks.len()).unwrap();
            chunk
        });
        let sealed = sealed.collect();
        (*position.header(), sealed)
    }

    fn decrypt_stream(&self, header: Header, chunks: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, EnvelopeError> {
        let mut position = Position::resume(&self.lent("a"), header, b"aad")?;
        let opened = chunks.iter().enumerate().map(|(index, chunk)| {
            let mut chunk = chunk.clone();
            position.open(&self.lent("a"), &mut chunk, index + 1 == chunks.len()).map(|()| chunk)
        });
        opened.collect()
    }
}

#[test]
fn every_changed_byte_is_seen() {
    let held = Held::new(1, 1);
    let envelope = held.encrypt("1acme", b"plaintext", b"aad");
    assert_eq!(held.decrypt("1acme", &envelope, b"aad").unwrap(), b"plaintext");
    for index in 0..envelope.len() {
        for bit in 0..8 {
            let mut changed = envelope.clone();
            changed[index] ^= 1 << bit;
            assert!(held.decrypt("1acme", &changed, b"aad").is_err(), "byte {index} bit {bit}");
        }
    }
    for length in 0..envelope.len() {
        assert!(held.decrypt("1acme", &envelope[..length], b"aad").is_err(), "cut to {length}");
    }
    let longer = [&envelope[..], &[0]].concat();
    assert!(held.decrypt("1acme", &longer, b"aad").is_err());
}

#[test]
fn a_ciphertext_opens_only_in_its_workspace_with_its_key_version_and_aad() {
    let held = Held::new(1, 1);
    let envelope = held.encrypt("1acme", b"p", b"aad");
    assert!(held.decrypt("2other", &envelope, b"aad").is_err());
    assert!(held.decrypt("1acme", &envelope, b"aae").is_err());
    // The border between cluster and AAD counts.
    assert!(held.decrypt("1acm", &envelope, b"eaad").is_err());
    assert!(Held::new(2, 1).decrypt("1acme", &envelope, b"aad").is_err());
    assert!(Held::new(1, 2).decrypt("1acme", &envelope, b"aad").is_err());
}

#[test]
fn the_commitment_binds_key_id_and_version() {
    let key = SecretKey::from_bytes(&mut [1; 32]).unwrap();
    let all = [
        commitment(&key, [1; 16], 1),
        commitment(&key, [1; 16], 2),
        commitment(&key, [2; 16], 1),
        commitment(&SecretKey::from_bytes(&mut [2; 32]).unwrap(), [1; 16], 1),
    ];
    for (index, one) in all.iter().enumerate() {
        assert!(all[index + 1..].iter().all(|other| other != one));
    }
}

/// Without the commitment an attacker who knows two keys could make one ciphertext for both; with it, a header fits one.
#[test]
fn a_foreign_commitment_is_refused_before_decrypting() {
    let (one, two) = (Held::new(1, 1), Held::new(2, 1));
    let mut envelope = one.encrypt("a", b"p", b"");
    envelope[52..84].copy_from_slice(&two.commitment);
    assert_eq!(one.decrypt("a", &envelope, b"").unwrap_err(), EnvelopeError::Tampered);
    assert_eq!(two.decrypt("a", &envelope, b"").unwrap_err(), EnvelopeError::Tampered);
}

#[test]
fn limits_hold_at_the_border() {
    let held = Held::new(1, 1);
    let mut out = Vec::new();
    encrypt_into(&held.lent("a"), &vec![0; MAX_MESSAGE], &vec![0; MAX_AAD], &mut out).unwrap();
    assert_eq!(held.decrypt("a", &out, &vec![0; MAX_AAD]).unwrap().len(), MAX_MESSAGE);
    let mut out = b"before".to_vec();
    let large = encrypt_into(&held.lent("a"), &vec![0; MAX_MESSAGE + 1], b"", &mut out);
    assert_eq!(large, Err(EnvelopeError::TooLarge));
    assert_eq!(encrypt_into(&held.lent("a"), b"", &vec![0; MAX_AAD + 1], &mut out), large);
    assert_eq!(out, b"before");
}

#[test]
fn streams_show_reordering_dropping_doubling_and_cutting() {
    let held = Held::new(1, 1);
    let chunks: Vec<Vec<u8>> = vec![vec![1; CHUNK], vec![2; CHUNK], vec![3; 10]];
    let (header, sealed) = held.encrypt_stream(&chunks);
    assert_eq!(held.decrypt_stream(header, &sealed).unwrap(), chunks);
    for wrong in [[1, 0, 2].as_slice(), &[0, 2], &[0, 1], &[0], &[0, 0, 1, 2], &[0, 1, 1, 2], &[1, 2], &[2]] {
        let changed: Vec<Vec<u8>> = wrong.iter().map(|index| sealed[*index].clone()).collect();
        assert!(held.decrypt_stream(header, &changed).is_err(), "{wrong:?}");
    }
    let longer = [&sealed[..], &[vec![0; 16]]].concat();
    assert!(held.decrypt_stream(header, &longer).is_err());
    let (other, _) = held.encrypt_stream(&chunks);
    assert!(held.decrypt_stream(other, &sealed).is_err(), "chunks of one stream under the header of another");
}

#[test]
fn a_message_is_no_stream_and_a_stream_no_message() {
    let held = Held::new(1, 1);
    let (header, sealed) = held.encrypt_stream(&[vec![5; 4]]);
    let mut bytes = header.to_bytes().to_vec();
    bytes.extend_from_slice(&sealed[0]);
    assert_eq!(held.decrypt("a", &bytes, b"aad").unwrap_err(), EnvelopeError::Malformed);
    bytes[4] = 1;
    assert_eq!(held.decrypt("a", &bytes, b"aad").unwrap_err(), EnvelopeError::Tampered);
    let message = Header::parse(&held.encrypt("a", b"p", b"aad")).unwrap();
    assert!(Position::resume(&held.lent("a"), message, b"aad").is_err());
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(plaintext in vec(any::<u8>(), 0..3000), aad in vec(any::<u8>(), 0..600), cluster in "[a-z0-9]{1,63}") {
        let held = Held::new(3, 54);
        let envelope = held.encrypt(&cluster, &plaintext, &aad);
        prop_assert_eq!(envelope.len(), plaintext.len() + OVERHEAD);
        prop_assert_eq!(held.decrypt(&cluster, &envelope, &aad).unwrap(), plaintext);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in vec(any::<u8>(), 0..300), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(b"OKCM\x01\x01\0\0");
        }
        prop_assert!(Held::new(3, 1).decrypt("a", &bytes, b"").is_err());
    }

    #[test]
    fn a_header_that_parses_is_the_only_writing_of_itself(bytes in vec(any::<u8>(), HEADER_LEN), format in 1u8..3) {
        let mut bytes = bytes;
        bytes[..8].copy_from_slice(&[b'O', b'K', b'C', b'M', format, 1, 0, 0]);
        if format == 2 {
            bytes[47..52].fill(0);
        }
        prop_assert_eq!(&Header::parse(&bytes).unwrap().to_bytes()[..], &bytes[..]);
    }

    #[test]
    fn chunks_are_cut_alike_however_bytes_arrive(data in vec(any::<u8>(), 0..200), cuts in vec(1usize..40, 1..20)) {
        let mut chunker = Chunker::new(16);
        let (mut rest, mut chunks) = (&data[..], Vec::new());
        for cut in cuts.iter().cycle() {
            let (mut part, behind) = rest.split_at((*cut).min(rest.len()));
            while let Some(chunk) = chunker.push(&mut part) {
                chunks.push(chunk);
            }
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        chunks.push(chunker.finish());
        let expected: Vec<Vec<u8>> = if data.is_empty() { vec![Vec::new()] } else { data.chunks(16).map(<[u8]>::to_vec).collect() };
        prop_assert_eq!(chunks, expected);
    }
}
