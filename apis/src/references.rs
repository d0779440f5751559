//! The form of what names something outside: master keys, roles, service accounts.
//!
//! These are the patterns that the API server applies. They say whether a reference is well formed, not whether
//! the provider may follow it: that is the key stores' business, which parse again.

use kube::core::Rule;

/// AWS: key or alias ARN, in every partition.
pub const AWS_KEY: &str = concat!(
    r"^arn:(aws|aws-cn|aws-us-gov|aws-iso|aws-iso-b|aws-iso-e|aws-iso-f|aws-eusc):kms:",
    r"[a-z]{2,4}(-[a-z]+){1,3}-[0-9]{1,2}:[0-9]{12}:",
    r"(key/([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|mrk-[0-9a-f]{32})",
    r"|alias/[a-zA-Z0-9/_-]{1,250})$"
);
/// Azure: key URL of a vault or a Managed HSM, in every cloud, with or without a version.
pub const AZURE_KEY: &str = concat!(
    r"^https://[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]\.",
    r"(vault\.azure\.net|vault\.azure\.cn|vault\.usgovcloudapi\.net",
    r"|managedhsm\.azure\.net|managedhsm\.azure\.cn|managedhsm\.usgovcloudapi\.net)",
    r"/keys/[a-zA-Z0-9-]{1,127}(/[0-9a-fA-F]{32})?$"
);
/// Google: resource name of a key, with or without a version.
pub const GCP_KEY: &str = concat!(
    r"^projects/([a-z0-9.-]{1,63}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]/locations/[a-z0-9-]{1,63}",
    r"/keyRings/[a-zA-Z0-9_-]{1,63}/cryptoKeys/[a-zA-Z0-9_-]{1,63}(/cryptoKeyVersions/[1-9][0-9]{0,9})?$"
);
/// PKCS#11: RFC 7512 path attributes, of which `token` or `serial`, and `object` or `id`, are required.
pub const PKCS11_KEY: &str = r"^pkcs11:[a-z0-9-]+=([a-zA-Z0-9._~:@!$()*+,=&-]|\[|\]|%[0-9a-fA-F]{2})+(;[a-z0-9-]+=([a-zA-Z0-9._~:@!$()*+,=&-]|\[|\]|%[0-9a-fA-F]{2})+)*$";
/// AWS: ARN of an IAM role.
pub const AWS_ROLE: &str = concat!(
    r"^arn:(aws|aws-cn|aws-us-gov|aws-iso|aws-iso-b|aws-iso-e|aws-iso-f|aws-eusc):iam::[0-9]{12}:",
    r"role/[a-zA-Z0-9+=,.@_/-]{1,512}$"
);
/// Google: address of a service account.
pub const GCP_SERVICE_ACCOUNT: &str =
    r"^[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]{4,28}[a-z0-9]\.iam\.gserviceaccount\.com$";
/// A UUID.
pub const UUID: &str = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";

/// A rule about `spec.keyReference` for one provider type.
fn key_rule(provider: &str, check: &str, message: &str) -> Rule {
    Rule::new(format!("self.providerType != '{provider}' || {check}"))
        .message(message)
        .field_path(".keyReference")
}

/// `self.keyReference.matches(…)` with the pattern as a raw CEL string.
fn matches(pattern: &str) -> String {
    format!("self.keyReference.matches(r\"{pattern}\")")
}

pub(crate) fn aws_rule() -> Rule {
    key_rule(
        "AWSKMS",
        &matches(AWS_KEY),
        "keyReference is not an AWS KMS key: give a key or alias ARN, for example \
         arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab or arn:aws:kms:eu-central-1:111122223333:alias/openkcm",
    )
}

pub(crate) fn azure_rule() -> Rule {
    key_rule(
        "AzureKeyVault",
        &matches(AZURE_KEY),
        "keyReference is not an Azure key: give the key's URL, for example \
         https://my-vault.vault.azure.net/keys/openkcm or https://my-hsm.managedhsm.azure.net/keys/openkcm, with or without /VERSION",
    )
}

pub(crate) fn gcp_rule() -> Rule {
    key_rule(
        "GCPKMS",
        &matches(GCP_KEY),
        "keyReference is not a Google Cloud KMS key: give its resource name, for example \
         projects/my-project/locations/europe-west3/keyRings/my-ring/cryptoKeys/openkcm, with or without /cryptoKeyVersions/N",
    )
}

pub(crate) fn pkcs11_query_rule() -> Rule {
    key_rule(
        "ThalesHSM",
        "!self.keyReference.contains('?')",
        "keyReference must not have a query (everything from '?'): PINs and module paths belong to the operator's configuration",
    )
}

pub(crate) fn pkcs11_rule() -> Rule {
    let part = |name: &str| format!("self.keyReference.matches('[:;]{name}=')");
    let check = format!(
        "(self.keyReference.contains('?') || {} && ({} || {}) && ({} || {}))",
        matches(PKCS11_KEY),
        part("token"),
        part("serial"),
        part("object"),
        part("id"),
    );
    key_rule(
        "ThalesHSM",
        &check,
        "keyReference is not a PKCS#11 URI (RFC 7512): name the token (or serial) and the object (or id), for example \
         pkcs11:token=openkcm;object=root-1",
    )
}

