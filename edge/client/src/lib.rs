//! Client of the Crypto Edge for applications.
//!
//! ```no_run
//! # async fn example() -> Result<(), openkcm_edge_client::EdgeError> {
//! use openkcm_edge_client::{Address, EdgeClient, Key, Token};
//!
//! let edge = EdgeClient::connect(
//!     Address::Unix("/run/openkcm/edge.sock".into()),
//!     Token::File("/var/run/secrets/openkcm/token".into()),
//! )
//! .await?;
//! let key = Key::new("tenant-root-acme", "payments/db");
//! let ciphertext = edge.encrypt(&key, b"4111 1111 1111 1111", b"row 17").await?;
//! let plaintext = edge.decrypt(&key, ciphertext, b"row 17").await?;
//! # Ok(()) }
//! ```
#![warn(missing_docs)]

mod batch;
mod error;
mod stream;
mod token;

use std::{path::PathBuf, sync::Arc};

use hyper_util::rt::TokioIo;
use openkcm_edge_protocol::application::{
    self as wire, DecryptDataKeyRequest, DecryptRequest, DescribeRequest, EncryptRequest,
    GenerateDataKeyRequest, crypto_client::CryptoClient,
};
pub use openkcm_edge_protocol::application::{DescribeResponse, VersionState};
use tokio::net::UnixStream;
use tonic::{
    Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};
use tower::service_fn;

use self::token::Credentials;
pub use self::{
    batch::{BatchSession, Inputs, Outputs},
    error::EdgeError,
    token::Token,
};

/// Messages may be as large as the edge's limit for batches.
const MAX_MESSAGE: usize = 8 << 20;
/// How much an edge may send before it is read; HTTP/2's own 64 KiB would stop it in the middle of every batch.
const WINDOW: u32 = 4 << 20;
/// Longest frame that is read.
const FRAME: u32 = 64 << 10;
/// Largest plaintext of [`EdgeClient::encrypt`]; larger inputs go through [`EdgeClient::encrypt_stream`].
pub const MAX_PLAINTEXT: usize = 1 << 20;

/// Where an edge listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// Its unix socket.
    Unix(PathBuf),
    /// `https://host:port`, with mutual TLS.
    Tls {
        /// `https://host:port`.
        url: String,
        /// The authorities of the edge's certificate, PEM.
        authorities: Vec<u8>,
        /// The client's certificate chain, PEM.
        certificate: Vec<u8>,
        /// The client's private key, PEM.
        key: Vec<u8>,
    },
}

/// A service key as applications name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The Tenant's name or its logical cluster.
    pub tenant: String,
    /// `namespace/name`.
    pub name: String,
}

impl Key {
    /// The key `namespace/name` of a tenant.
    pub fn new(tenant: impl Into<String>, name: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), name: name.into() }
    }

    fn to_wire(&self) -> wire::Key {
        wire::Key { tenant: self.tenant.clone(), name: self.name.clone() }
    }
}

/// A data key: for use now, and wrapped to keep.
pub struct DataKey {
    /// 32 bytes. Wipe them after use.
    pub plaintext: Vec<u8>,
    /// What to store; [`EdgeClient::open_data_key`] opens it.
    pub wrapped: Vec<u8>,
}

/// A connection to an edge. Cheap to clone; calls of all clones share the connection, which is made again when it breaks.
#[derive(Clone)]
pub struct EdgeClient {
    inner: CryptoClient<Channel>,
    credentials: Arc<Credentials>,
}

impl EdgeClient {
    /// Connects.
    pub async fn connect(address: Address, token: Token) -> Result<Self, EdgeError> {
        let channel = match address {
            Address::Unix(path) => {
                // The URI is only for HTTP/2's `:authority`; the connector decides where to go.
                let connector = service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                tuned(Endpoint::from_static("http://edge")).connect_with_connector(connector).await
            }
            Address::Tls { url, authorities, certificate, key } => {
                let tls = ClientTlsConfig::new()
                    .ca_certificate(Certificate::from_pem(authorities))
                    .identity(Identity::from_pem(certificate, key));
                let endpoint = Endpoint::from_shared(url).and_then(|endpoint| endpoint.tls_config(tls));
                tuned(endpoint.map_err(EdgeError::connect)?).connect().await
            }
        };
        let inner = CryptoClient::new(channel.map_err(EdgeError::connect)?)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Self { inner, credentials: Arc::new(Credentials::new(token)) })
    }

    /// Encrypts up to [`MAX_PLAINTEXT`] bytes under the key's current version. The same `aad` is needed to decrypt.
    pub async fn encrypt(&self, key: &Key, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, EdgeError> {
        let message =
            EncryptRequest { key: Some(key.to_wire()), plaintext: plaintext.to_vec(), aad: aad.to_vec() };
        let request = self.request(message)?;
        Ok(self.inner.clone().encrypt(request).await?.into_inner().ciphertext)
    }

    /// Decrypts what [`Self::encrypt`] gave.
    pub async fn decrypt(&self, key: &Key, ciphertext: Vec<u8>, aad: &[u8]) -> Result<Vec<u8>, EdgeError> {
        let message = DecryptRequest { key: Some(key.to_wire()), ciphertext, aad: aad.to_vec() };
        let request = self.request(message)?;
        Ok(self.inner.clone().decrypt(request).await?.into_inner().plaintext)
    }

    /// Gets a new data key.
    pub async fn data_key(&self, key: &Key, aad: &[u8]) -> Result<DataKey, EdgeError> {
        let message = GenerateDataKeyRequest { key: Some(key.to_wire()), aad: aad.to_vec() };
        let request = self.request(message)?;
        let answer = self.inner.clone().generate_data_key(request).await?.into_inner();
        Ok(DataKey { plaintext: answer.data_key, wrapped: answer.wrapped })
    }

    /// Opens a wrapped data key.
    pub async fn open_data_key(&self, key: &Key, wrapped: Vec<u8>, aad: &[u8]) -> Result<Vec<u8>, EdgeError> {
        let message = DecryptDataKeyRequest { key: Some(key.to_wire()), wrapped, aad: aad.to_vec() };
        let request = self.request(message)?;
        Ok(self.inner.clone().decrypt_data_key(request).await?.into_inner().data_key)
    }

    /// What this caller may know of a key.
    pub async fn describe(&self, key: &Key) -> Result<DescribeResponse, EdgeError> {
        let request = self.request(DescribeRequest { key: Some(key.to_wire()) })?;
        Ok(self.inner.clone().describe(request).await?.into_inner())
    }

    /// Opens a session for batches.
    pub async fn batches(&self) -> Result<BatchSession, EdgeError> {
        BatchSession::open(self).await
    }

    /// A request with the caller's token.
    fn request<T>(&self, message: T) -> Result<Request<T>, EdgeError> {
        let mut request = Request::new(message);
        if let Some(value) = self.credentials.header()? {
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW).max_frame_size(FRAME)
}
