//! One error model over four key stores.

use std::{error::Error as StdError, fmt, time::Duration};

/// Why a root key cannot be used. The names appear as they are in conditions, tests and `docs/key-store-errors.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The reference names nothing (or nothing that these credentials may see, where a store does not tell the two apart).
    NotFound,
    /// The store refused: a permission, role or grant is missing.
    AccessDenied,
    /// The key, or its current version, is switched off.
    Disabled,
    /// The key is scheduled for deletion or already destroyed.
    PendingDeletion,
    /// The key exists and cannot wrap keys: wrong usage, type, size or origin.
    WrongKeyType,
    /// The store, or the binding inside, says that this wrapped key is not what was wrapped here.
    BadCiphertext,
    /// The store asks for fewer calls. The root is not lost.
    Throttled,
    /// No connection, or the store answered with an error of its own.
    Unreachable,
    /// The store did not answer before our deadline.
    Timeout,
    /// The reference, the access or the operator's configuration is wrong: no retry helps.
    Misconfigured,
}

impl Reason {
    /// Every reason, in the order of the documentation.
    pub const ALL: [Self; 10] = [
        Self::NotFound,
        Self::AccessDenied,
        Self::Disabled,
        Self::PendingDeletion,
        Self::WrongKeyType,
        Self::BadCiphertext,
        Self::Throttled,
        Self::Unreachable,
        Self::Timeout,
        Self::Misconfigured,
    ];

    /// The name as conditions and metrics show it, for example `AccessDenied`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::AccessDenied => "AccessDenied",
            Self::Disabled => "Disabled",
            Self::PendingDeletion => "PendingDeletion",
            Self::WrongKeyType => "WrongKeyType",
            Self::BadCiphertext => "BadCiphertext",
            Self::Throttled => "Throttled",
            Self::Unreachable => "Unreachable",
            Self::Timeout => "Timeout",
            Self::Misconfigured => "Misconfigured",
        }
    }

    /// Whether the same call may succeed soon with nothing changed by a person.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::Throttled | Self::Unreachable | Self::Timeout)
    }

    /// Whether the store itself answered that the key may not be used: the customer's decision, not a fault on the way.
    pub const fn is_root_loss(self) -> bool {
        matches!(self, Self::NotFound | Self::AccessDenied | Self::Disabled | Self::PendingDeletion)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much of a chain of errors is kept.
const MOST_CAUSES: usize = 8;
const MOST_TEXT: usize = 2000;

/// A call to a key store failed.
///
/// `message` is written by this crate and is safe for the tenant: what is wrong and the fix. What the store itself said is only in the
/// source chain, for the operator's log.
#[derive(Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Error {
    /// What kind of failure.
    pub reason: Reason,
    /// What the tenant reads.
    pub message: String,
    /// When a further try makes sense, where the store or the circuit breaker says so.
    pub retry_after: Option<Duration>,
    /// No call was made: a limit of ours was reached. That says nothing about the store.
    pub is_ours: bool,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with a message for the tenant.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None, is_ours: false, source: None }
    }

    /// The reference, access or configuration is wrong.
    pub fn misconfigured(message: impl Into<String>) -> Self {
        Self::new(Reason::Misconfigured, message)
    }

    /// With what led to it, for logs only.
    ///
    /// Kept as text, each error of the chain as it displays itself: some clients put whole answers into `Debug`, and an answer may hold a
    /// plaintext.
    #[must_use]
    pub fn with_source(mut self, source: &(dyn StdError + 'static)) -> Self {
        let (mut text, mut next) = (String::new(), Some(source));
        for _ in 0..MOST_CAUSES {
            let Some(error) = next else { break };
            let cause = error.to_string();
            // Some errors display their source as well.
            if !text.ends_with(&cause) {
                text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
            }
            next = error.source();
        }
        self.source = Some(text.chars().take(MOST_TEXT).collect::<String>().into());
        self
    }

    /// With a hint when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Fixed category for metrics.
    pub const fn category(&self) -> &'static str {
        self.reason.as_str()
    }
}

/// Result of a call to a key store.
pub type Result<T> = std::result::Result<T, Error>;
