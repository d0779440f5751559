//! Service key versions under account keys: AES-256-GCM, bound to their place in the ledger.
//!
//! A sealed version is `format (1) ‖ nonce (12) ‖ ciphertext (32) ‖ tag (16)`, 61 bytes. The additional
//! authenticated data is an injective encoding of everything that says where the row belongs, so a row moved to
//! another workspace, tenant, account, key or version, or put under another account key version, does not open.
//!
//! Nonces are random. An account key seals one nonce per version and re-wrap, far below the 2³² that random
//! 96-bit nonces allow.
//!
//! Not wiped: the key schedule inside AWS-LC is, by AWS-LC itself, when a [`Sealer`] is dropped; registers are not.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use kcp_client_rs::LogicalCluster;
use openkcm_secret::{KEY_LEN, SecretKey};
use zeroize::Zeroizing;

use crate::{
    error::{KeychainError, Result},
    rows::{AccountId, KeyId, TenantId, VersionRow},
};

/// The only format so far. A new one gets a new number; old rows stay readable.
const FORMAT: u8 = 1;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
/// Bytes of a sealed version.
pub const SEALED_LEN: usize = 1 + NONCE_LEN + KEY_LEN + TAG_LEN;

/// Where a sealed version belongs, above the service key: the same for all keys of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The workspace.
    pub cluster: LogicalCluster,
    /// The tenant.
    pub tenant: TenantId,
    /// The account.
    pub account: AccountId,
}

impl Place {
    /// `label ‖ len(cluster) ‖ cluster ‖ tenant ‖ account ‖ key ‖ version ‖ account key version`: every part has a
    /// fixed length or says its own, so no two places share an encoding.
    fn aad(&self, key: KeyId, version: u32, account_key_version: u32) -> Vec<u8> {
        const LABEL: &[u8] = b"openkcm.io/service-key\x01";
        let cluster = self.cluster.as_str().as_bytes();
        let mut aad = Vec::with_capacity(LABEL.len() + 1 + cluster.len() + 3 * 16 + 2 * 4);
        aad.extend_from_slice(LABEL);
        aad.push(u8::try_from(cluster.len()).unwrap_or(u8::MAX)); // a logical cluster's name has at most 63 bytes
        aad.extend_from_slice(cluster);
        aad.extend_from_slice(self.tenant.0.as_bytes());
        aad.extend_from_slice(self.account.0.as_bytes());
        aad.extend_from_slice(key.0.as_bytes());
        aad.extend_from_slice(&version.to_be_bytes());
        aad.extend_from_slice(&account_key_version.to_be_bytes());
        aad
    }
}

/// One account key version, ready to seal and open. A clone is the same one.
#[derive(Clone)]
pub struct Sealer {
    place: Place,
    account_key_version: u32,
    key: Arc<LessSafeKey>,
}

impl Sealer {
    /// Prepares an account key version of the account at `place`.
    pub fn new(place: Place, account_key_version: u32, account_key: &SecretKey) -> Self {
        let key = account_key.expose(|bytes| UnboundKey::new(&AES_256_GCM, bytes));
        match key {
            Ok(key) => Self { place, account_key_version, key: Arc::new(LessSafeKey::new(key)) },
            Err(_) => unreachable!("32 bytes are a key of AES-256"),
        }
    }

    /// Where what it seals belongs.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The account key version.
    pub fn account_key_version(&self) -> u32 {
        self.account_key_version
    }

    /// Seals a service key version.
    pub fn seal(&self, key: KeyId, version: u32, service_key: &SecretKey) -> Result<Vec<u8>> {
        service_key.expose(|bytes| self.seal_bytes(key, version, bytes))
    }

    /// Opens a sealed service key version into locked memory.
    pub fn open(&self, key: KeyId, version: u32, sealed: &[u8]) -> Result<SecretKey> {
        let mut bytes = self.open_bytes(key, version, sealed)?;
        Ok(SecretKey::from_bytes(&mut bytes)?)
    }

    /// Whether a sealed version opens. No key leaves this call.
    pub fn opens(&self, key: KeyId, version: u32, sealed: &[u8]) -> bool {
        self.open_bytes(key, version, sealed).is_ok()
    }

    /// Opens with `self`, seals with `to`. The key is in plain only on this call's stack, which is wiped.
    pub fn rewrap(&self, to: &Sealer, key: KeyId, version: u32, sealed: &[u8]) -> Result<Vec<u8>> {
        let bytes = self.open_bytes(key, version, sealed)?;
        to.seal_bytes(key, version, &bytes)
    }

    fn seal_bytes(&self, key: KeyId, version: u32, bytes: &[u8; KEY_LEN]) -> Result<Vec<u8>> {
        let failed = |_| KeychainError::Seal { key, version };
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).map_err(failed)?;
        let mut sealed = vec![0; SEALED_LEN];
        sealed[0] = FORMAT;
        sealed[1..=NONCE_LEN].copy_from_slice(&nonce);
        let (body, tag_place) = sealed[1 + NONCE_LEN..].split_at_mut(KEY_LEN);
        body.copy_from_slice(bytes);
        let aad = Aad::from(self.place.aad(key, version, self.account_key_version));
        match self.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, body) {
            Ok(tag) => tag_place.copy_from_slice(tag.as_ref()),
            Err(error) => {
                zeroize::Zeroize::zeroize(&mut sealed);
                return Err(failed(error));
            }
        }
        Ok(sealed)
    }

    fn open_bytes(&self, key: KeyId, version: u32, sealed: &[u8]) -> Result<Zeroizing<[u8; KEY_LEN]>> {
        let refused =
            || KeychainError::DoesNotOpen { key, version, account_key_version: self.account_key_version };
        if sealed.len() != SEALED_LEN || sealed[0] != FORMAT {
            return Err(refused());
        }
        let nonce = Nonce::try_assume_unique_for_key(&sealed[1..=NONCE_LEN]).map_err(|_| refused())?;
        let mut buffer = Zeroizing::new([0; KEY_LEN + TAG_LEN]);
        buffer.copy_from_slice(&sealed[1 + NONCE_LEN..]);
        let aad = Aad::from(self.place.aad(key, version, self.account_key_version));
        let opened = self.key.open_in_place(nonce, aad, buffer.as_mut_slice()).map_err(|_| refused())?;
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        bytes.copy_from_slice(opened);
        Ok(bytes)
    }
}

/// Opens one version of a service key with the account key version that the row names.
pub fn open_version(place: &Place, row: &VersionRow, account_key: &SecretKey) -> Result<SecretKey> {
    let VersionRow { key, version, account_key_version, .. } = *row;
    let Some(sealed) = &row.sealed else {
        let at = row.destroyed_at.unwrap_or_default();
        return Err(KeychainError::VersionDestroyed { key, version, at });
    };
    Sealer::new(place.clone(), account_key_version, account_key).open(key, version, sealed)
}
