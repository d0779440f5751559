//! The format of ciphertexts.
//!
//! ```text
//! offset  0      4       5          6        8       24         28        52             84
//!         "OKCM" format  algorithm  reserved key id  version    nonce     key commitment ciphertext ‖ tag
//!                1 byte  1 byte     00 00    16      4, BE      24        32
//! ```
//! - **Format 1** (message): one XAES-256-GCM ciphertext of at most [`MAX_MESSAGE`] bytes of plaintext.
//! - **Format 2** (stream): chunks of [`CHUNK`] bytes after the STREAM construction, see [`stream`].
//! - **Algorithm 1**: XAES-256-GCM (C2SP), commitment HMAC-SHA-256.
//!
//! The additional data of the AEAD is `header ‖ u16(length of cluster) ‖ cluster ‖ caller's AAD`: the header has a
//! fixed length and the cluster carries its own, so two different triples never give the same bytes. All of the header
//! is thereby authenticated, and a ciphertext of one workspace does not open in another.
//!
//! **Key commitment.** GCM alone lets someone who knows two keys build one ciphertext that opens under both.
//! `HMAC-SHA-256(key, label ‖ key id ‖ version)` in the header binds it to one key, version and id at the strength of
//! SHA-256's collision resistance. It depends on the version alone, so it is computed when a version arrives and costs
//! a message 32 bytes and a comparison.

mod header;
mod message;
mod nonce;
pub mod stream;
mod xaes;

pub use self::{
    header::{Algorithm, Format, HEADER_LEN, Header},
    message::{decrypt_in_place, encrypt_into},
    nonce::random,
    stream::{Chunker, Position},
    xaes::{NONCE_LEN, TAG_LEN, XaesKey},
};

use aws_lc_rs::hmac;
use openkcm_secret::SecretKey;

/// Largest plaintext of a message; larger inputs are streams.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Largest AAD of a caller.
pub const MAX_AAD: usize = 64 << 10;
/// Plaintext bytes of a full chunk of a stream.
pub const CHUNK: usize = 64 << 10;
/// Bytes that a message is longer than its plaintext.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
/// Length of the key commitment.
pub const COMMITMENT_LEN: usize = 32;

const COMMITMENT_LABEL: &[u8] = b"openkcm edge key commitment v1";

/// Why bytes are not a ciphertext of this key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Not a header of ours, or one of a format or algorithm that this edge does not know.
    #[error("not a ciphertext of OpenKCM, or of an unknown format")]
    Malformed,
    /// Ciphertext, header or AAD differ from what was encrypted.
    #[error("the ciphertext or its additional data is not what was encrypted")]
    Tampered,
    /// Plaintext, ciphertext or AAD over the limit.
    #[error("larger than the limit")]
    TooLarge,
    /// The random source or the cipher failed.
    #[error("the cryptographic library failed")]
    Library,
}

/// The key commitment of a version.
pub fn commitment(key: &SecretKey, key_id: [u8; 16], version: u32) -> [u8; COMMITMENT_LEN] {
    let tag = key.expose(|bytes| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, bytes));
        context.update(COMMITMENT_LABEL);
        context.update(&key_id);
        context.update(&version.to_be_bytes());
        context.sign()
    });
    let mut commitment = [0; COMMITMENT_LEN];
    commitment.copy_from_slice(tag.as_ref());
    commitment
}

#[cfg(test)]
mod tests;
