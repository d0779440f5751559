//! The header in front of every ciphertext.

use super::{COMMITMENT_LEN, EnvelopeError, NONCE_LEN};

/// Length of the header.
pub const HEADER_LEN: usize = 84;
const MAGIC: &[u8; 4] = b"OKCM";

/// What follows the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One ciphertext.
    Message,
    /// Chunks.
    Stream,
}

/// How it is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// XAES-256-GCM with an HMAC-SHA-256 key commitment.
    Xaes256GcmCommitted,
}

/// A parsed header. Parsing and writing are inverse to each other: there is one encoding per header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub format: Format,
    /// How it is encrypted.
    pub algorithm: Algorithm,
    /// UUID of the service key.
    pub key_id: [u8; 16],
    /// Version of the service key.
    pub version: u32,
    /// XAES nonce; in a stream the last five bytes are zero, where chunk number and last-chunk flag go.
    pub nonce: [u8; NONCE_LEN],
    /// Commitment to the key.
    pub commitment: [u8; COMMITMENT_LEN],
}

impl Header {
    /// The header at the start of `bytes`, which may be anything.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let bytes: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(EnvelopeError::Malformed)?;
        let (magic, rest) = split(bytes);
        let ([format, algorithm, 0, 0], rest) = split::<4>(rest) else {
            return Err(EnvelopeError::Malformed);
        };
        let format = match format {
            1 => Format::Message,
            2 => Format::Stream,
            _ => return Err(EnvelopeError::Malformed),
        };
        if magic != *MAGIC || algorithm != 1 {
            return Err(EnvelopeError::Malformed);
        }
        let (key_id, rest) = split(rest);
        let (version, rest) = split(rest);
        let (nonce, rest) = split::<NONCE_LEN>(rest);
        let (commitment, _) = split(rest);
        if format == Format::Stream && nonce[NONCE_LEN - 5..] != [0; 5] {
            return Err(EnvelopeError::Malformed);
        }
        let version = u32::from_be_bytes(version);
        let algorithm = Algorithm::Xaes256GcmCommitted;
        Ok(Self { format, algorithm, key_id, version, nonce, commitment })
    }

    /// The bytes of the header.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4] = match self.format {
            Format::Message => 1,
            Format::Stream => 2,
        };
        bytes[5] = match self.algorithm {
            Algorithm::Xaes256GcmCommitted => 1,
        };
        bytes[8..24].copy_from_slice(&self.key_id);
        bytes[24..28].copy_from_slice(&self.version.to_be_bytes());
        bytes[28..52].copy_from_slice(&self.nonce);
        bytes[52..].copy_from_slice(&self.commitment);
        bytes
    }
}

/// The first `N` bytes and the rest. Only called within a header, whose length is fixed.
fn split<const N: usize>(bytes: &[u8]) -> ([u8; N], &[u8]) {
    bytes.split_first_chunk().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}
