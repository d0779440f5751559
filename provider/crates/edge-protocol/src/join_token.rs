//! The text that an operator carries from the provider to a new edge.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

const PREFIX: &str = "openkcm-join-1.";
const LEN: usize = 16 + 32 + 32;

/// A join token: which one, the secret that proves it, and whom to trust.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which token it is; a UUID.
    pub id: [u8; 16],
    /// What only its holder knows.
    pub secret: [u8; 32],
    /// SHA-256 of the authority's certificate (DER): the edge trusts this and nothing else, from its first connection.
    pub authority: [u8; 32],
}

/// The text is not a join token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: one line that starts with '{PREFIX}' is expected")]
pub struct JoinTokenError;

impl JoinToken {
    /// The token's text. There is no `Display`: this is a secret.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.authority);
        format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| JoinTokenError)?;
        let bytes: [u8; LEN] = bytes.try_into().map_err(|_| JoinTokenError)?;
        let (mut id, mut secret, mut authority) = ([0; 16], [0; 32], [0; 32]);
        id.copy_from_slice(&bytes[..16]);
        secret.copy_from_slice(&bytes[16..48]);
        authority.copy_from_slice(&bytes[48..]);
        Ok(Self { id, secret, authority })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_survives_the_trip_and_nothing_else_parses() {
        let token = JoinToken { id: [1; 16], secret: [2; 32], authority: [3; 32] };
        let text = token.to_text();
        assert_eq!(format!("{text}\n").parse(), Ok(token.clone()));
        for bad in [
            "",
            "openkcm-join-1.",
            &text[1..],
            &text[..text.len() - 1],
            &format!("{text}AA"),
            &text.replace('.', "!"),
        ] {
            assert_eq!(bad.parse::<JoinToken>(), Err(JoinTokenError), "{bad}");
        }
        assert!(!format!("{token:?}").contains("2, 2"));
    }
}
