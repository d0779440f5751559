//! What a tenant reads when a root key cannot be used: fixed texts, each with the fix. Nothing of what a store answered is in them.
//!
//! `docs/key-store-errors.md` is this table; a test compares the two.

use crate::{Operation, Reason, StoreKind};

/// The permission that an operation needs, as the store names it.
pub(crate) const fn permission(kind: StoreKind, operation: Operation) -> &'static str {
    match (kind, operation) {
        (StoreKind::AwsKms, Operation::Describe) => "kms:DescribeKey",
        (StoreKind::AwsKms, Operation::Wrap) => "kms:Encrypt",
        (StoreKind::AwsKms, Operation::Unwrap) => "kms:Decrypt",
        (StoreKind::AzureKeyVault, Operation::Describe) => "keys/read/action (get)",
        (StoreKind::AzureKeyVault, Operation::Wrap) => "keys/wrap/action (wrapKey)",
        (StoreKind::AzureKeyVault, Operation::Unwrap) => "keys/unwrap/action (unwrapKey)",
        (StoreKind::GcpKms, Operation::Describe) => "cloudkms.cryptoKeys.get",
        (StoreKind::GcpKms, Operation::Wrap) => "cloudkms.cryptoKeyVersions.useToEncrypt",
        (StoreKind::GcpKms, Operation::Unwrap) => "cloudkms.cryptoKeyVersions.useToDecrypt",
        (StoreKind::ThalesHsm, Operation::Describe) => "find",
        (StoreKind::ThalesHsm, Operation::Wrap) => "CKA_ENCRYPT or CKA_WRAP",
        (StoreKind::ThalesHsm, Operation::Unwrap) => "CKA_DECRYPT or CKA_UNWRAP",
    }
}

/// What is wrong and the fix.
pub(crate) fn explain(kind: StoreKind, reason: Reason, operation: Operation) -> String {
    if reason == Reason::AccessDenied {
        let permission = permission(kind, operation);
        return match kind {
            StoreKind::AwsKms => format!(
                "AWS KMS refused: allow {permission} on this key, in its key policy and in the policy of the role in access.aws"
            ),
            StoreKind::AzureKeyVault => format!(
                "the vault refused: the permission {permission} is missing; assign the role Key Vault Crypto Service Encryption User (Managed HSM: Managed HSM Crypto Service Encryption User) on the key"
            ),
            StoreKind::GcpKms => format!(
                "Google Cloud KMS refused: {permission} is missing; grant roles/cloudkms.cryptoKeyEncrypterDecrypter and roles/cloudkms.viewer on the key (Google answers the same when the key does not exist)"
            ),
            StoreKind::ThalesHsm => format!(
                "the HSM refused: the key does not allow it ({permission}), or the provider's login to the token is not accepted; ask the platform operator"
            ),
        };
    }
    fixed(kind, reason).to_owned()
}

const fn fixed(kind: StoreKind, reason: Reason) -> &'static str {
    match kind {
        StoreKind::AwsKms => aws(reason),
        StoreKind::AzureKeyVault => azure(reason),
        StoreKind::GcpKms => gcp(reason),
        StoreKind::ThalesHsm => thales(reason),
    }
}

const fn aws(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFound => {
            "AWS KMS has no such key or alias: check region, account and key id in keyReference"
        }
        Reason::AccessDenied => "AWS KMS refused",
        Reason::Disabled => "the key is disabled in AWS KMS: enable it (aws kms enable-key)",
        Reason::PendingDeletion => {
            "the key is scheduled for deletion in AWS KMS: cancel that (aws kms cancel-key-deletion, then aws kms enable-key), or change keyReference while there is time"
        }
        Reason::WrongKeyType => {
            "this key cannot wrap keys: use a symmetric key (SYMMETRIC_DEFAULT) or an RSA key, with key usage ENCRYPT_DECRYPT"
        }
        Reason::BadCiphertext => {
            "AWS KMS does not open the wrapped account key: it was changed, or made by another key or for another workspace or Account"
        }
        Reason::Throttled => "AWS KMS asks for fewer calls: tried again more slowly, the key stays in use",
        Reason::Unreachable => {
            "AWS KMS in this region cannot be reached or answered with an error of its own: tried again by itself"
        }
        Reason::Timeout => "AWS KMS in this region did not answer in time: tried again by itself",
        Reason::Misconfigured => {
            "AWS KMS does not accept the request or the provider's own credentials: ask the platform operator"
        }
    }
}

const fn azure(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFound => {
            "the vault has no such key or key version, or there is no such vault: check keyReference (a deleted key can be recovered: az keyvault key recover)"
        }
        Reason::AccessDenied => "the vault refused",
        Reason::Disabled => {
            "the key (or this version of it) is disabled, expired or not yet valid in the vault: enable it (az keyvault key set-attributes --enabled true)"
        }
        Reason::PendingDeletion => "the key is deleted and can still be recovered: az keyvault key recover",
        Reason::WrongKeyType => {
            "this key cannot wrap keys: use an RSA key (in a Managed HSM also a 256-bit oct-HSM key) with the operations wrapKey and unwrapKey"
        }
        Reason::BadCiphertext => {
            "the vault does not open the wrapped account key: it was changed, or made by another key or for another workspace or Account"
        }
        Reason::Throttled => "the vault asks for fewer calls: tried again more slowly, the key stays in use",
        Reason::Unreachable => {
            "the vault cannot be reached or answered with an error of its own: tried again by itself"
        }
        Reason::Timeout => "the vault did not answer in time: tried again by itself",
        Reason::Misconfigured => {
            "the vault or Microsoft Entra does not accept the provider's identity: check access.azure (tenantId, clientId and the application's federated credential), or ask the platform operator"
        }
    }
}

