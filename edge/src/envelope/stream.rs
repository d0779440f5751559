//! Format 2: streams of any length up to [`MAX_CHUNKS`] chunks.
//!
//! The STREAM construction: the plaintext is cut into chunks of [`CHUNK`] bytes, the last one shorter or full, and each
//! is an XAES-256-GCM ciphertext under the nonce `header nonce[..19] ‖ u32(index) ‖ last`. A chunk therefore opens only
//! at its place, and only the true last chunk opens as the last: reordering, dropping, doubling and cutting off are all
//! seen. The random part is 19 bytes, of which twelve derive the stream's key.
//!
//! The key is not kept between chunks: each is lent from the store, so an eviction ends a stream at its next chunk.

use zeroize::Zeroize;

use super::{
    Algorithm, CHUNK, EnvelopeError, Format, HEADER_LEN, Header, NONCE_LEN, TAG_LEN, message::Bound, nonce,
};
use crate::store::Lent;

/// Most chunks of one stream: 1 TiB of plaintext.
pub const MAX_CHUNKS: u32 = 1 << 24;

/// Where a stream stands: the same for both directions.
pub struct Position {
    header: Header,
    bound: Bound,
    next: u32,
}

impl Position {
    /// Begins a new stream under `lent`.
    pub fn begin(lent: &Lent<'_>, aad: &[u8]) -> Result<Self, EnvelopeError> {
        let mut nonce = nonce::fresh(lent.now)?;
        nonce[NONCE_LEN - 5..].fill(0);
        let header = Header {
            format: Format::Stream,
            algorithm: Algorithm::Xaes256GcmCommitted,
            key_id: lent.key_id,
            version: lent.version,
            nonce,
            commitment: *lent.commitment,
        };
        Ok(Self { header, bound: Bound::new(&header.to_bytes(), lent.cluster, aad)?, next: 0 })
    }

    /// Begins to read a stream that starts with `header`.
    pub fn resume(lent: &Lent<'_>, header: Header, aad: &[u8]) -> Result<Self, EnvelopeError> {
        if header.format != Format::Stream {
            return Err(EnvelopeError::Malformed);
        }
        if header.commitment != *lent.commitment {
            return Err(EnvelopeError::Tampered);
        }
        Ok(Self { header, bound: Bound::new(&header.to_bytes(), lent.cluster, aad)?, next: 0 })
    }

    /// The stream's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes that go before the first chunk.
    pub fn header_bytes(&self) -> [u8; HEADER_LEN] {
        self.header.to_bytes()
    }

    /// Encrypts the next chunk in place and appends its tag. All but the last are [`CHUNK`] bytes.
    pub fn seal(&mut self, lent: &Lent<'_>, chunk: &mut Vec<u8>, last: bool) -> Result<(), EnvelopeError> {
        if chunk.len() > CHUNK || (!last && chunk.len() != CHUNK) {
            return Err(EnvelopeError::TooLarge);
        }
        let nonce = self.nonce(last)?;
        let tag = lent.cipher.seal(&nonce, self.bound.as_slice(), chunk)?;
        chunk.extend_from_slice(&tag);
        self.next += 1;
        Ok(())
    }

    /// Decrypts the next chunk in place and cuts its tag off; wipes it on failure.
    pub fn open(&mut self, lent: &Lent<'_>, chunk: &mut Vec<u8>, last: bool) -> Result<(), EnvelopeError> {
        let plain = chunk.len().checked_sub(TAG_LEN).filter(|plain| *plain <= CHUNK);
        let plain = plain.ok_or(EnvelopeError::Tampered)?;
        // One encoding per plaintext: only an empty stream has an empty chunk, only the last chunk is short.
        if (!last && plain != CHUNK) || (plain == 0 && self.next > 0) {
            return Err(EnvelopeError::Tampered);
        }
        let nonce = self.nonce(last)?;
        if let Err(error) = lent.cipher.open(&nonce, self.bound.as_slice(), chunk) {
            chunk.zeroize();
            return Err(error);
        }
        chunk.truncate(plain);
        self.next += 1;
        Ok(())
    }

    fn nonce(&self, last: bool) -> Result<[u8; NONCE_LEN], EnvelopeError> {
        if self.next >= MAX_CHUNKS {
            return Err(EnvelopeError::TooLarge);
        }
        let mut nonce = self.header.nonce;
        nonce[19..23].copy_from_slice(&self.next.to_be_bytes());
        nonce[23] = u8::from(last);
        Ok(nonce)
    }
}

/// Cuts arriving bytes into chunks and keeps back what may turn out to be the last.
pub struct Chunker {
    pending: Vec<u8>,
    size: usize,
}

impl Chunker {
    /// Cuts into chunks of this size.
    pub fn new(size: usize) -> Self {
        Self { pending: Vec::new(), size }
    }

    /// Takes bytes off `data`, and gives the next chunk that is certainly not the last, if there is one.
    pub fn push(&mut self, data: &mut &[u8]) -> Option<Vec<u8>> {
        let (taken, rest) = data.split_at((self.size - self.pending.len()).min(data.len()));
        self.pending.extend_from_slice(taken);
        *data = rest;
        // A full chunk is the last one unless a byte follows it.
        (self.pending.len() == self.size && !rest.is_empty()).then(|| self.finish())
    }

    /// The last chunk.
    pub fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pending)
    }
}

impl Drop for Chunker {
    fn drop(&mut self) {
        self.pending.zeroize();
    }
}
