//! XAES-256-GCM as C2SP specifies it (<https://c2sp.org/XAES-256-GCM>).
//!
//! A 192-bit nonce: the first half derives a key for AES-256-GCM by a counter KDF on AES-CMAC, the second half is the
//! GCM nonce. 2⁸⁰ random nonces under one key keep the risk of a collision below 2⁻³², so nothing has to be counted.

use aes::{
    Aes256Enc, Block,
    cipher::{BlockEncrypt, KeyInit},
};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use openkcm_secret::SecretKey;
use zeroize::{Zeroize, optimization_barrier};

use super::EnvelopeError;

/// Length of an XAES nonce.
pub const NONCE_LEN: usize = 24;
/// Length of the authentication tag.
pub const TAG_LEN: usize = 16;

/// A key with its AES round keys expanded.
///
/// The store keeps those of keys in use in locked memory, up to a number; the others live on the stack for one operation
/// (or one batch of them). Wiped on drop.
pub struct XaesKey {
    cipher: Aes256Enc,
    /// CMAC's subkey for complete blocks, `K1` in the specification.
    k1: Block,
}

/// The derived key and nonce of one message prefix, ready for AES-256-GCM.
pub(super) struct Derived(LessSafeKey);

impl XaesKey {
    /// Expands a key.
    pub fn expand(key: &SecretKey) -> Self {
        key.expose(|bytes| {
            let cipher = Aes256Enc::new(bytes.into());
            let mut l = Block::default();
            cipher.encrypt_block(&mut l);
            let k1 = double(u128::from_be_bytes(l.into()));
            Self { cipher, k1: k1.to_be_bytes().into() }
        })
    }

    /// Encrypts `data` in place and gives the tag.
    pub fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG_LEN], EnvelopeError> {
        self.derive(nonce)?.seal(nonce, aad, data)
    }

    /// Encrypts `plaintext` into `ciphertext`, which is as long, and `tag`.
    #[inline]
    pub fn seal_from(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8],
    ) -> Result<(), EnvelopeError> {
        let Derived(key) = self.derive(nonce)?;
        key.seal_out_of_place_scatter(inner(nonce), Aad::from(aad), plaintext, ciphertext, &[], tag)
            .map_err(|_| EnvelopeError::Library)
    }

    /// Decrypts `data` (ciphertext ‖ tag) in place and gives the plaintext, or wipes it.
    pub fn open<'a>(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        data: &'a mut [u8],
    ) -> Result<&'a mut [u8], EnvelopeError> {
        self.derive(nonce)?.open(nonce, aad, data)
    }

    /// The AES-256-GCM key for all nonces that start with these twelve bytes.
    #[inline]
    pub(super) fn derive(&self, nonce: &[u8; NONCE_LEN]) -> Result<Derived, EnvelopeError> {
        let block = |counter: u8| {
            let mut block = self.k1;
            block[1] ^= counter;
            block[2] ^= b'X';
            for (byte, nonce) in block[4..].iter_mut().zip(&nonce[..12]) {
                *byte ^= nonce;
            }
            block
        };
        let mut blocks = [block(1), block(2)];
        self.cipher.encrypt_blocks(&mut blocks);
        let mut derived = [0; 32];
        derived[..16].copy_from_slice(&blocks[0]);
        derived[16..].copy_from_slice(&blocks[1]);
        let key = UnboundKey::new(&AES_256_GCM, &derived).map(LessSafeKey::new);
        wipe(&mut derived);
        wipe(&mut blocks);
        key.map(Derived).map_err(|_| EnvelopeError::Library)
    }
}

impl Drop for XaesKey {
    fn drop(&mut self) {
        self.k1[..].zeroize(); // `Aes256Enc` wipes itself.
    }
}

/// Zeroes what a message leaves behind. `zeroize` does the same byte by byte, which counts when it is done for each message.
#[inline]
fn wipe<T: Default>(place: &mut T) {
    *place = T::default();
    optimization_barrier(place);
}

impl Derived {
    #[inline]
    pub(super) fn seal(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<[u8; TAG_LEN], EnvelopeError> {
        let tag = self
            .0
            .seal_in_place_separate_tag(inner(nonce), Aad::from(aad), data)
            .map_err(|_| EnvelopeError::Library)?;
        tag.as_ref().try_into().map_err(|_| EnvelopeError::Library)
    }

    #[inline]
    pub(super) fn open<'a>(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        data: &'a mut [u8],
    ) -> Result<&'a mut [u8], EnvelopeError> {
        self.0.open_in_place(inner(nonce), Aad::from(aad), data).map_err(|_| EnvelopeError::Tampered)
    }
}

fn inner(nonce: &[u8; NONCE_LEN]) -> Nonce {
    let mut inner = [0; 12];
    inner.copy_from_slice(&nonce[12..]);
    Nonce::assume_unique_for_key(inner)
}

/// Multiplication by x in GF(2¹²⁸), without a branch on the secret top bit.
fn double(l: u128) -> u128 {
    (l << 1) ^ (0x87 & 0u128.wrapping_sub(l >> 127))
}

#[cfg(test)]
mod tests;
