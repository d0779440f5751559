//! The streaming calls.

use std::time::Duration;

use futures::{StreamExt, stream, stream::BoxStream};
use openkcm_edge_protocol::application::{Key, StreamRequest, StreamResponse};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};
use zeroize::Zeroize;

use super::{
    Service,
    calls::{key_address, verified},
};
use crate::{
    auth::{self, Verified},
    engine::{Direction, Engine, Stream},
    envelope::{CHUNK, HEADER_LEN},
    error::{Code, OpError},
};

/// Output is sent in pieces of about this size.
const PIECE: usize = CHUNK * 4;
/// A stream in which nothing comes for so long is ended: it keeps a place that others may need.
const IDLE: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(60) };

/// A stream on its way: what it waits for, and the bytes that are ready.
struct Progress {
    engine: Engine,
    verified: Verified,
    direction: Direction,
    inbound: Streaming<StreamRequest>,
    /// From the first message.
    opening: Option<(Key, Vec<u8>)>,
    /// Bytes of a header that has not come whole.
    header: Vec<u8>,
    stream: Option<Stream>,
    ended: bool,
}

impl Service {
    pub(super) fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
        direction: Direction,
    ) -> Result<Response<BoxStream<'static, Result<StreamResponse, Status>>>, Status> {
        let verified = verified(&request)?;
        let metrics = self.metrics.clone();
        let progress = Progress {
            engine: self.engine.clone(),
            verified,
            direction,
            inbound: request.into_inner(),
            opening: None,
            header: Vec::new(),
            stream: None,
            ended: false,
        };
        let operation = match direction {
            Direction::Encrypt => "encrypt-stream",
            Direction::Decrypt => "decrypt-stream",
        };
        let answers = stream::unfold(progress, move |mut progress| {
            let metrics = metrics.clone();
            async move {
                if progress.ended {
                    return None;
                }
                let mut data = Vec::new();
                let result = progress.advance(&mut data).await;
                if progress.ended || result.is_err() {
                    progress.ended = true;
                    let error = result.as_ref().err();
                    metrics.count(operation, error, 1);
                }
                match result {
                    Ok(()) => Some((Ok(StreamResponse { data }), progress)),
                    Err(error) => {
                        data.zeroize();
                        Some((Err(Status::from(error)), progress))
                    }
                }
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Why a stream cannot be read, which is either our own refusal on the way or the transport's complaint.
fn unreadable(status: &Status) -> OpError {
    match status.code() {
        tonic::Code::ResourceExhausted => OpError::new(Code::Overloaded, status.message()),
        tonic::Code::OutOfRange => {
            OpError::new(Code::TooLarge, "a message of the stream is larger than the limit")
        }
        _ => OpError::new(Code::Malformed, "the request stream broke off or is not readable"),
    }
}

impl Progress {
    /// Takes messages until there is a piece to send or the stream has ended.
    async fn advance(&mut self, out: &mut Vec<u8>) -> Result<(), OpError> {
        while out.len() < PIECE && !self.ended {
            let message = timeout(IDLE, self.inbound.message()).await;
            if auth::now() >= self.verified.until {
                return Err(OpError::new(Code::Unauthenticated, "the token has expired"));
            }
            let idle = |_| OpError::new(Code::TimedOut, "nothing came on this stream for a minute");
            let message = message.map_err(idle)?.map_err(|status| unreadable(&status))?;
            if let Some(message) = message {
                self.take(message, out)?;
            } else {
                self.ended = true;
                // A stream may be empty, but it names its key.
                self.begin(&[], out)?;
                let stream = self.stream.take();
                let cut = || OpError::new(Code::Tampered, "the stream ends before its header does");
                stream.ok_or_else(cut)?.finish(out)?;
            }
            // An encryption can say its header at once; there may be nothing else for a long time.
            if !out.is_empty() && self.direction == Direction::Encrypt {
                break;
            }
        }
        Ok(())
    }

    fn take(&mut self, mut message: StreamRequest, out: &mut Vec<u8>) -> Result<(), OpError> {
        if self.opening.is_none() {
            let key = message.key.take();
            let key = key.ok_or_else(|| OpError::new(Code::Malformed, "the first message names no key"))?;
            self.opening = Some((key, std::mem::take(&mut message.aad)));
        } else if message.key.is_some() || !message.aad.is_empty() {
            return Err(OpError::new(Code::Malformed, "only the first message names key and AAD"));
        }
        let result = self.begin(&message.data, out);
        message.data.zeroize();
        result
    }

    /// Passes data on, after the beginning that it may still lack.
    fn begin(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<(), OpError> {
        if self.stream.is_none() {
            let missing = || OpError::new(Code::Malformed, "the stream names no key");
            let (key, aad) = self.opening.as_ref().ok_or_else(missing)?;
            let (address, caller) = (key_address(Some(key))?, &self.verified.caller);
            self.stream = match self.direction {
                Direction::Encrypt => {
                    let stream = self.engine.encrypt_stream(address, caller, aad)?;
                    out.extend_from_slice(&stream.header());
                    Some(stream)
                }
                Direction::Decrypt => {
                    let (head, rest) = data.split_at(data.len().min(HEADER_LEN - self.header.len()));
                    self.header.extend_from_slice(head);
                    data = rest;
                    if self.header.len() < HEADER_LEN {
                        return Ok(());
                    }
                    Some(self.engine.decrypt_stream(address, caller, &self.header, aad)?)
                }
            };
        }
        match &mut self.stream {
            Some(stream) => stream.push(data, out),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use openkcm_edge_protocol::application::{crypto_client::CryptoClient, crypto_server::CryptoServer};

    use super::*;
    use crate::{caller::Caller, metrics::Metrics, store::KeyStore};

    #[tokio::test]
    async fn a_stream_in_which_nothing_comes_is_ended() {
        let store = Arc::new(KeyStore::new());
        let metrics = Arc::new(Metrics::new(Arc::clone(&store)));
        let service = Service { engine: Engine::new(store), metrics };
        let caller = Verified { caller: Caller::new("issuer", "subject", None), until: u64::MAX };
        let mut client =
            CryptoClient::new(CryptoServer::with_interceptor(service, move |mut request: Request<()>| {
                request.extensions_mut().insert(caller.clone());
                Ok(request)
            }));
        for direction in [Direction::Encrypt, Direction::Decrypt] {
            let silent = stream::pending::<StreamRequest>();
            let answers = match direction {
                Direction::Encrypt => client.encrypt_stream(silent).await,
                Direction::Decrypt => client.decrypt_stream(silent).await,
            };
            let mut answers = answers.unwrap().into_inner();
            let end = timeout(Duration::from_secs(30), answers.message()).await;
            let status = end.expect("the stream is ended by the edge").unwrap_err();
            assert_eq!(status.code(), tonic::Code::DeadlineExceeded, "{status}");
            assert!(answers.message().await.unwrap().is_none(), "it goes on after its end");
        }
    }
}
