//! The gRPC service for applications.

mod calls;
mod connections;
mod gate;
mod limits;
mod listen;
mod streams;

use std::sync::Arc;

use openkcm_edge_protocol::application::crypto_server::CryptoServer;

pub use self::{
    gate::Gate,
    listen::{ListenError, Listeners, TlsConfig, serve},
};
use crate::{auth::Authenticator, engine::Engine, envelope::MAX_MESSAGE, metrics::Metrics};

/// Largest gRPC message: a full message, its AAD and the envelope around both, or a batch.
const MAX_GRPC: usize = 4 * MAX_MESSAGE;
/// Target of the spans of applications' calls: no usual log level reaches them, an exporter of traces does.
pub const SPANS: &str = "openkcm_edge::call";
/// Most bytes of inputs in a batch message.
const MAX_BATCH_BYTES: usize = 3 * MAX_MESSAGE;

/// What the calls need.
pub struct Service {
    engine: Engine,
    metrics: Arc<Metrics>,
}

/// The service behind its gate: nothing is decoded for a caller who is not verified.
pub fn service(
    engine: Engine,
    auth: Arc<Authenticator>,
    metrics: Arc<Metrics>,
    certificate_issuer: &str,
) -> Gate {
    let server = CryptoServer::new(Service { engine, metrics: Arc::clone(&metrics) })
        .max_decoding_message_size(MAX_GRPC)
        .max_encoding_message_size(2 * MAX_GRPC);
    Gate::new(server, auth, metrics, certificate_issuer)
}
