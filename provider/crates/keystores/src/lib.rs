//! Roots of trust: master keys in AWS KMS, Azure Key Vault, Google Cloud KMS or an HSM behind PKCS#11.
//!
//! [`KeyStores`] is made once from the operator's [`Config`]. It opens the root key that an Account names, or refuses: a tenant reaches
//! only what its own federated access or the operator's grant allows, and only addresses that a store of that kind can have. What comes
//! back is a [`RootKey`] whose every call has a deadline, a concurrency limit and a circuit breaker of its store's endpoint.
//!
//! Tenants are hostile here: references and access values are parsed by [`reference`] into closed forms, never passed on as text.
#![warn(missing_docs)]

mod aws;
mod azure;
pub mod config;
mod error;
pub mod faulty;
mod gcp;
mod guard;
mod messages;
mod metrics;
mod net;
mod pkcs11;
pub mod reference;
mod root_key;
mod stores;
mod wrapped;

pub use config::Config;
pub use error::{Error, Reason, Result};
pub use metrics::{CloudCalls, Operation, Outcome, OwnerCalls};
pub use reference::StoreKind;
pub use root_key::{Binding, Description, RootKey, Verified, Wrapped, verify, verify_with};
pub use stores::KeyStores;
