//! The orchestrator's orders as the key store understands them.

use openkcm_edge_protocol::{
    mask::{Chain, MaskError, Offer},
    orchestrator as wire,
    session::{Eviction, Keys, Refused},
};
use openkcm_secret::SecretKey;
use zeroize::Zeroize;

use crate::{
    clock::BootInstant,
    store::{Client, EvictReason, Gone, KeyEntry, KeyName, KeyStore, KeyVersion, Material, Usable},
};

/// What key bytes on one stream are masked with.
pub(super) enum Mask {
    Offered(Offer),
    Agreed(Chain),
    None,
}

impl Mask {
    /// Our half of the agreement.
    pub(super) fn tell(&self, messages: &mut [wire::FromEdge]) {
        for message in messages {
            if let (Some(wire::from_edge::Message::Hello(hello)), Self::Offered(offer)) =
                (&mut message.message, self)
            {
                hello.exchange = offer.public().to_vec();
            }
        }
    }

    /// To be called with every order, in sequence.
    pub(super) fn lift(&mut self, order: &mut wire::Order) -> Result<(), MaskError> {
        match &mut order.order {
            Some(wire::order::Order::Welcome(welcome)) => {
                let Self::Offered(offer) = std::mem::replace(self, Self::None) else { return Err(MaskError) };
                *self = Self::Agreed(offer.agree(&welcome.exchange)?);
                Ok(())
            }
            Some(wire::order::Order::Put(put)) => {
                let Self::Agreed(chain) = self else { return Err(MaskError) };
                put.versions.iter_mut().try_for_each(|version| chain.apply(&mut version.material))
            }
            _ => Ok(()),
        }
    }
}

/// A store to which the session does what the orchestrator orders.
pub struct StoreKeys<'a>(pub &'a KeyStore);

impl Keys for StoreKeys<'_> {
    fn put(&self, put: wire::Put) -> Result<(), Refused> {
        let entry = entry(put).ok_or(Refused)?;
        self.0.put(entry).map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the state of a key was refused");
            Refused
        })
    }

    fn evict(&self, key: &wire::KeyRef, reason: Eviction) {
        let Some(name) = name(key) else { return };
        let evicted = match reason {
            Eviction::Ordered(wire::EvictReason::Unspecified) => self.0.forget(&name),
            reason => self.0.evict(&name, reason_of(reason)),
        };
        if !evicted.wiped {
            // The store already refuses; the operation that still runs wipes the bytes when it ends.
            tracing::debug!("an operation outlived the eviction of its key");
        }
    }

    fn lease(&self, until: u64) {
        self.0.renew_lease(BootInstant::from_nanos(until));
    }
}

fn reason_of(reason: Eviction) -> EvictReason {
    match reason {
        Eviction::Unconfirmed => {
            EvictReason::Other("the orchestrator has not confirmed it since the last lease ended".into())
        }
        Eviction::Ordered(wire::EvictReason::Disabled) => EvictReason::Disabled,
        Eviction::Ordered(wire::EvictReason::Unavailable) => EvictReason::RootUnavailable,
        Eviction::Ordered(wire::EvictReason::Suspended) => EvictReason::TenantSuspended,
        Eviction::Destroyed { since } => EvictReason::Destroyed { on: day(since) },
        Eviction::Ordered(
            wire::EvictReason::Deleted | wire::EvictReason::Destroyed | wire::EvictReason::Unspecified,
        ) => EvictReason::Deleted,
    }
}

fn name(key: &wire::KeyRef) -> Option<KeyName> {
    let cluster = key.cluster.parse().ok()?;
    Some(KeyName { cluster, namespace: key.namespace.clone(), name: key.name.clone() })
}

pub(super) fn key_ref(name: &KeyName) -> wire::KeyRef {
    wire::KeyRef {
        cluster: name.cluster.as_str().to_owned(),
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    }
}

/// `None` for what an orchestrator never sends, or when there is no locked memory.
fn entry(mut put: wire::Put) -> Option<KeyEntry> {
    let name = name(put.key.as_ref()?)?;
    let mut versions = Vec::with_capacity(put.versions.len() + put.dead_versions.len());
    for version in &mut put.versions {
        let mut bytes: [u8; 32] = version.material.as_slice().try_into().ok()?;
        version.material.zeroize();
        let key = SecretKey::from_bytes(&mut bytes).ok()?;
        let usable = if version.encrypts { Usable::EncryptDecrypt } else { Usable::DecryptOnly };
        versions.push(KeyVersion { version: version.version, material: Material::Present { key, usable } });
    }
    for dead in &put.dead_versions {
        let gone = match dead.reason() {
            wire::DeadReason::Compromised => Gone::Compromised,
            wire::DeadReason::Destroyed | wire::DeadReason::Unspecified => {
                Gone::Destroyed { on: day(dead.since) }
            }
        };
        versions.push(KeyVersion { version: dead.version, material: Material::Absent(gone) });
    }
    let clients =
        put.clients.into_iter().map(|client| Client { issuer: client.issuer, subject: client.subject });
    Some(KeyEntry {
        cluster: name.cluster,
        tenant_name: put.tenant_name,
        namespace: name.namespace,
        name: name.name,
        key_id: put.key_uuid.as_slice().try_into().ok()?,
        current: put.current,
        versions,
        clients: clients.collect(),
        revision: put.revision,
    })
}

fn day(unix: i64) -> Box<str> {
    let day =
        jiff::Timestamp::from_second(unix).map(|moment| moment.to_zoned(jiff::tz::TimeZone::UTC).date());
    day.map_or_else(|_| "an unknown day".into(), |day| day.to_string().into())
}
