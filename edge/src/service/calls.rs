//! The unary calls, and the batch.

use std::time::Instant;

use futures::{StreamExt, stream::BoxStream};
use openkcm_edge_protocol::application::{
    BatchRequest, BatchResponse, DecryptDataKeyRequest, DecryptDataKeyResponse, DecryptRequest,
    DecryptResponse, DescribeRequest, DescribeResponse, EncryptRequest, EncryptResponse,
    GenerateDataKeyRequest, GenerateDataKeyResponse, ItemError, Items, Key, Operation, StreamRequest,
    StreamResponse, VersionDescription, VersionState, crypto_server::Crypto,
};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;
use zeroize::Zeroize;

use super::{MAX_BATCH_BYTES, SPANS, Service};
use crate::{
    auth::{self, Verified},
    caller::Caller,
    engine::{DATA_KEY_LEN, Direction, MAX_BATCH, address},
    envelope::OVERHEAD,
    error::{Code, OpError},
    store::{Address, Gone, Usable},
};

/// The verified caller that the gate put into the request.
pub(super) fn verified<T>(request: &Request<T>) -> Result<Verified, OpError> {
    let missing = || OpError::new(Code::Unauthenticated, "the request was not authenticated");
    request.extensions().get().cloned().ok_or_else(missing)
}

/// A span that exists only while traces are exported.
fn call_span(operation: &'static str) -> tracing::Span {
    tracing::trace_span!(target: SPANS, "call", otel.name = operation, otel.kind = "server", code = tracing::field::Empty)
}

pub(super) fn key_address(key: Option<&Key>) -> Result<Address<'_>, OpError> {
    let key = key.ok_or_else(|| OpError::new(Code::Malformed, "the request names no key"))?;
    address(&key.tenant, &key.name)
}

impl Service {
    /// Runs one operation and keeps its figures.
    fn run<R>(
        &self,
        operation: &'static str,
        act: impl FnOnce() -> Result<R, OpError>,
    ) -> Result<Response<R>, Status> {
        let span = call_span(operation);
        let start = Instant::now();
        let result = span.in_scope(act);
        self.metrics.observe(operation, start.elapsed());
        self.metrics.count(operation, result.as_ref().err(), 1);
        span.record("code", result.as_ref().err().map_or("ok", |error| error.code.as_str()));
        if let Err(error) = &result {
            tracing::debug!(operation, code = error.code.as_str(), "refused");
        }
        result.map(Response::new).map_err(Status::from)
    }

    fn open(
        &self,
        key: Option<&Key>,
        caller: &Caller,
        mut envelope: Vec<u8>,
        aad: &[u8],
    ) -> Result<(Vec<u8>, u32), OpError> {
        let opened = self.engine.decrypt(key_address(key)?, caller, &mut envelope, aad);
        opened.map(|(version, range)| {
            // Moves the plaintext to the front of the buffer that it was decrypted in: no second copy of it remains.
            let length = range.len();
            envelope.copy_within(range, 0);
            envelope[length..].zeroize();
            envelope.truncate(length);
            (envelope, version)
        })
    }
}

#[tonic::async_trait]
impl Crypto for Service {
    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        self.run("encrypt", || {
            let caller = verified(&request)?.caller;
            let mut request = request.into_inner();
            let mut ciphertext = Vec::with_capacity(request.plaintext.len() + OVERHEAD);
            let key = key_address(request.key.as_ref())?;
            let version =
                self.engine.encrypt(key, &caller, &request.plaintext, &request.aad, &mut ciphertext);
            request.plaintext.zeroize();
            Ok(EncryptResponse { ciphertext, version: version? })
        })
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        self.run("decrypt", || {
            let caller = verified(&request)?.caller;
            let request = request.into_inner();
            let (plaintext, version) =
                self.open(request.key.as_ref(), &caller, request.ciphertext, &request.aad)?;
            Ok(DecryptResponse { plaintext, version })
        })
    }

    async fn generate_data_key(
        &self,
        request: Request<GenerateDataKeyRequest>,
    ) -> Result<Response<GenerateDataKeyResponse>, Status> {
        self.run("generate-data-key", || {
            let caller = verified(&request)?.caller;
            let request = request.into_inner();
            let key = key_address(request.key.as_ref())?;
            let mut made = self.engine.generate_data_key(key, &caller, &request.aad)?;
            let data_key = std::mem::take(&mut *made.key);
            Ok(GenerateDataKeyResponse { data_key, wrapped: made.wrapped, version: made.version })
        })
    }

    async fn decrypt_data_key(
        &self,
        request: Request<DecryptDataKeyRequest>,
    ) -> Result<Response<DecryptDataKeyResponse>, Status> {
        self.run("decrypt-data-key", || {
            let caller = verified(&request)?.caller;
            let request = request.into_inner();
            if request.wrapped.len() != DATA_KEY_LEN + OVERHEAD {
                return Err(OpError::new(Code::Malformed, "not a wrapped data key"));
            }
            let (data_key, version) =
                self.open(request.key.as_ref(), &caller, request.wrapped, &request.aad)?;
            Ok(DecryptDataKeyResponse { data_key, version })
        })
    }

    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeResponse>, Status> {
        self.run("describe", || {
            let caller = verified(&request)?.caller;
            let description = self.engine.describe(key_address(request.get_ref().key.as_ref())?, &caller)?;
            let versions = description.versions.into_iter().map(|(version, state)| {
                let state = match state {
                    Ok(Usable::EncryptDecrypt) => VersionState::Active,
                    Ok(Usable::DecryptOnly) => VersionState::DecryptOnly,
                    Err(Gone::Compromised) => VersionState::Compromised,
                    Err(Gone::Destroyed { .. }) => VersionState::Destroyed,
                };
                VersionDescription { version, state: state.into() }
            });
            let remaining = self.engine.store().lease().remaining.as_millis();
            Ok(DescribeResponse {
                key_id: Uuid::from_bytes(description.key_id).to_string(),
                current_version: description.current,
                versions: versions.collect(),
                lease_remaining_ms: u64::try_from(remaining).unwrap_or(u64::MAX),
            })
        })
    }

    type BatchStream = BoxStream<'static, Result<BatchResponse, Status>>;

    async fn batch(
        &self,
        request: Request<Streaming<BatchRequest>>,
    ) -> Result<Response<Self::BatchStream>, Status> {
        let Verified { caller, until } = verified(&request)?;
        let (engine, metrics) = (self.engine.clone(), self.metrics.clone());
        let service = Self { engine, metrics };
        let answers = request.into_inner().map(move |message| {
            if auth::now() >= until {
                let error = OpError::new(Code::Unauthenticated, "the token has expired");
                return Err(error.into());
            }
            Ok(service.answer(message?, &caller)?)
        });
        Ok(Response::new(answers.boxed()))
    }

    type EncryptStreamStream = BoxStream<'static, Result<StreamResponse, Status>>;

    async fn encrypt_stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::EncryptStreamStream>, Status> {
        self.stream(request, Direction::Encrypt)
    }

    type DecryptStreamStream = BoxStream<'static, Result<StreamResponse, Status>>;

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::DecryptStreamStream>, Status> {
        self.stream(request, Direction::Decrypt)
    }
}

