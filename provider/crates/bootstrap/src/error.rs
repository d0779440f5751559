use std::{io, path::PathBuf};

/// Why bootstrap stopped. What it changed before stays, and running it again goes on from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The administrator's kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        source: Box<kube::config::KubeconfigError>,
    },
    /// The kubeconfig's server is not a workspace URL, or no client can be made from it.
    #[error("cannot make a client for {server}")]
    Client {
        /// The server's URL.
        server: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An option's value is not usable.
    #[error("{option} is not usable: {problem}")]
    Option {
        /// As it is spelled on the command line.
        option: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The API server did not do what it was asked.
    #[error("cannot {deed} {object} in {workspace}")]
    Request {
        /// The verb.
        deed: &'static str,
        /// Kind and name.
        object: String,
        /// Path of the workspace.
        workspace: String,
        /// The API server's answer.
        source: Box<kube::Error>,
    },
    /// An object of ours exists and somebody else made it.
    #[error(
        "{object} in {workspace} exists and was not made by openkcm-provider: rename or delete it, or hand it over with \
         the label openkcm.io/managed-by=openkcm-provider"
    )]
    Foreign {
        /// Kind and name.
        object: String,
        /// Path of the workspace.
        workspace: String,
    },
    /// The workspace does not serve a kind that is needed.
    #[error("{workspace} does not serve {kind}: is it a workspace of kcp 0.31 or later?")]
    NotServed {
        /// Kind with its version.
        kind: String,
        /// Path of the workspace.
        workspace: String,
    },
    /// Something that kcp does by itself took too long.
    #[error("gave up waiting for {what} in {workspace}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// Path of the workspace.
        workspace: String,
    },
    /// A manifest that is built in or was given as a template is not one.
    #[error("{what} is not a Kubernetes manifest")]
    Manifest {
        /// Which.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The provider's kubeconfig cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
