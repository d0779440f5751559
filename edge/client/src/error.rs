//! What went wrong.

use tonic::{Code, Status};

/// A call failed.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct EdgeError {
    /// The stable code, for example `disabled` (all are listed in `application.proto`); `unreachable` if no edge
    /// answered, `token` if the token could not be read.
    pub code: String,
    /// For people.
    pub message: String,
    /// Whether the same call may succeed a little later without anyone's doing.
    pub retryable: bool,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl EdgeError {
    pub(crate) fn local(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retryable: false, source: None }
    }

    pub(crate) fn connect(error: tonic::transport::Error) -> Self {
        Self {
            code: "unreachable".into(),
            message: "no edge answers at this address".into(),
            retryable: true,
            source: Some(error.into()),
        }
    }

    pub(crate) fn io(code: &str, message: String, error: std::io::Error) -> Self {
        Self { code: code.into(), message, retryable: false, source: Some(error.into()) }
    }
}

impl From<Status> for EdgeError {
    fn from(status: Status) -> Self {
        let retryable = matches!(status.code(), Code::Unavailable | Code::ResourceExhausted);
        // The edge's own words say everything; what the transport says may need its causes.
        let named =
            status.metadata().get("openkcm-code").and_then(|code| code.to_str().ok()).map(str::to_owned);
        let message = status.message().to_owned();
        if let Some(code) = named {
            return Self { code, message, retryable, source: None };
        }
        let code = match status.code() {
            Code::Unavailable => "unreachable",
            Code::OutOfRange | Code::ResourceExhausted => "too-large",
            _ => "internal",
        };
        Self { code: code.into(), message, retryable, source: Some(status.into()) }
    }
}
