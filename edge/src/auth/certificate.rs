//! Callers with a client certificate.

use x509_parser::{extensions::GeneralName, prelude::*};

use super::Verified;
use crate::{
    caller::Caller,
    error::{Code, OpError},
};

/// The caller of a client certificate that TLS has verified against the operator's authorities, and when it ends.
///
/// The issuer is the name that the operator gave to those authorities; the subject is the one URI of the certificate
/// (a SPIFFE id, as a rule), or else its one common name. A certificate never names a kcp workspace, so it opens only keys
/// whose `spec.clients` names it.
pub fn caller_of_certificate(issuer: &str, der: &[u8]) -> Result<Verified, OpError> {
    let refused = |reason| OpError::new(Code::Unauthenticated, reason);
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| refused("the client certificate cannot be read"))?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let common_names: Vec<&str> =
        certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok()).collect();
    let subject = match (uris.as_slice(), common_names.as_slice()) {
        ([uri], _) => uri,
        ([], [name]) => name,
        _ => return Err(refused("the client certificate needs exactly one URI, or exactly one common name")),
    };
    let until = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Ok(Verified { caller: Caller::new(issuer, subject, None), until })
}
