//! The kubeconfig that `openkcm-provider run` is given.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use openkcm_apis::export::{PROVIDER_NAMESPACE, PROVIDER_SERVICE_ACCOUNT, PROVIDER_TOKEN_SECRET};
use serde_json::json;

use crate::{Action, Error, apply::Applier, connection::Connection};

const OWNER_ONLY: u32 = 0o600;
/// How long kcp may take to fill the token's Secret, in steps of [`PAUSE`].
const ATTEMPTS: usize = 150;
const PAUSE: Duration = Duration::from_millis(200);

/// Writes a kubeconfig for the provider's ServiceAccount, readable by its owner only.
pub(crate) async fn write(connection: &Connection, applier: &Applier, path: &Path) -> Result<Action, Error> {
    let token = token(applier).await?;
    let text = kubeconfig(&connection.url(applier.workspace()), connection.root_certificates(), &token)
        .map_err(|error| Error::Manifest { what: "the kubeconfig".to_owned(), source: Box::new(error) })?;
    put(path, &text).map_err(|source| Error::Write { path: path.to_owned(), source })
}

async fn token(applier: &Applier) -> Result<String, Error> {
    let api: Api<Secret> = Api::namespaced(applier.client(), PROVIDER_NAMESPACE);
    for _ in 0..ATTEMPTS {
        let secret = api.get_opt(PROVIDER_TOKEN_SECRET).await;
        let object = format!("Secret {PROVIDER_NAMESPACE}/{PROVIDER_TOKEN_SECRET}");
        let secret = secret.map_err(|error| applier.failed("read", &object, error))?;
        let token = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove("token"));
        if let Some(token) = token.and_then(|token| String::from_utf8(token.0).ok()) {
            return Ok(token);
        }
        tokio::time::sleep(PAUSE).await;
    }
    let what = format!("the token of ServiceAccount {PROVIDER_NAMESPACE}/{PROVIDER_SERVICE_ACCOUNT}");
    Err(Error::Timeout { what, workspace: applier.workspace().to_owned() })
}

fn kubeconfig(server: &str, roots: &[Vec<u8>], token: &str) -> Result<String, serde_yaml_ng::Error> {
    let name = "openkcm-provider";
    let mut cluster = json!({"server": server});
    if !roots.is_empty() {
        let pem: String = roots.iter().map(|der| pem(der)).collect();
        cluster["certificate-authority-data"] = STANDARD.encode(pem).into();
    }
    serde_yaml_ng::to_string(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "users": [{"name": name, "user": {"token": token}}],
    }))
}

fn pem(der: &[u8]) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in STANDARD.encode(der).as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}

/// Puts the text there at once and whole: through a new file beside it that nobody else could ever read.
fn put(path: &Path, text: &str) -> io::Result<Action> {
    let present = fs::metadata(path).ok();
    let private = present.as_ref().is_some_and(|file| file.permissions().mode() & 0o777 == OWNER_ONLY);
    if private && fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(Action::Unchanged);
    }
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut new_name = name.to_owned();
    new_name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(new_name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&new)?;
    let written = file
        .set_permissions(Permissions::from_mode(OWNER_ONLY))
        .and_then(|()| file.write_all(text.as_bytes()))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&new);
    }
    written.map(|()| if present.is_some() { Action::Updated } else { Action::Created })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_owner_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("provider.kubeconfig");
        assert_eq!(put(&path, "a").unwrap(), Action::Created);
        assert_eq!(put(&path, "a").unwrap(), Action::Unchanged);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(put(&path, "a").unwrap(), Action::Updated);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, OWNER_ONLY);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn kube_reads_it_back() {
        let text = kubeconfig("https://127.0.0.1:6443/clusters/root:a", &[vec![1, 2, 3]], "t").unwrap();
        let read = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        let cluster = read.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://127.0.0.1:6443/clusters/root:a"));
        let pem = STANDARD.decode(cluster.certificate_authority_data.as_ref().unwrap()).unwrap();
        assert_eq!(
            String::from_utf8(pem).unwrap(),
            "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n"
        );
    }
}
