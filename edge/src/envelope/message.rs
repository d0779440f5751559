//! Format 1: one message.

use zeroize::Zeroize;

use super::{
    Algorithm, EnvelopeError, Format, HEADER_LEN, Header, MAX_AAD, MAX_MESSAGE, OVERHEAD, TAG_LEN, nonce,
};
use crate::store::Lent;

/// Most bound data fits here; longer goes to the heap.
const INLINE: usize = 256;

/// `header ‖ u16(length of cluster) ‖ cluster ‖ caller's AAD`, see the [module](super).
pub(super) struct Bound {
    inline: [u8; INLINE],
    heap: Vec<u8>,
    length: usize,
}

impl Bound {
    #[inline]
    pub(super) fn new(header: &[u8; HEADER_LEN], cluster: &str, aad: &[u8]) -> Result<Self, EnvelopeError> {
        let cluster_length = u16::try_from(cluster.len()).map_err(|_| EnvelopeError::TooLarge)?.to_be_bytes();
        if aad.len() > MAX_AAD {
            return Err(EnvelopeError::TooLarge);
        }
        let parts: [&[u8]; 4] = [header, &cluster_length, cluster.as_bytes(), aad];
        let length = parts.iter().map(|part| part.len()).sum();
        let mut bound = Self { inline: [0; INLINE], heap: Vec::new(), length };
        if length > INLINE {
            bound.heap = parts.concat();
        } else {
            let mut rest = bound.inline.as_mut_slice();
            for part in parts {
                let (place, behind) = rest.split_at_mut(part.len());
                place.copy_from_slice(part);
                rest = behind;
            }
        }
        Ok(bound)
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[u8] {
        if self.length > INLINE { &self.heap } else { &self.inline[..self.length] }
    }
}

/// Encrypts `plaintext` and appends header, ciphertext and tag to `out`.
#[inline]
pub fn encrypt_into(
    lent: &Lent<'_>,
    plaintext: &[u8],
    aad: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), EnvelopeError> {
    if plaintext.len() > MAX_MESSAGE {
        return Err(EnvelopeError::TooLarge);
    }
    let header = Header {
        format: Format::Message,
        algorithm: Algorithm::Xaes256GcmCommitted,
        key_id: lent.key_id,
        version: lent.version,
        nonce: nonce::fresh(lent.now)?,
        commitment: *lent.commitment,
    };
    let bytes = header.to_bytes();
    let bound = Bound::new(&bytes, lent.cluster, aad)?;
    let start = out.len();
    out.resize(start + OVERHEAD + plaintext.len(), 0);
    let (head, rest) = out[start..].split_at_mut(HEADER_LEN);
    let (body, tag) = rest.split_at_mut(plaintext.len());
    head.copy_from_slice(&bytes);
    let sealed = lent.cipher.seal_from(&header.nonce, bound.as_slice(), plaintext, body, tag);
    if sealed.is_err() {
        out.truncate(start);
    }
    sealed
}

/// Decrypts a whole envelope in place and gives the range of `envelope` that is the plaintext. On failure the body is
/// wiped. `header` is what [`Header::parse`] said of `envelope`.
#[inline]
pub fn decrypt_in_place(
    lent: &Lent<'_>,
    header: &Header,
    aad: &[u8],
    envelope: &mut [u8],
) -> Result<std::ops::Range<usize>, EnvelopeError> {
    if header.format != Format::Message {
        return Err(EnvelopeError::Malformed);
    }
    if envelope.len() < OVERHEAD {
        return Err(EnvelopeError::Tampered); // A header, but cut off behind it.
    }
    if envelope.len() > MAX_MESSAGE + OVERHEAD {
        return Err(EnvelopeError::TooLarge);
    }
    let end = envelope.len() - TAG_LEN;
    let (bytes, body) = envelope.split_first_chunk_mut::<HEADER_LEN>().ok_or(EnvelopeError::Malformed)?;
    let bound = Bound::new(bytes, lent.cluster, aad)?;
    // Both are public: a plain comparison tells nobody anything.
    if header.commitment != *lent.commitment {
        return Err(EnvelopeError::Tampered);
    }
    match lent.cipher.open(&header.nonce, bound.as_slice(), body) {
        Ok(_) => Ok(HEADER_LEN..end),
        Err(error) => {
            body.zeroize();
            Err(error)
        }
    }
}
