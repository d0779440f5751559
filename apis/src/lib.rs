//! The kinds that users of OpenKCM write, and the APIExport generated from them.
//!
//! The first half is data: [`Tenant`], [`Account`], [`ServiceEncryptionKey`], with everything that the API
//! server itself can check in their schemas. The second half, [`export`], turns them into what a provider
//! workspace of kcp publishes. Nothing here talks to anyone, reads a clock or holds a key.
#![warn(missing_docs)]

mod account;
pub mod conditions;
pub mod export;
mod key;
mod names;
pub mod references;
mod schedule;
mod schema;
mod tenant;

pub use account::{
    Access, Account, AccountPhase, AccountSpec, AccountStatus, AwsAccess, AzureAccess, GcpAccess, Impact,
    ProviderType, Rewrap, RootKeyStatus,
};
pub use conditions::{ConditionStatus, set_condition};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
pub use key::{
    AccountRef, Algorithm, ClientRef, EdgeCounts, EffectiveState, KeyState, KeyVersion, ServiceEncryptionKey,
    ServiceEncryptionKeySpec, ServiceEncryptionKeyStatus, VersionState,
};
pub use names::{LEDGER_FINALIZER, format_version, is_region, parse_version, tenant_name};
pub use schedule::{RotationSchedule, ScheduleError};
pub use tenant::{Tenant, TenantPhase, TenantSpec, TenantStatus};

/// The API group of every kind here.
pub const GROUP: &str = "openkcm.io";
/// The one version that is served.
pub const VERSION: &str = "v1alpha1";
