//! What callers read when an operation is refused: a stable code for machines, a sentence for people.

use std::fmt;

use tonic::{Code as Grpc, Status, metadata::MetadataValue};

use crate::{
    envelope::EnvelopeError,
    store::{Address, EvictReason, Refusal},
};

/// Metadata key of the stable code.
pub const CODE_METADATA: &str = "openkcm-code";

/// The stable codes; `application.proto` has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // Documented in `application.proto`, once.
pub enum Code {
    Unauthenticated,
    UnknownKey,
    NotAllowed,
    Disabled,
    Evicted,
    Destroyed,
    Compromised,
    UnknownVersion,
    OtherKey,
    LeaseLost,
    Tampered,
    Malformed,
    TooLarge,
    Overloaded,
    TimedOut,
    Internal,
}

impl Code {
    /// All of them, in the order of the published table.
    pub const ALL: [Self; 16] = [
        Self::Unauthenticated,
        Self::UnknownKey,
        Self::NotAllowed,
        Self::Disabled,
        Self::Evicted,
        Self::Destroyed,
        Self::Compromised,
        Self::UnknownVersion,
        Self::OtherKey,
        Self::LeaseLost,
        Self::Tampered,
        Self::Malformed,
        Self::TooLarge,
        Self::Overloaded,
        Self::TimedOut,
        Self::Internal,
    ];

    /// The code as it travels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unauthenticated => "unauthenticated",
            Self::UnknownKey => "unknown-key",
            Self::NotAllowed => "not-allowed",
            Self::Disabled => "disabled",
            Self::Evicted => "evicted",
            Self::Destroyed => "destroyed",
            Self::Compromised => "compromised",
            Self::UnknownVersion => "unknown-version",
            Self::OtherKey => "other-key",
            Self::LeaseLost => "lease-lost",
            Self::Tampered => "tampered",
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::Overloaded => "overloaded",
            Self::TimedOut => "timed-out",
            Self::Internal => "internal",
        }
    }

    const fn grpc(self) -> Grpc {
        match self {
            Self::Unauthenticated => Grpc::Unauthenticated,
            Self::UnknownKey | Self::UnknownVersion => Grpc::NotFound,
            Self::NotAllowed => Grpc::PermissionDenied,
            Self::Disabled | Self::Evicted | Self::Destroyed | Self::Compromised => Grpc::FailedPrecondition,
            Self::OtherKey | Self::Tampered | Self::Malformed => Grpc::InvalidArgument,
            Self::LeaseLost => Grpc::Unavailable,
            Self::TooLarge => Grpc::OutOfRange,
            Self::Overloaded => Grpc::ResourceExhausted,
            Self::TimedOut => Grpc::DeadlineExceeded,
            Self::Internal => Grpc::Internal,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused or failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct OpError {
    /// For machines.
    pub code: Code,
    /// For people. Quotes only names that were checked to be names.
    pub message: String,
}

impl OpError {
    /// An error with this code and sentence.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What a refusal of the store means for this address.
    pub fn refused(refusal: Refusal, address: Address<'_>) -> Self {
        let Address { tenant, namespace, name } = address;
        let key = format_args!("key {namespace}/{name} of tenant {tenant}");
        match refusal {
            Refusal::UnknownKey => {
                Self::new(Code::UnknownKey, format!("this edge has no {key} that the caller may use"))
            }
            Refusal::NotAllowed => Self::new(
                Code::NotAllowed,
                format!(
                    "the caller is no service account of namespace {namespace} and is not among spec.clients of {key}"
                ),
            ),
            Refusal::LeaseLost => Self::new(
                Code::LeaseLost,
                format!("{key} cannot be used: this edge has no lease, its orchestrator is out of reach"),
            ),
            Refusal::Evicted(EvictReason::Disabled) => {
                Self::new(Code::Disabled, format!("{key} is disabled (spec.state: Disabled)"))
            }
            Refusal::Evicted(EvictReason::Destroyed { on }) => {
                Self::new(Code::Destroyed, format!("{key} was destroyed on {on}"))
            }
            Refusal::Evicted(reason) => {
                Self::new(Code::Evicted, format!("{key} was taken back from this edge: {reason}"))
            }
            Refusal::Destroyed(on) => {
                Self::new(Code::Destroyed, format!("this version of {key} was destroyed on {on}"))
            }
            Refusal::Compromised => Self::new(
                Code::Compromised,
                format!("this version of {key} is compromised and is not used any more"),
            ),
            Refusal::UnknownVersion => {
                Self::new(Code::UnknownVersion, format!("this edge has no such version of {key}"))
            }
            Refusal::OtherKey => {
                Self::new(Code::OtherKey, format!("the ciphertext was made by another key than {key}"))
            }
        }
    }
}

impl From<EnvelopeError> for OpError {
    fn from(error: EnvelopeError) -> Self {
        let code = match error {
            EnvelopeError::Malformed => Code::Malformed,
            EnvelopeError::Tampered => Code::Tampered,
            EnvelopeError::TooLarge => Code::TooLarge,
            EnvelopeError::Library => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl From<OpError> for Status {
    fn from(error: OpError) -> Self {
        let mut status = Self::new(error.code.grpc(), error.message);
        status.metadata_mut().insert(CODE_METADATA, MetadataValue::from_static(error.code.as_str()));
        status
    }
}
