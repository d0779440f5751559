//! The orchestrator's own certificate authority: signs edges and itself, nothing else.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber, date_time_ymd, string::Ia5String,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_ecdsa_type,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{OrchestratorError, Tenants, core::Identity, files::Files};

/// An edge's certificate is valid for so long; it asks for another after two thirds.
pub(crate) const EDGE_VALIDITY: Duration = Duration::from_hours(24);
/// The orchestrator's own, made at each start and again after two thirds.
pub(crate) const SERVER_VALIDITY: Duration = Duration::from_hours(24 * 30);
const AUTHORITY_VALIDITY: Duration = Duration::from_hours(24 * 365 * 20);
/// Clocks of edges may be behind.
const BACKDATE: Duration = Duration::from_hours(1);
const URN: &str = "urn:openkcm:edge:";
const KEY_FILE: &str = "authority.key.pem";
const CERTIFICATE_FILE: &str = "authority.pem";

/// What is written into an edge's certificate.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Claims {
    id: Uuid,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    tenants: Tenants,
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
}

impl Authority {
    /// The authority of the data directory, made if there is none. Several processes may do this at once.
    pub(crate) fn open(files: &Files, now: SystemTime) -> Result<Self, OrchestratorError> {
        if files.read(CERTIFICATE_FILE)?.is_none() {
            Self::make(files, now)?;
        }
        let read = |name: &str| -> Result<String, OrchestratorError> {
            let bytes = files.read(name)?.unwrap_or_default();
            String::from_utf8(bytes).map_err(|source| OrchestratorError::Content {
                path: files.path(name),
                source: Box::new(source),
            })
        };
        let key = KeyPair::from_pem(&read(KEY_FILE)?).map_err(|source| OrchestratorError::Content {
            path: files.path(KEY_FILE),
            source: Box::new(source),
        })?;
        let content = |source: Box<dyn std::error::Error + Send + Sync>| OrchestratorError::Content {
            path: files.path(CERTIFICATE_FILE),
            source,
        };
        let pem = read(CERTIFICATE_FILE)?;
        let (_, parsed) =
            x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|source| content(Box::new(source)))?;
        let der = CertificateDer::from(parsed.contents);
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|source| content(Box::new(source)))?;
        Ok(Self { issuer, der })
    }

    /// The key is written first and never replaced, so that of two processes the second takes the first one's.
    fn make(files: &Files, now: SystemTime) -> Result<(), OrchestratorError> {
        let failed = |source| OrchestratorError::Certificate { subject: "the authority".into(), source };
        let fresh = KeyPair::generate().map_err(failed)?;
        files.create(KEY_FILE, fresh.serialize_pem().as_bytes())?;
        let pem = String::from_utf8(files.read(KEY_FILE)?.unwrap_or_default()).unwrap_or_default();
        let key = KeyPair::from_pem(&pem).map_err(failed)?;
        let mut params = params("OpenKCM orchestrator", now, AUTHORITY_VALIDITY)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed)?;
        files.create(CERTIFICATE_FILE, certificate.pem().as_bytes())?;
        Ok(())
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// A certificate for a client, whatever the request asks for; the request only proves possession of its key.
    /// Gives the DER and when it ends (Unix seconds). `None`: the request is not a valid one.
    pub(crate) fn sign_edge(
        &self,
        now: SystemTime,
        request: &[u8],
        identity: &Identity,
    ) -> Result<Option<(Vec<u8>, i64)>, OrchestratorError> {
        let Ok(request) = CertificateSigningRequestParams::from_der(&request.into()) else { return Ok(None) };
        let claims = Claims {
            id: identity.id,
            name: identity.name.clone(),
            region: identity.region.clone(),
            tenants: identity.tenants.clone(),
        };
        let failed = |source| OrchestratorError::Certificate { subject: identity.name.clone(), source };
        let claims = BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let mut params = params(&identity.name, now, EDGE_VALIDITY)?;
        params.subject_alt_names =
            vec![SanType::URI(Ia5String::try_from(format!("{URN}{claims}")).map_err(failed)?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(failed)?;
        Ok(Some((certificate.der().to_vec(), unix(now + EDGE_VALIDITY))))
    }

    /// A certificate and key for this orchestrator under the given host names and addresses.
    pub(crate) fn sign_server(
        &self,
        now: SystemTime,
        hosts: &[String],
    ) -> Result<CertifiedKey, OrchestratorError> {
        let failed = |source| OrchestratorError::Certificate { subject: "the orchestrator".into(), source };
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = params("OpenKCM orchestrator", now, SERVER_VALIDITY)?;
        for host in hosts {
            let name = match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(Ia5String::try_from(host.as_str()).map_err(failed)?),
            };
            params.subject_alt_names.push(name);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = any_ecdsa_type(&private).map_err(|source| OrchestratorError::Tls(Box::new(source)))?;
        // The authority goes along: an edge that joins knows only its fingerprint.
        Ok(CertifiedKey::new(vec![certificate.der().clone(), self.der.clone()], signer))
    }
}

fn params(name: &str, now: SystemTime, validity: Duration) -> Result<CertificateParams, OrchestratorError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| OrchestratorError::Random)?;
    serial[0] &= 0x7f; // A positive number of at most 16 bytes.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let moment = |time: SystemTime| {
        let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    params.not_before = moment(now - BACKDATE);
    params.not_after = moment(now + validity);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

pub(crate) fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Who a client certificate, whose signature TLS has verified, belongs to, and when it ends (Unix seconds).
pub(crate) fn identity(certificate: &[u8]) -> Option<(Identity, i64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let claims = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(URN),
        _ => None,
    })?;
    let claims: Claims = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    let Claims { id, name, region, tenants } = claims;
    Some((Identity { id, name, region, tenants }, certificate.validity().not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_gets_the_identity_of_its_token_not_its_own() {
        let data = tempfile::tempdir().unwrap();
        let files = Files::open(data.path()).unwrap();
        let now = SystemTime::now();
        let authority = Authority::open(&files, now).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut greedy = CertificateParams::new(vec!["orchestrator.example".into()]).unwrap();
        greedy.distinguished_name.push(DnType::CommonName, "another");
        greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let request = greedy.serialize_request(&key).unwrap();
        let wanted = Identity {
            id: Uuid::from_u128(5),
            name: "edge-1".into(),
            region: Some("eu".into()),
            tenants: Tenants::Only(vec!["a".into()]),
        };
        let (der, ends) = authority.sign_edge(now, request.der(), &wanted).unwrap().unwrap();
        let (found, until) = identity(&der).unwrap();
        assert_eq!(
            (found.id, found.name, found.region, found.tenants),
            (wanted.id, wanted.name, wanted.region, wanted.tenants)
        );
        assert_eq!(until, ends);
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        assert!(!certificate.is_ca());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);

        // Bytes that are no request, and a request whose signature is not its key's.
        let mut forged = request.der().to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        for bad in [&forged[..], b"", b"no request"] {
            assert!(authority.sign_edge(now, bad, &wanted_again()).unwrap().is_none());
        }
    }

    fn wanted_again() -> Identity {
        Identity { id: Uuid::nil(), name: "edge-1".into(), region: None, tenants: Tenants::All }
    }

    #[test]
    fn the_authority_stays_the_same() {
        let data = tempfile::tempdir().unwrap();
        let files = Files::open(data.path()).unwrap();
        let first = Authority::open(&files, SystemTime::now()).unwrap().fingerprint();
        assert_eq!(Authority::open(&files, SystemTime::now()).unwrap().fingerprint(), first);
    }
}