const fn gcp(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFound => {
            "Google Cloud KMS has no such key or key version: check project, location, key ring and key in keyReference"
        }
        Reason::AccessDenied => "Google Cloud KMS refused",
        Reason::Disabled => {
            "the key's version is disabled, or the key has no primary version: enable it (gcloud kms keys versions enable)"
        }
        Reason::PendingDeletion => {
            "the key's version is scheduled for destruction or destroyed: restore it (gcloud kms keys versions restore), or change keyReference while there is time"
        }
        Reason::WrongKeyType => {
            "this key cannot wrap keys: use a key with purpose ENCRYPT_DECRYPT, or a version of an ASYMMETRIC_DECRYPT key with an RSA-OAEP SHA-256 algorithm"
        }
        Reason::BadCiphertext => {
            "Google Cloud KMS does not open the wrapped account key: it was changed, or made by another key or for another workspace or Account"
        }
        Reason::Throttled => {
            "Google Cloud KMS asks for fewer calls: tried again more slowly, the key stays in use"
        }
        Reason::Unreachable => {
            "Google Cloud KMS cannot be reached, answered with an error of its own, or damaged data on the way: tried again by itself"
        }
        Reason::Timeout => "Google Cloud KMS did not answer in time: tried again by itself",
        Reason::Misconfigured => {
            "Google Cloud KMS does not accept the request: enable the Cloud KMS API in the project, check access.gcp, or ask the platform operator"
        }
    }
}

const fn thales(reason: Reason) -> &'static str {
    match reason {
        Reason::NotFound => "the HSM has no such token or key: check the labels in keyReference",
        Reason::AccessDenied => "the HSM refused",
        Reason::Disabled => {
            "the key's use is switched off in the HSM: set CKA_ENCRYPT and CKA_DECRYPT (with key wrap: CKA_WRAP and CKA_UNWRAP) to true"
        }
        Reason::PendingDeletion => "the key is being deleted",
        Reason::WrongKeyType => {
            "this key cannot wrap keys: use a 256-bit AES key that the token's configured mechanism accepts, and only one key with this label"
        }
        Reason::BadCiphertext => {
            "the HSM does not open the wrapped account key: it was changed, or made by another key or for another workspace or Account"
        }
        Reason::Throttled => "the HSM has too many calls under way: tried again, the key stays in use",
        Reason::Unreachable => {
            "the HSM cannot be reached or reported a failure of its own: tried again by itself"
        }
        Reason::Timeout => "the HSM did not answer in time: tried again by itself",
        Reason::Misconfigured => {
            "the HSM's library, token, PIN or mechanism is not set up right: ask the platform operator"
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fmt::Write as _;

    use super::*;

    /// The page for people: one table for each store.
    fn page() -> String {
        let mut page = String::from(
            "# What an Account says when its root key cannot be used\n\n\
            The reason is the reason of the condition `RootKeyVerified`, the text its message. This page is checked by a test of\n\
            `openkcm-keystores`; `OPENKCM_UPDATE_DOCS=1` writes it anew. `Throttled`, `Unreachable` and `Timeout` pass by themselves: the\n\
            Account stays Ready until the grace is over. `Throttled` starts the grace only after 15 minutes without any other answer.\n",
        );
        for kind in StoreKind::ALL {
            write!(page, "\n## {kind}\n\n| reason | message |\n|---|---|\n").unwrap();
            for reason in Reason::ALL {
                if reason == Reason::AccessDenied {
                    for operation in Operation::ALL {
                        let text = explain(kind, reason, operation);
                        writeln!(page, "| {reason} ({}) | {text} |", operation.as_str()).unwrap();
                    }
                } else {
                    writeln!(page, "| {reason} | {} |", explain(kind, reason, Operation::Describe)).unwrap();
                }
            }
        }
        page
    }

    #[test]
    fn the_page_says_what_tenants_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/key-store-errors.md");
        if std::env::var_os("OPENKCM_UPDATE_DOCS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/key-store-errors.md is stale: run this test with OPENKCM_UPDATE_DOCS=1"
        );
    }

    #[test]
    fn every_refusal_names_the_permission_that_is_missing() {
        for kind in StoreKind::ALL {
            let texts = Operation::ALL.map(|operation| {
                let text = explain(kind, Reason::AccessDenied, operation);
                assert!(text.contains(permission(kind, operation)), "{text}");
                text
            });
            assert!(texts[0] != texts[1] && texts[1] != texts[2]);
        }
    }
}
