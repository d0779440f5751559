//! Keys and what can happen to them, the same for every server.

use std::collections::BTreeMap;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der},
    key_wrap::{AES_256, AesKek, KeyWrap as _},
    rsa::{
        KeyPair, KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey,
        PrivateDecryptingKey,
    },
    signature::KeyPair as _,
};
use serde::{Deserialize, Serialize};

/// What a key is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyType {
    /// AES-256.
    #[default]
    Aes,
    /// RSA-2048.
    Rsa,
    /// A key that signs and cannot wrap.
    Signing,
}

/// Whether a version may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Yes.
    Enabled,
    /// Not now.
    Disabled,
    /// Not any more, unless restored.
    PendingDeletion,
}

/// A key with its versions, numbered from 1.
pub struct Key {
    /// What it is made of.
    pub kind: KeyType,
    /// All versions; the last one is current.
    pub versions: BTreeMap<u32, Version>,
}

/// One version.
pub struct Version {
    /// Whether it may be used.
    pub state: State,
    /// A name that cannot be guessed: Azure's and AWS's form of a version.
    pub id: String,
    material: Material,
}

enum Material {
    Aes(Box<[u8; 32]>),
    Rsa(Box<Rsa>),
}

struct Rsa {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    public_der: Vec<u8>,
    public: OaepPublicEncryptingKey,
    private: OaepPrivateDecryptingKey,
}

impl Key {
    /// A key with one version.
    pub fn new(kind: KeyType) -> anyhow::Result<Self> {
        let mut key = Self { kind, versions: BTreeMap::new() };
        key.rotate()?;
        Ok(key)
    }

    /// Adds a version and makes it current.
    pub fn rotate(&mut self) -> anyhow::Result<()> {
        let number = self.versions.keys().last().map_or(1, |last| last + 1);
        let mut id = [0; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| anyhow!("random numbers"))?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let material = match self.kind {
            KeyType::Rsa => Material::Rsa(Box::new(Rsa::generate()?)),
            KeyType::Aes | KeyType::Signing => {
                let mut bytes = [0; 32];
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("random numbers"))?;
                Material::Aes(Box::new(bytes))
            }
        };
        self.versions.insert(number, Version { state: State::Enabled, id, material });
        Ok(())
    }

    /// The current version and its number.
    pub fn current(&self) -> Option<(u32, &Version)> {
        self.versions.last_key_value().map(|(number, version)| (*number, version))
    }

    /// A version by its unguessable name.
    pub fn by_id(&self, id: &str) -> Option<&Version> {
        self.versions.values().find(|version| version.id == id)
    }
}

impl Rsa {
    fn generate() -> anyhow::Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048).context("generate an RSA key")?;
        let pkcs8: Pkcs8V1Der = pair.as_der().context("encode an RSA key")?;
        let private = PrivateDecryptingKey::from_pkcs8(pkcs8.as_ref()).context("read an RSA key")?;
        let public = private.public_key();
        let der: PublicKeyX509Der = public.as_der().context("encode a public key")?;
        Ok(Self {
            modulus: pair.public_key().modulus().big_endian_without_leading_zero().to_vec(),
            exponent: pair.public_key().exponent().big_endian_without_leading_zero().to_vec(),
            public_der: der.as_ref().to_vec(),
            public: OaepPublicEncryptingKey::new(public).context("use a public key")?,
            private: OaepPrivateDecryptingKey::new(private).context("use a private key")?,
        })
    }
}

impl Version {
    /// AES-GCM with a random nonce in front; `None` if this is no AES key.
    pub fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        aws_lc_rs::rand::fill(&mut nonce).ok()?;
        let mut sealed = plaintext.to_vec();
        self.gcm()?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed)
            .ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    /// The other way.
    pub fn open(&self, ciphertext: &[u8], aad: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ciphertext.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let plain = self
            .gcm()?
            .open_in_place(Nonce::try_assume_unique_for_key(nonce).ok()?, Aad::from(aad), &mut sealed)
            .ok()?;
        Some(plain.to_vec())
    }

    /// AES key wrap (RFC 3394).
    pub fn wrap_aes(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let Material::Aes(bytes) = &self.material else { return None };
        let mut out = vec![0; plaintext.len() + 15];
        Some(AesKek::new(&AES_256, bytes.as_slice()).ok()?.wrap(plaintext, &mut out).ok()?.to_vec())
    }

    /// The other way.
    pub fn unwrap_aes(&self, ciphertext: &[u8]) -> Option<Vec<u8>> {
        let Material::Aes(bytes) = &self.material else { return None };
        let mut out = vec![0; ciphertext.len() + 15];
        Some(AesKek::new(&AES_256, bytes.as_slice()).ok()?.unwrap(ciphertext, &mut out).ok()?.to_vec())
    }

    /// RSA-OAEP with SHA-256.
    pub fn wrap_rsa(&self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let Material::Rsa(rsa) = &self.material else { return None };
        let mut out = vec![0; rsa.public.ciphertext_size()];
        Some(rsa.public.encrypt(&OAEP_SHA256_MGF1SHA256, plaintext, &mut out, None).ok()?.to_vec())
    }

    /// The other way.
    pub fn unwrap_rsa(&self, ciphertext: &[u8]) -> Option<Vec<u8>> {
        let Material::Rsa(rsa) = &self.material else { return None };
        let mut out = vec![0; rsa.private.min_output_size()];
        Some(rsa.private.decrypt(&OAEP_SHA256_MGF1SHA256, ciphertext, &mut out, None).ok()?.to_vec())
    }

    /// Modulus and exponent of an RSA key, big-endian.
    pub fn rsa_numbers(&self) -> Option<(&[u8], &[u8])> {
        let Material::Rsa(rsa) = &self.material else { return None };
        Some((&rsa.modulus, &rsa.exponent))
    }

    /// The public key as X.509 `SubjectPublicKeyInfo`.
    pub fn public_der(&self) -> Option<&[u8]> {
        let Material::Rsa(rsa) = &self.material else { return None };
        Some(&rsa.public_der)
    }

    fn gcm(&self) -> Option<LessSafeKey> {
        let Material::Aes(bytes) = &self.material else { return None };
        UnboundKey::new(&AES_256_GCM, bytes.as_slice()).ok().map(LessSafeKey::new)
    }
}