pub(crate) fn role_rule() -> Rule {
    Rule::new(format!("self.matches(r\"{AWS_ROLE}\")"))
        .message("roleArn is not the ARN of an IAM role: for example arn:aws:iam::111122223333:role/openkcm")
}

pub(crate) fn uuid_rule(field: &str) -> Rule {
    Rule::new(format!("self.matches('{UUID}')"))
        .message(format!("{field} is not a UUID: for example 72f988bf-86f1-41af-91ab-2d7cd011db47").as_str())
}

pub(crate) fn service_account_rule() -> Rule {
    Rule::new(format!("self.matches(r\"{GCP_SERVICE_ACCOUNT}\")")).message(
        "serviceAccount is not the address of a service account: for example openkcm@my-project.iam.gserviceaccount.com",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use regex::Regex;

    use super::*;

    #[test]
    fn forms_that_the_stores_use() {
        let uuid = "1234abcd-12ab-34cd-56ef-1234567890ab";
        let table = [
            (AWS_KEY, format!("arn:aws:kms:eu-central-1:111122223333:key/{uuid}"), true),
            (AWS_KEY, format!("arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/{uuid}"), true),
            (AWS_KEY, format!("arn:aws-cn:kms:cn-northwest-1:111122223333:key/{uuid}"), true),
            (AWS_KEY, format!("arn:aws-iso-b:kms:us-isob-east-1:111122223333:key/{uuid}"), true),
            (AWS_KEY, format!("arn:aws-eusc:kms:eusc-de-east-1:111122223333:key/{uuid}"), true),
            (AWS_KEY, format!("arn:aws:kms:us-east-1:111122223333:key/mrk-{}", "0".repeat(32)), true),
            (AWS_KEY, "arn:aws:kms:ap-southeast-2:111122223333:alias/team/openkcm_1".into(), true),
            (AWS_KEY, uuid.into(), false),
            (AWS_KEY, format!("arn:aws:kms:eu-central-1:11112222333:key/{uuid}"), false),
            (AWS_KEY, format!("arn:aws:s3:eu-central-1:111122223333:key/{uuid}"), false),
            (AWS_KEY, format!("arn:aws-evil:kms:eu-central-1:111122223333:key/{uuid}"), false),
            (AWS_KEY, format!("arn:aws:kms:evil.example#:111122223333:key/{uuid}"), false),
            (AZURE_KEY, "https://my-vault.vault.azure.net/keys/root".into(), true),
            (AZURE_KEY, format!("https://my-vault.vault.azure.net/keys/root/{}", "a".repeat(32)), true),
            (AZURE_KEY, "https://my-hsm.managedhsm.azure.net/keys/root".into(), true),
            (AZURE_KEY, "https://my-vault.vault.usgovcloudapi.net/keys/root".into(), true),
            (AZURE_KEY, "http://my-vault.vault.azure.net/keys/root".into(), false),
            (AZURE_KEY, "https://my-vault.vault.azure.net.evil.example/keys/root".into(), false),
            (AZURE_KEY, "https://my-vault.vault.azure.net/secrets/root".into(), false),
            (AZURE_KEY, "https://169.254.169.254/keys/root".into(), false),
            (GCP_KEY, "projects/my-project/locations/global/keyRings/r/cryptoKeys/k".into(), true),
            (GCP_KEY, "projects/example.com:my-project/locations/eu/keyRings/r/cryptoKeys/k".into(), true),
            (
                GCP_KEY,
                "projects/my-project/locations/eu/keyRings/r/cryptoKeys/k/cryptoKeyVersions/12".into(),
                true,
            ),
            (GCP_KEY, "projects/my-project/locations/eu/keyRings/r/cryptoKeys/../secrets".into(), false),
            (PKCS11_KEY, "pkcs11:token=openkcm;object=root-1".into(), true),
            (PKCS11_KEY, "pkcs11:serial=1234;id=%01%02;type=secret-key".into(), true),
            (PKCS11_KEY, "pkcs11:token=a b".into(), false),
            (PKCS11_KEY, "pkcs11:token=a?pin-value=1".into(), false),
            (PKCS11_KEY, "pkcs11:token=%zz".into(), false),
            (AWS_ROLE, "arn:aws:iam::111122223333:role/path/openkcm".into(), true),
            (AWS_ROLE, "arn:aws:iam::111122223333:user/openkcm".into(), false),
            (GCP_SERVICE_ACCOUNT, "openkcm@my-project.iam.gserviceaccount.com".into(), true),
            (GCP_SERVICE_ACCOUNT, "openkcm@example.com".into(), false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(Regex::new(pattern).unwrap().is_match(&text), expected, "{text}");
        }
    }
}
