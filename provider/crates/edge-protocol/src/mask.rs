//! Key bytes on the stream, masked with something that is forgotten at once.
//!
//! TLS protects key bytes on their way. This is about what they leave behind: the buffers of TLS, HTTP/2 and protobuf are
//! freed, not wiped. So both ends agree on a secret for each stream (X25519, inside TLS), and mask every key with the next
//! output of a chain whose state moves on and is wiped. What then lies in freed buffers cannot be unmasked by anything that
//! is still in memory.

use aws_lc_rs::{
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    error::Unspecified,
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand::SystemRandom,
};
use zeroize::Zeroizing;

const STATE: usize = 32;

/// One end's half of the agreement.
pub struct Offer {
    private: EphemeralPrivateKey,
    public: Vec<u8>,
}

/// Masks and unmasks, in the order in which keys are on the stream.
pub struct Chain(Zeroizing<[u8; STATE]>);

/// The other end's half is none, or the system has no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the two ends of the stream could not agree on a secret")]
pub struct MaskError;

impl From<Unspecified> for MaskError {
    fn from(_: Unspecified) -> Self {
        Self
    }
}

impl Offer {
    /// A new one, for one stream.
    pub fn new() -> Result<Self, MaskError> {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())?;
        let public = private.compute_public_key()?.as_ref().to_vec();
        Ok(Self { private, public })
    }

    /// What the other end has to know.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The chain that both ends have.
    pub fn agree(self, other: &[u8]) -> Result<Chain, MaskError> {
        let salt = Salt::new(HKDF_SHA256, b"openkcm stream 1");
        agree_ephemeral(self.private, UnparsedPublicKey::new(&X25519, other), MaskError, |secret| {
            let mut state = Zeroizing::new([0; STATE]);
            salt.extract(secret).expand(&[b"chain"], Length(STATE))?.fill(&mut *state)?;
            Ok(Chain(state))
        })
    }
}

impl Chain {
    /// Masks key bytes, or unmasks them at the other end.
    pub fn apply(&mut self, bytes: &mut [u8]) -> Result<(), MaskError> {
        let length = bytes.len() + STATE;
        let mut output = Zeroizing::new(vec![0; length]);
        Prk::new_less_safe(HKDF_SHA256, &*self.0).expand(&[b"mask"], Length(length))?.fill(&mut output)?;
        let (mask, next) = output.split_at(bytes.len());
        bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        self.0.copy_from_slice(next);
        Ok(())
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pair() -> (Chain, Chain) {
        let (one, two) = (Offer::new().unwrap(), Offer::new().unwrap());
        let (first, second) = (one.public().to_vec(), two.public().to_vec());
        (one.agree(&second).unwrap(), two.agree(&first).unwrap())
    }

    #[test]
    fn both_ends_unmask_what_the_other_masked_in_its_order() {
        let (mut here, mut there) = pair();
        let mut seen = Vec::new();
        for _ in 0..100 {
            let mut bytes = [7; 32];
            here.apply(&mut bytes).unwrap();
            assert!(!seen.contains(&bytes), "the same mask twice");
            seen.push(bytes);
            there.apply(&mut bytes).unwrap();
            assert_eq!(bytes, [7; 32]);
        }
        // The state that masked them is gone: what is there now does not unmask them.
        let mut old = seen[0];
        there.apply(&mut old).unwrap();
        assert_ne!(old, [7; 32]);
    }

    #[test]
    fn every_stream_has_its_own_and_nonsense_is_no_half() {
        let ((mut one, _), (mut other, _)) = (pair(), pair());
        let (mut first, mut second) = ([7; 32], [7; 32]);
        one.apply(&mut first).unwrap();
        other.apply(&mut second).unwrap();
        assert_ne!(first, second);
        // Also a point of low order, with which every secret would be the same.
        for bad in [&[][..], &[1; 31], &[0; 32], &[9; 33]] {
            assert!(Offer::new().unwrap().agree(bad).is_err());
        }
    }
}
