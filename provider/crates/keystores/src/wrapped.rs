//! The bytes of a wrapped key, and what binds them to their owner.
//!
//! ```text
//! "okr" 01 | store kind 1 B | algorithm 1 B | reference: u16 length + UTF-8 | version: u16 length + UTF-8 | ciphertext: the rest
//! ```
//! Lengths are big-endian. The header is not authenticated by itself: a changed one leads to another key or algorithm, under which the
//! ciphertext does not open, and the ledger authenticates the whole blob besides.

use aws_lc_rs::digest::{SHA256, digest};
use openkcm_secret::SecretKey;
use zeroize::Zeroize as _;

use crate::{Binding, Error, Reason, Result, StoreKind, Wrapped};

const MAGIC: [u8; 4] = *b"okr\x01";
/// No store returns more for 64 bytes: AWS at most 6144, RSA-4096 512.
const MAX_LEN: usize = 16 * 1024;

/// How the ciphertext was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// The store's own symmetric encryption, binding as context or AAD.
    Symmetric = 1,
    /// RSA-OAEP with SHA-256, binding inside.
    RsaOaep256 = 2,
    /// AES-GCM, binding as AAD; the nonce leads the ciphertext.
    AesGcm = 3,
    /// AES key wrap (RFC 3394), binding inside.
    AesKw = 4,
    /// AES key wrap with padding (RFC 5649), binding inside.
    AesKwp = 5,
}

impl Algorithm {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Symmetric, Self::RsaOaep256, Self::AesGcm, Self::AesKw, Self::AesKwp]
            .into_iter()
            .find(|algorithm| *algorithm as u8 == byte)
    }
}

/// A wrapped key, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    pub kind: StoreKind,
    pub algorithm: Algorithm,
    /// The resolved key that wrapped it.
    pub reference: &'a str,
    /// Its version, `-` where the store has none.
    pub version: &'a str,
    pub ciphertext: &'a [u8],
}

fn malformed(what: &str) -> Error {
    Error::new(Reason::BadCiphertext, format!("the wrapped key is malformed: {what}"))
}

impl<'a> Parts<'a> {
    /// Reads a wrapped key that a store of this kind should have made.
    pub(crate) fn parse(bytes: &'a [u8], expected: StoreKind) -> Result<Self> {
        if bytes.len() > MAX_LEN {
            return Err(malformed("too long"));
        }
        let rest = bytes.strip_prefix(&MAGIC).ok_or_else(|| malformed("unknown format"))?;
        let [kind, algorithm, rest @ ..] = rest else { return Err(malformed("too short")) };
        let kind = StoreKind::ALL
            .into_iter()
            .find(|known| *known as u8 == *kind)
            .ok_or_else(|| malformed("unknown key store"))?;
        if kind != expected {
            return Err(malformed("made by another kind of key store"));
        }
        let algorithm = Algorithm::from_byte(*algorithm).ok_or_else(|| malformed("unknown algorithm"))?;
        let (reference, rest) = text(rest)?;
        let (version, ciphertext) = text(rest)?;
        if ciphertext.is_empty() {
            return Err(malformed("no ciphertext"));
        }
        Ok(Self { kind, algorithm, reference, version, ciphertext })
    }

