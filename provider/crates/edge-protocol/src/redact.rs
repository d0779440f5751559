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

/// What applications send and get prints as lengths.
#[cfg(has_application_proto)]
mod application {
    use std::fmt;

    use crate::application::{
        DecryptDataKeyResponse, DecryptResponse, EncryptRequest, GenerateDataKeyResponse, Items,
        StreamRequest, StreamResponse,
    };

    macro_rules! prints_lengths {
        ($($message:ident: $($field:ident),+;)+) => {$(
            impl fmt::Debug for $message {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_struct(stringify!($message))
                        $(.field(concat!(stringify!($field), "_length"), &self.$field.len()))+
                        .finish_non_exhaustive()
                }
            }
        )+};
    }

    prints_lengths! {
        EncryptRequest: plaintext, aad;
        DecryptResponse: plaintext;
        GenerateDataKeyResponse: data_key, wrapped;
        DecryptDataKeyResponse: data_key;
        Items: data, lengths;
        StreamRequest: aad, data;
        StreamResponse: data;
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

    #[cfg(has_application_proto)]
    #[test]
    fn plaintexts_and_data_keys_are_not_printed() {
        use crate::application as wire;

        let secret = || vec![0xAB; 3];
        let items = || Some(wire::Items { data: secret(), lengths: vec![3] });
        let texts = [
            format!("{:?}", wire::EncryptRequest { plaintext: secret(), ..Default::default() }),
            format!("{:?}", wire::DecryptResponse { plaintext: secret(), version: 1 }),
            format!("{:?}", wire::GenerateDataKeyResponse { data_key: secret(), ..Default::default() }),
            format!("{:?}", wire::DecryptDataKeyResponse { data_key: secret(), version: 1 }),
            format!("{:?}", wire::BatchRequest { inputs: items(), ..Default::default() }),
            format!("{:?}", wire::BatchResponse { outputs: items(), ..Default::default() }),
            format!("{:?}", wire::StreamRequest { data: secret(), ..Default::default() }),
            format!("{:?}", wire::StreamResponse { data: secret() }),
        ];
        for text in texts {
            assert!(!text.contains("171") && text.contains("length: 3"), "{text}");
        }
    }
}
