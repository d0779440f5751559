//! The administrator's way to any workspace of one kcp.

use std::path::Path;

use http::Uri;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::Error;

/// The address of a kcp and an administrator's credentials for it.
pub(crate) struct Connection {
    config: Config,
    /// Everything of the server's URL before `/clusters/`.
    base: String,
}

impl Connection {
    pub(crate) async fn from_kubeconfig(path: &Path) -> Result<Self, Error> {
        let fail =
            |error: KubeconfigError| Error::Kubeconfig { path: path.to_owned(), source: Box::new(error) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(fail)?;
        let config =
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(fail)?;
        let server = config.cluster_url.to_string();
        let base = server.split("/clusters/").next().unwrap_or(&server).trim_end_matches('/').to_owned();
        Ok(Self { config, base })
    }

    /// The URL of a workspace.
    pub(crate) fn url(&self, workspace: &str) -> String {
        format!("{}/clusters/{workspace}", self.base)
    }

    /// A client for a workspace, whose path was checked before.
    pub(crate) fn client(&self, workspace: &str) -> Result<Client, Error> {
        let server = self.url(workspace);
        let mut config = self.config.clone();
        config.cluster_url = server
            .parse::<Uri>()
            .map_err(|error| Error::Client { server: server.clone(), source: Box::new(error) })?;
        Client::try_from(config).map_err(|error| Error::Client { server, source: Box::new(error) })
    }

    /// The certificates that vouch for the server, as DER.
    pub(crate) fn root_certificates(&self) -> &[Vec<u8>] {
        self.config.root_cert.as_deref().unwrap_or_default()
    }
}
