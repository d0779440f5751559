#![allow(clippy::unwrap_used, clippy::panic)]
//! Every form that is accepted survives a round trip; what looks like one and is not is refused; nothing at all panics.

use proptest::prelude::*;

use super::*;

const ID: &str = "0e9a7c3e-5a44-4a52-9d0d-0a5d9d1a8b11";
const VERSION: &str = "78deebed173b48e48f55abf87ed4cf71";

fn parse(kind: StoreKind, text: &str) -> Result<Reference, ReferenceError> {
    Reference::parse(kind, text)
}

#[test]
fn accepted_forms_are_their_own_canonical_form() {
    let accepted = [
        (StoreKind::AwsKms, format!("arn:aws:kms:eu-central-1:111122223333:key/{ID}")),
        (
            StoreKind::AwsKms,
            "arn:aws:kms:us-east-1:111122223333:key/mrk-1234567890abcdef1234567890abcdef".into(),
        ),
        (StoreKind::AwsKms, "arn:aws:kms:ap-southeast-2:111122223333:alias/team/payments_1".into()),
        (StoreKind::AwsKms, format!("arn:aws-cn:kms:cn-north-1:111122223333:key/{ID}")),
        (StoreKind::AwsKms, format!("arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/{ID}")),
        (StoreKind::AwsKms, format!("arn:aws-eusc:kms:eusc-de-east-1:111122223333:key/{ID}")),
        (StoreKind::AwsKms, format!("arn:aws-iso-b:kms:us-isob-east-1:111122223333:key/{ID}")),
        (StoreKind::AzureKeyVault, "https://acme.vault.azure.net/keys/kek".into()),
        (StoreKind::AzureKeyVault, format!("https://acme-1.vault.azure.net/keys/kek-1/{VERSION}")),
        (StoreKind::AzureKeyVault, "https://acme.managedhsm.azure.net/keys/kek".into()),
        (StoreKind::AzureKeyVault, "https://acme.vault.azure.cn/keys/kek".into()),
        (StoreKind::AzureKeyVault, "https://acme.vault.usgovcloudapi.net/keys/kek".into()),
        (StoreKind::GcpKms, "projects/acme-1/locations/europe-west3/keyRings/r_1/cryptoKeys/k-1".into()),
        (
            StoreKind::GcpKms,
            "projects/acme/locations/global/keyRings/r/cryptoKeys/k/cryptoKeyVersions/12".into(),
        ),
        (StoreKind::GcpKms, "projects/example.com:acme/locations/global/keyRings/r/cryptoKeys/k".into()),
        (StoreKind::ThalesHsm, "pkcs11:token=rot-eu;object=kek-1".into()),
        (StoreKind::ThalesHsm, "pkcs11:token=rot%20eu;object=%C3%A4%3B%2A".into()),
    ];
    for (kind, text) in accepted {
        let parsed = parse(kind, &text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((parsed.kind(), parsed.to_string()), (kind, text));
    }
}

#[test]
fn spellings_of_the_same_key_have_one_canonical_form() {
    for (kind, text, canonical) in [
        (
            StoreKind::AzureKeyVault,
            "https://ACME.Vault.Azure.NET/keys/kek/",
            "https://acme.vault.azure.net/keys/kek",
        ),
        (
            StoreKind::ThalesHsm,
            "pkcs11:object=kek;type=secret-key;token=%72ot",
            "pkcs11:token=rot;object=kek",
        ),
    ] {
        assert_eq!(parse(kind, text).unwrap().to_string(), canonical);
    }
}

#[test]
fn hostile_aws_references_are_refused() {
    let arn =
        |region: &str, account: &str, resource: &str| format!("arn:aws:kms:{region}:{account}:{resource}");
    let key = format!("key/{ID}");
    let mut refused =
        vec![String::new(), ID.into(), "alias/mine".into(), "arn:aws:kms".into(), "a".repeat(10_000)];
    for region in [
        "",
        "eu-central-1.evil.com",
        "eu-central-1/",
        "eu-central-1#",
        "evil",
        "EU-CENTRAL-1",
        "eu--1",
        "eu-central-1 ",
        "cn-north-1",
        "us-gov-west-1",
        "169.254.169.254",
        "localhost",
        "..",
        "*",
    ] {
        refused.push(arn(region, "111122223333", &key));
    }
    for account in ["", "1234", "aws", "*", "1111222233334"] {
        refused.push(arn("eu-central-1", account, &key));
    }
    for resource in [
        "",
        "key/",
        "key/x",
        "key/*",
        "alias/",
        "alias/a b",
        "alias/ä",
        "alias/*",
        &format!("{key}/x"),
        &format!("{key}:x"),
        ID,
    ] {
        refused.push(arn("eu-central-1", "111122223333", resource));
    }
    refused.push(format!("arn:aws:s3:eu-central-1:111122223333:{key}"));
    refused.push(format!("arn:aws-cn:kms:eu-central-1:111122223333:{key}"));
    refused.push(format!("arn:evil:kms:eu-central-1:111122223333:{key}"));
    for text in refused {
        assert!(parse(StoreKind::AwsKms, &text).is_err(), "{text}");
    }
    for role in [
        "",
        "role/x",
        "arn:aws:iam::111122223333:user/x",
        "arn:aws:iam::1:role/x",
        "arn:aws:iam:eu-central-1:111122223333:role/x",
        "arn:aws:iam::111122223333:role/",
        "arn:aws:iam::111122223333:role/a b",
        "arn:aws:iam::111122223333:role/a*",
    ] {
        assert!(role.parse::<AwsRole>().is_err(), "{role}");
    }
    assert!("arn:aws:iam::111122223333:role/path/open.kcm+1".parse::<AwsRole>().is_ok());
}

#[test]
fn hostile_azure_references_are_refused() {
    for text in [
        "",
        "http://acme.vault.azure.net/keys/kek",
        "https://acme.vault.azure.net",
        "https://acme.vault.azure.net/",
        "https://acme.vault.azure.net/keys",
        "https://acme.vault.azure.net/keys/",
        "https://acme.vault.azure.net/secrets/kek",
        "https://acme.vault.azure.net/keys/kek/v1",
        "https://acme.vault.azure.net/keys/kek/78deebed173b48e48f55abf87ed4cf71/x",
        "https://acme.vault.azure.net/keys/../secrets/x",
        "https://acme.vault.azure.net/keys/kek%2f..",
        "https://acme.vault.azure.net/keys/kek?x=1",
        "https://acme.vault.azure.net/keys/kek#x",
        "https://acme.vault.azure.net:8443/keys/kek",
        "https://user@acme.vault.azure.net/keys/kek",
        "https://evil.com/acme.vault.azure.net/keys/kek",
        "https://evil.com#.vault.azure.net/keys/kek",
        "https://evil.com\\.vault.azure.net/keys/kek",
        "https://acme.vault.azure.net.evil.com/keys/kek",
        "https://acmevault.azure.net/keys/kek",
        "https://.vault.azure.net/keys/kek",
        "https://vault.azure.net/keys/kek",
        "https://a.b.vault.azure.net/keys/kek",
        "https://a--b.vault.azure.net/keys/kek",
        "https://1acme.vault.azure.net/keys/kek",
        "https://acme-.vault.azure.net/keys/kek",
        "https://acme.vault.azure.net./keys/kek",
        "https://\u{430}cme.vault.azure.net/keys/kek",
        "https://127.0.0.1/keys/kek",
        "https://169.254.169.254/keys/kek",
        "https://[::1]/keys/kek",
        "https://localhost/keys/kek",
    ] {
        assert!(parse(StoreKind::AzureKeyVault, text).is_err(), "{text}");
    }
}

#[test]
fn hostile_gcp_references_are_refused() {
    let key = "projects/acme/locations/global/keyRings/r/cryptoKeys/k";
    let mut refused: Vec<String> =
        ["", "k", "projects/acme", "projects//locations/global/keyRings/r/cryptoKeys/k"]
            .map(Into::into)
            .into();
    for tail in [
        "/",
        "/x",
        ":decrypt",
        "?x",
        "/cryptoKeyVersions",
        "/cryptoKeyVersions/",
        "/cryptoKeyVersions/0",
        "/cryptoKeyVersions/-1",
        "/cryptoKeyVersions/+1",
        "/cryptoKeyVersions/01",
        "/cryptoKeyVersions/1/x",
        "/cryptoKeyVersions/99999999999",
    ] {
        refused.push(format!("{key}{tail}"));
    }
    for (from, to) in [
        ("acme", ".."),
        ("acme", "a/b"),
        ("acme", "A"),
        ("acme", ":x"),
        ("acme", "x:"),
        ("global", "*"),
        ("global", "Global"),
        ("/r/", "/r%2f/"),
        ("/r/", "/ä/"),
        ("projects", "folders"),
    ] {
        refused.push(key.replacen(from, to, 1));
    }
    for text in refused {
        assert!(parse(StoreKind::GcpKms, &text).is_err(), "{text}");
    }
    for account in [
        "",
        "x@evil.com",
        "x@p.iam.gserviceaccount.com.evil.com",
        "@p.iam.gserviceaccount.com",
        "a/b@p.iam.gserviceaccount.com",
        "x@.iam.gserviceaccount.com/..",
    ] {
        assert!(account.parse::<ServiceAccount>().is_err(), "{account}");
    }
    assert!("openkcm@acme-1.iam.gserviceaccount.com".parse::<ServiceAccount>().is_ok());
}

#[test]
fn hostile_pkcs11_references_are_refused() {
    for text in [
        "",
        "pkcs11:",
        "pkcs11:token=t",
        "pkcs11:object=o",
        "pkcs11:token=;object=o",
        "pkcs11:token=t;object=",
        "pkcs11:token=t;object=o;",
        "pkcs11:token=t;object=o;object=p",
        "pkcs11:token=t;object=o;type=private",
        "pkcs11:token=t;object=o;slot-id=0",
        "pkcs11:token=t;object=o;module-path=/tmp/evil.so",
        "pkcs11:token=t;object=o?module-path=/tmp/evil.so",
        "pkcs11:token=t;object=o?pin-value=1234",
        "pkcs11:token=t;object=o%",
        "pkcs11:token=t;object=%g0",
        "pkcs11:token=t;object=%+1",
        "pkcs11:token=t;object=%ff",
        "pkcs11:token=t;object=%00",
        "pkcs11:token=t;object=a%0Ab",
        "pkcs11:token=t;object=a b",
        "pkcs11:token=t;object=a/b",
        "PKCS11:token=t;object=o",
        "pkcs11:token=123456789012345678901234567890123;object=o",
    ] {
        assert!(parse(StoreKind::ThalesHsm, text).is_err(), "{text}");
    }
}

#[test]
fn a_refusal_says_what_would_be_right_and_repeats_nothing() {
    for kind in StoreKind::ALL {
        let message = parse(kind, "https://SECRET:SECRET@evil/").unwrap_err().to_string();
        assert!(message.contains("expected ") && !message.contains("SECRET"), "{message}");
    }
}

fn any_kind() -> impl Strategy<Value = StoreKind> {
    proptest::sample::select(StoreKind::ALL.to_vec())
}

/// Pieces of real references in any order: deeper than random text.
fn mosaic() -> impl Strategy<Value = String> {
    let pieces = [
        "arn:aws:",
        "kms:",
        "eu-central-1:",
        "111122223333:",
        "key/",
        ID,
        "alias/",
        "https://",
        "acme",
        ".vault.azure.net",
        "/keys/",
        VERSION,
        "/",
        "projects/",
        "locations/global/",
        "keyRings/r/",
        "cryptoKeys/k",
        "cryptoKeyVersions/1",
        "pkcs11:",
        "token=",
        "object=",
        ";",
        "%",
        "41",
        "?",
        "@",
        "#",
        "..",
        ":",
        "*",
        "é",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..12)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn whatever_is_accepted_is_stable(kind in any_kind(), text in prop_oneof![any::<String>(), mosaic()]) {
        if let Ok(reference) = parse(kind, &text) {
            let canonical = reference.to_string();
            prop_assert_eq!(parse(kind, &canonical), Ok(reference.clone()));
            prop_assert!(!canonical.contains(['*', '?', '#', '\n', ' ']), "{}", canonical);
        }
    }

    #[test]
    fn a_vaults_host_is_always_microsofts(text in prop_oneof![any::<String>(), mosaic(), "https://[a-z0-9.@:#-]{1,40}\\.vault\\.azure\\.net[a-z./]{0,12}/keys/[a-z]{1,5}"]) {
        if let Ok(key) = text.parse::<AzureKey>() {
            let (url, host) = (url::Url::parse(&key.vault_url()).unwrap(), key.host());
            prop_assert_eq!(url.host_str(), Some(host.as_str()));
            prop_assert!(key.host().split('.').count() == 4, "{}", key.host());
        }
    }

    #[test]
    fn any_labels_survive(token in "[^\\p{Cc}]{1,8}", object in "[^\\p{Cc}]{1,60}") {
        let key = Pkcs11Key { token, object };
        prop_assert_eq!(key.to_string().parse(), Ok(key));
    }
}
