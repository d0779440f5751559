//! Messages with secrets in them print without those, and wipe key bytes when they are dropped.

use std::fmt;

use zeroize::Zeroize;

use crate::orchestrator::{JoinRequest, KeyVersion};

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token_id", &self.token_id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyVersion")
            .field("version", &self.version)
            .field("encrypts", &self.encrypts)
            .finish_non_exhaustive()
    }
}

impl Drop for KeyVersion {
    fn drop(&mut self) {
        self.material.zeroize();
    }
}

impl Drop for JoinRequest {
    fn drop(&mut self) {
        self.token_secret.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_bytes_and_tokens_are_not_printed() {
        let version = KeyVersion { version: 3, material: vec![0xAB; 32], encrypts: true };
        assert!(!format!("{version:?}").contains("171"));
        let mut join = JoinRequest::default();
        join.token_secret = vec![0xCD; 32];
        assert!(!format!("{join:?}").contains("205"));
    }
}
