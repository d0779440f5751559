//! What can go wrong outside a stream.

use std::{io, path::PathBuf};

/// Starting the orchestrator or keeping its files failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OrchestratorError {
    /// A file of the data directory could not be read or written.
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
    /// A file of the data directory does not hold what it should.
    #[error("understand {}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate could not be made.
    #[error("make the certificate of {subject}")]
    Certificate {
        /// Whose.
        subject: String,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// TLS could not be set up.
    #[error("set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The address could not be listened on.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The configured lease is not between 1 and 60 seconds.
    #[error("a lease of {0:?}: allowed are 1 to 60 seconds")]
    Lease(std::time::Duration),
    /// A name of an edge is empty, too long or has odd characters.
    #[error("an edge's name has 1 to 63 characters of a-z, 0-9, '.', '_' and inner '-'")]
    Name,
    /// The address edges dial is not `https://HOST[:PORT]`.
    #[error("an orchestrator's address must be https://HOST[:PORT]")]
    Url,
    /// The system's random source failed.
    #[error("read the system's random source")]
    Random,
}