    /// The bytes to keep. A store that returned nothing is caught here: AWS answers 200 without a ciphertext for some faults.
    pub(crate) fn to_wrapped(self) -> Result<Wrapped> {
        if self.ciphertext.is_empty() {
            return Err(Error::new(
                Reason::Unreachable,
                "the key store answered without a ciphertext; it is tried again",
            ));
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend([self.kind as u8, self.algorithm as u8]);
        for text in [self.reference, self.version] {
            let length = u16::try_from(text.len()).map_err(|_| malformed("reference too long"))?;
            bytes.extend(length.to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.ciphertext);
        if bytes.len() > MAX_LEN {
            return Err(malformed("too long"));
        }
        Ok(Wrapped { bytes, reference: self.reference.to_owned(), version: self.version.to_owned() })
    }
}

fn text(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or_else(|| malformed("too short"))?;
    let (text, rest) = rest
        .split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or_else(|| malformed("too short"))?;
    Ok((std::str::from_utf8(text).map_err(|_| malformed("not UTF-8"))?, rest))
}

/// The binding as additional authenticated data: unambiguous, since neither part may hold a line break.
pub(crate) fn aad(binding: &Binding) -> Vec<u8> {
    format!("openkcm.io/root-wrap/v1\n{}\n{}", binding.logical_cluster, binding.account).into_bytes()
}

/// Length of [`payload`]: a multiple of eight, so that plain AES key wrap takes it, and within what RSA-2048 takes.
pub(crate) const PAYLOAD_LEN: usize = 64;

/// Key and binding in one, for stores that can authenticate nothing beside the plaintext. The caller wipes it.
pub(crate) fn payload(key: &SecretKey, binding: &Binding) -> zeroize::Zeroizing<Vec<u8>> {
    let mut payload = zeroize::Zeroizing::new(Vec::with_capacity(PAYLOAD_LEN));
    key.expose(|bytes| payload.extend_from_slice(bytes));
    payload.extend_from_slice(digest(&SHA256, &aad(binding)).as_ref());
    payload
}

/// The key of a [`payload`], if it belongs to this binding. Wipes `payload`.
pub(crate) fn open_payload(payload: &mut [u8], binding: &Binding) -> Result<SecretKey> {
    let expected = digest(&SHA256, &aad(binding));
    let bound = payload.len() == PAYLOAD_LEN
        && aws_lc_rs::constant_time::verify_slices_are_equal(&payload[32..], expected.as_ref()).is_ok();
    let result = if bound { secret(&mut payload[..32]) } else { Err(foreign()) };
    payload.zeroize();
    result
}

/// 32 bytes into locked memory. Wipes `bytes`.
pub(crate) fn secret(bytes: &mut [u8]) -> Result<SecretKey> {
    match SecretKey::from_slice(bytes) {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => {
            Err(Error::new(Reason::Unreachable, "no locked memory for a key; it is tried again")
                .with_source(&error))
        }
        None => Err(Error::new(
            Reason::BadCiphertext,
            "the key store unwrapped something that is not a 256-bit key",
        )),
    }
}

/// A second holder of a key, for a thread that outlives the caller.
pub(crate) fn duplicate(key: &SecretKey) -> Result<SecretKey> {
    key.duplicate().map_err(|error| {
        Error::new(Reason::Unreachable, "no locked memory for a key; it is tried again").with_source(&error)
    })
}

/// The blob opened, and belongs to another workspace or Account.
pub(crate) fn foreign() -> Error {
    Error::new(Reason::BadCiphertext, "the wrapped key belongs to another workspace or Account")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn binding(cluster: &str, account: &str) -> Binding {
        Binding { logical_cluster: cluster.parse().unwrap(), account: account.to_owned() }
    }

    #[test]
    fn an_answer_without_ciphertext_is_an_error() {
        let parts = Parts {
            kind: StoreKind::AwsKms,
            algorithm: Algorithm::Symmetric,
            reference: "r",
            version: "-",
            ciphertext: b"",
        };
        assert_eq!(parts.to_wrapped().unwrap_err().reason, Reason::Unreachable);
    }

    #[test]
    fn a_payload_opens_for_its_own_binding_only() {
        let key = SecretKey::random().unwrap();
        let mine = binding("a", "1");
        let open = |binding: &Binding| {
            let mut bytes = payload(&key, &mine).to_vec();
            assert_eq!(bytes.len(), PAYLOAD_LEN);
            let opened = open_payload(&mut bytes, binding);
            assert!(bytes.iter().all(|byte| *byte == 0), "the payload is wiped");
            opened
        };
        let opened = open(&mine).unwrap();
        assert!(key.expose(|one| opened.expose(|two| one == two)));
        for foreign in [binding("b", "1"), binding("a", "2"), binding("a", ""), binding("a-1", "")] {
            assert_eq!(open(&foreign).err().map(|error| error.reason), Some(Reason::BadCiphertext));
        }
        for length in [0, 31, 32, 63, 65] {
            assert!(open_payload(&mut vec![7; length], &mine).is_err());
        }
    }

    proptest! {
        #[test]
        fn parts_survive(kind in 0..4_usize, algorithm in 1..=5_u8, reference in ".{0,80}", version in ".{0,40}", ciphertext in proptest::collection::vec(any::<u8>(), 1..600)) {
            let parts = Parts {
                kind: StoreKind::ALL[kind],
                algorithm: Algorithm::from_byte(algorithm).unwrap(),
                reference: &reference,
                version: &version,
                ciphertext: &ciphertext,
            };
            let bytes = parts.to_wrapped().unwrap().bytes;
            prop_assert_eq!(Parts::parse(&bytes, StoreKind::ALL[kind]).unwrap(), parts);
            prop_assert!(Parts::parse(&bytes, StoreKind::ALL[(kind + 1) % 4]).is_err());
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..64), lead in any::<bool>()) {
            if lead {
                bytes.splice(0..0, MAGIC);
            }
            if let Ok(parts) = Parts::parse(&bytes, StoreKind::AwsKms) {
                prop_assert_eq!(parts.to_wrapped().unwrap().bytes, bytes);
            }
        }
    }
}
