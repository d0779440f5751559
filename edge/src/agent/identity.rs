//! The edge's key and certificate, and the authority it trusts.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer,
    pem::{self, PemObject},
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::tls;

const URN: &str = "urn:openkcm:edge:";

/// Key, certificate or authority cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// A file could not be read or written.
    #[error("{deed} {}", path.display())]
    File {
        /// What was tried.
        deed: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file does not hold a key and certificates in PEM.
    #[error("understand {}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// A key or a request for a certificate could not be made.
    #[error("make a key for this edge")]
    Key(#[source] rcgen::Error),
    /// A certificate is not one, or not for this edge's key.
    #[error("the orchestrator's certificate for this edge cannot be used")]
    Certificate,
    /// The authority is not the one that the token or the authority file names.
    #[error("the orchestrator belongs to another authority than this edge was told to trust")]
    Authority,
    /// TLS could not be set up.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
}

/// A new key and the proof that we have it.
pub(super) struct Request {
    key: KeyPair,
    der: Vec<u8>,
}

impl Request {
    pub(super) fn new(name: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::Key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let der = params.serialize_request(&key).map_err(IdentityError::Key)?.der().to_vec();
        Ok(Self { key, der })
    }

    pub(super) fn der(&self) -> &[u8] {
        &self.der
    }
}

pub(super) struct Identity {
    path: PathBuf,
    /// PKCS#8.
    key: PrivatePkcs8KeyDer<'static>,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    edge_id: Option<String>,
    /// Unix seconds.
    validity: (i64, i64),
}

/// The first certificate of a PEM file, DER.
pub(super) fn authority_of(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let certificate = CertificateDer::from_pem_file(path)
        .map_err(|source| IdentityError::Content { path: path.to_owned(), source })?;
    Ok(certificate.to_vec())
}

impl Identity {
    pub(super) fn new(
        data_dir: &Path,
        request: &Request,
        certificate: &[u8],
        authority: &[u8],
    ) -> Result<Self, IdentityError> {
        Self::assemble(
            data_dir.join("identity").join("edge.pem"),
            request.key.serialize_der().into(),
            certificate.to_vec().into(),
            authority.to_vec().into(),
        )
    }

    fn assemble(
        path: PathBuf,
        key: PrivatePkcs8KeyDer<'static>,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, IdentityError> {
        let (validity, edge_id) = {
            let (_, parsed) =
                X509Certificate::from_der(&certificate).map_err(|_| IdentityError::Certificate)?;
            let validity = parsed.validity();
            ((validity.not_before.timestamp(), validity.not_after.timestamp()), edge_id(&parsed))
        };
        let identity = Self { path, key, certificate, authority, edge_id, validity };
        // Fails when the certificate is for another key.
        identity.tls()?;
        Ok(identity)
    }

    /// `None`: the edge has not joined yet.
    pub(super) fn load(data_dir: &Path, expected: Option<&[u8]>) -> Result<Option<Self>, IdentityError> {
        let path = data_dir.join("identity").join("edge.pem");
        if !path.exists() {
            return Ok(None);
        }
        let content = |source| IdentityError::Content { path: path.clone(), source };
        let key = PrivatePkcs8KeyDer::from_pem_file(&path).map_err(content)?;
        let certificates = CertificateDer::pem_file_iter(&path)
            .map_err(content)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(content)?;
        let [certificate, authority] = certificates.try_into().map_err(|_| IdentityError::Certificate)?;
        let identity = Self::assemble(path, key, certificate, authority)?;
        identity.check_authority(None, expected)?;
        Ok(Some(identity))
    }

    pub(super) fn check_authority(
        &self,
        fingerprint: Option<[u8; 32]>,
        expected: Option<&[u8]>,
    ) -> Result<(), IdentityError> {
        let right = fingerprint.is_none_or(|fingerprint| tls::fingerprint(&self.authority) == fingerprint);
        let same = expected.is_none_or(|expected| expected == self.authority.as_ref());
        if right && same { Ok(()) } else { Err(IdentityError::Authority) }
    }

    /// Key and certificates in one file, so that they never belong to different ones.
    pub(super) fn save(&self) -> Result<(), IdentityError> {
        let failed = |deed, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { deed, path, source }
        };
        let directory = self.path.parent().unwrap_or(Path::new("."));
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make", directory))?;
        let temporary = self.path.with_extension("new");
        let mut text = zeroize::Zeroizing::new(String::new());
        text.push_str(&pem("PRIVATE KEY", self.key.secret_pkcs8_der()));
        text.push_str(&pem("CERTIFICATE", &self.certificate));
        text.push_str(&pem("CERTIFICATE", &self.authority));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        file.write_all(text.as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &temporary))?;
        fs::rename(&temporary, &self.path).map_err(failed("replace", &self.path))?;
        File::open(directory).and_then(|handle| handle.sync_all()).map_err(failed("sync", directory))
    }

    /// Takes and keeps a new certificate for a new key.
    pub(super) fn renew(&mut self, request: &Request, certificate: &[u8]) -> Result<(), IdentityError> {
        let renewed = Self::assemble(
            self.path.clone(),
            request.key.serialize_der().into(),
            certificate.to_vec().into(),
            self.authority.clone(),
        )?;
        renewed.save()?;
        *self = renewed;
        Ok(())
    }

    pub(super) fn tls(&self) -> Result<tls::Connector, IdentityError> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone_key());
        tls::attaching(&self.authority, self.certificate.clone(), key).map_err(IdentityError::Tls)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn edge_id(&self) -> Option<&str> {
        self.edge_id.as_deref()
    }

    /// Unix seconds.
    pub(super) fn ends(&self) -> i64 {
        self.validity.1
    }

    pub(super) fn has_ended(&self) -> bool {
        now() >= self.validity.1
    }

    pub(super) fn should_renew(&self) -> bool {
        let (from, to) = self.validity;
        now() >= from + (to - from) / 3 * 2
    }
}

fn edge_id(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    let claims = names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(URN),
        _ => None,
    })?;
    let claims: serde_json::Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    claims.get("id")?.as_str().map(str::to_owned)
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::prelude::BASE64_STANDARD;
    let encoded = zeroize::Zeroizing::new(BASE64_STANDARD.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}