impl Service {
    fn answer(&self, request: BatchRequest, caller: &Caller) -> Result<BatchResponse, OpError> {
        let start = Instant::now();
        let (operation, direction) = match request.operation() {
            Operation::Encrypt => ("batch-encrypt", Direction::Encrypt),
            Operation::Decrypt => ("batch-decrypt", Direction::Decrypt),
            Operation::Unspecified => {
                return Err(OpError::new(Code::Malformed, "the batch names no operation"));
            }
        };
        let key = key_address(request.key.as_ref())?;
        let mut inputs = request.inputs.unwrap_or_default();
        let aads = request.aads.unwrap_or_default();
        let (parts, aads) = (split(&inputs)?, split(&aads)?);
        if parts.len() > MAX_BATCH || inputs.data.len() > MAX_BATCH_BYTES {
            return Err(OpError::new(Code::TooLarge, "a batch has at most 4,096 inputs and 3 MiB"));
        }
        if aads.len() > 1 && aads.len() != parts.len() {
            return Err(OpError::new(
                Code::Malformed,
                "a batch has one AAD for each input, or one for all, or none",
            ));
        }
        let aad = |index: usize| match aads.as_slice() {
            [] => &[][..],
            [all] => all,
            each => each[index],
        };
        let output = call_span(operation).in_scope(|| self.engine.batch(direction, key, caller, &parts, aad));
        let failed = output.errors.len() as u64;
        self.metrics.count(operation, None, parts.len() as u64 - failed);
        for (_, error) in &output.errors {
            self.metrics.count(operation, Some(error), 1);
        }
        drop(parts);
        if direction == Direction::Encrypt {
            inputs.data.zeroize();
        }
        self.metrics.observe(operation, start.elapsed());
        let errors = output.errors.into_iter().map(|(index, error)| ItemError {
            index,
            code: error.code.as_str().into(),
            message: error.message,
        });
        Ok(BatchResponse {
            id: request.id,
            errors: errors.collect(),
            outputs: Some(Items { data: output.data, lengths: output.lengths }),
        })
    }
}

/// The parts of a packed list, whose lengths must add up.
fn split(items: &Items) -> Result<Vec<&[u8]>, OpError> {
    let wrong = || OpError::new(Code::Malformed, "the lengths of a batch do not add up to its data");
    let mut rest = items.data.as_slice();
    let mut parts = Vec::with_capacity(items.lengths.len().min(MAX_BATCH));
    for length in &items.lengths {
        let (part, behind) = rest.split_at_checked(*length as usize).ok_or_else(wrong)?;
        parts.push(part);
        rest = behind;
    }
    if rest.is_empty() { Ok(parts) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn packed_lists_are_taken_apart_as_they_were_packed_or_refused(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..20),
            wrong in proptest::option::of((any::<prop::sample::Index>(), any::<u32>())),
        ) {
            let mut lengths: Vec<u32> = parts.iter().map(|part| u32::try_from(part.len()).unwrap()).collect();
            let packed = parts.concat();
            if let Some((index, length)) = wrong && !lengths.is_empty() {
                let place = index.index(lengths.len());
                lengths[place] = length;
            }
            let adds_up = lengths.iter().map(|length| u64::from(*length)).sum::<u64>() == packed.len() as u64;
            let items = Items { data: packed, lengths };
            let result = split(&items);
            prop_assert_eq!(result.is_ok(), adds_up);
            if wrong.is_none() {
                prop_assert_eq!(result.unwrap(), parts);
            }
        }
    }
}
