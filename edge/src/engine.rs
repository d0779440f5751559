//! The operations: store and envelope together. This is also the in-process door for applications in Rust.

use std::{ops::Range, sync::Arc};

use zeroize::{Zeroize, Zeroizing};

use crate::{
    caller::Caller,
    envelope::{
        CHUNK, Chunker, EnvelopeError, Format, HEADER_LEN, Header, OVERHEAD, Position, TAG_LEN,
        decrypt_in_place, encrypt_into, random,
    },
    error::{Code, OpError},
    store::{Address, Description, KeyStore, Refusal, Want},
};

/// Length of a data key.
pub const DATA_KEY_LEN: usize = 32;
/// Most inputs of a batch.
pub const MAX_BATCH: usize = 4096;

/// Encrypts and decrypts with the keys of a store.
#[derive(Clone)]
pub struct Engine {
    store: Arc<KeyStore>,
}

/// A new data key.
pub struct DataKey {
    /// For use now.
    pub key: Zeroizing<Vec<u8>>,
    /// To keep.
    pub wrapped: Vec<u8>,
    /// The version of the service key that wraps it.
    pub version: u32,
}

/// Which of the two a batch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Plaintexts to envelopes.
    Encrypt,
    /// Envelopes to plaintexts.
    Decrypt,
}

/// Outputs of a batch, one after the other, and what failed.
#[derive(Default)]
pub struct BatchOutput {
    /// All outputs.
    pub data: Vec<u8>,
    /// The length of each; 0 for those that failed.
    pub lengths: Vec<u32>,
    /// Index and error of those that failed.
    pub errors: Vec<(u32, OpError)>,
}

/// The address in `tenant` and `namespace/name`, if both have the form of names: only then may an error quote them.
pub fn address<'a>(tenant: &'a str, key: &'a str) -> Result<Address<'a>, OpError> {
    let is_name = |text: &str| {
        let known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        (1..=253).contains(&text.len()) && text.bytes().all(known)
    };
    match key.split_once('/') {
        Some((namespace, name)) if is_name(tenant) && is_name(namespace) && is_name(name) => {
            Ok(Address { tenant, namespace, name })
        }
        _ => Err(OpError::new(
            Code::Malformed,
            "a key is named by a tenant (tenant-root-acme) and namespace/name, in lower case",
        )),
    }
}

impl Engine {
    /// Operations on this store.
    pub fn new(store: Arc<KeyStore>) -> Self {
        Self { store }
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<KeyStore> {
        &self.store
    }

    /// Encrypts `plaintext`, appends the envelope to `out` and gives the version used. On failure `out` is as before.
    pub fn encrypt(
        &self,
        address: Address<'_>,
        caller: &Caller,
        plaintext: &[u8],
        aad: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError> {
        let start = out.len();
        let result = self.store.lend(address, Want::Current, caller, |lent| {
            encrypt_into(&lent, plaintext, aad, out).map(|()| lent.version)
        });
        result
            .map_err(|refusal| {
                out.truncate(start);
                OpError::refused(refusal, address)
            })?
            .map_err(OpError::from)
    }

    /// Decrypts an envelope in place; gives the version and where in `envelope` the plaintext is. On failure the
    /// envelope's body is wiped.
    pub fn decrypt(
        &self,
        address: Address<'_>,
        caller: &Caller,
        envelope: &mut [u8],
        aad: &[u8],
    ) -> Result<(u32, Range<usize>), OpError> {
        let header = Header::parse(envelope)?;
        if header.format == Format::Stream {
            return Err(OpError::new(Code::Malformed, "a stream is decrypted by the streaming call"));
        }
        let want = Want::Exactly { key_id: header.key_id, version: header.version };
        let result =
            self.store.lend(address, want, caller, |lent| decrypt_in_place(&lent, &header, aad, envelope));
        match result {
            Ok(range) => Ok((header.version, range?)),
            Err(refusal) => {
                envelope.zeroize();
                Err(OpError::refused(refusal, address))
            }
        }
    }

    /// A new random data key.
    pub fn generate_data_key(
        &self,
        address: Address<'_>,
        caller: &Caller,
        aad: &[u8],
    ) -> Result<DataKey, OpError> {
        let mut key = Zeroizing::new(vec![0; DATA_KEY_LEN]);
        random(&mut key)?;
        let mut wrapped = Vec::with_capacity(DATA_KEY_LEN + OVERHEAD);
        let version = self.encrypt(address, caller, &key, aad, &mut wrapped)?;
        Ok(DataKey { key, wrapped, version })
    }

    /// What the caller may know of a key.
    pub fn describe(&self, address: Address<'_>, caller: &Caller) -> Result<Description, OpError> {
        self.store.describe(address, caller).map_err(|refusal| OpError::refused(refusal, address))
    }

    /// Many operations under one key. `inputs` and `aads` yield slices in order; `aads` may be shorter (no AAD then).
    ///
    /// The key is looked up once for each run of inputs of one version, and the lease is checked before
    /// and after each run; [`MAX_BATCH`] and the size limit of a message keep that below some milliseconds.
    pub fn batch<'a>(
        &self,
        direction: Direction,
        address: Address<'_>,
        caller: &Caller,
        inputs: &[&'a [u8]],
        aad: impl Fn(usize) -> &'a [u8],
    ) -> BatchOutput {
        let mut out = BatchOutput { lengths: Vec::with_capacity(inputs.len()), ..BatchOutput::default() };
        let total: usize = inputs.iter().map(|input| input.len()).sum();
        out.data.reserve(match direction {
            Direction::Encrypt => total + inputs.len() * OVERHEAD,
            Direction::Decrypt => total,
        });
        let mut next = 0;
        while next < inputs.len() {
            let (data, run) = (out.data.len(), next);
            let refused = match direction {
                Direction::Encrypt => self.encrypt_run(address, caller, inputs, &aad, &mut next, &mut out),
                Direction::Decrypt => self.decrypt_run(address, caller, inputs, &aad, &mut next, &mut out),
            };
            if let Err(error) = refused {
                out.data[data..].zeroize();
                out.data.truncate(data);
                out.lengths.truncate(run);
                out.errors.retain(|(index, _)| (*index as usize) < run);
                next = next.max(run + 1);
                for index in run..next {
                    out.fail(index, error.clone());
                }
            }
        }
        out
    }

    fn encrypt_run<'a>(
        &self,
        address: Address<'_>,
        caller: &Caller,
        inputs: &[&'a [u8]],
        aad: &impl Fn(usize) -> &'a [u8],
        next: &mut usize,
        out: &mut BatchOutput,
    ) -> Result<(), OpError> {
        let start = *next;
        *next = inputs.len();
        let lent = self.store.lend(address, Want::Current, caller, |lent| {
            for (index, input) in inputs.iter().enumerate().skip(start) {
                let before = out.data.len();
                let done = encrypt_into(&lent, input, aad(index), &mut out.data);
                out.done(index, before, done);
            }
        });
        lent.map_err(|refusal| OpError::refused(refusal, address))
    }

    fn decrypt_run<'a>(
        &self,
        address: Address<'_>,
        caller: &Caller,
        inputs: &[&'a [u8]],
        aad: &impl Fn(usize) -> &'a [u8],
        next: &mut usize,
        out: &mut BatchOutput,
    ) -> Result<(), OpError> {
        let first = Header::parse(inputs[*next])?;
        let want = Want::Exactly { key_id: first.key_id, version: first.version };
        let lent = self.store.lend(address, want, caller, |lent| {
            while let Some(input) = inputs.get(*next) {
                let Ok(header) = Header::parse(input) else { break };
                if (header.key_id, header.version) != (first.key_id, first.version) {
                    break;
                }
                let before = out.data.len();
                out.data.extend_from_slice(input);
                let opened =
                    decrypt_in_place(&lent, &header, aad(*next), &mut out.data[before..]).map(|range| {
                        let length = range.len();
                        out.data.copy_within(before + range.start..before + range.end, before);
                        out.data.truncate(before + length);
                    });
                out.done(*next, before, opened);
                *next += 1;
            }
        });
        lent.map_err(|refusal| OpError::refused(refusal, address))
    }

    /// Begins to encrypt a stream.
    pub fn encrypt_stream(
        &self,
        address: Address<'_>,
        caller: &Caller,
        aad: &[u8],
    ) -> Result<Stream, OpError> {
        let begun = self.store.lend(address, Want::Current, caller, |lent| Position::begin(&lent, aad));
        let position = begun.map_err(|refusal| OpError::refused(refusal, address))??;
        Ok(Stream::new(self.clone(), address, caller, position, Direction::Encrypt))
    }

    /// Begins to decrypt a stream whose first [`HEADER_LEN`] bytes are `header`; the chunks behind it go to
    /// [`Stream::push`].
    pub fn decrypt_stream(
        &self,
        address: Address<'_>,
        caller: &Caller,
        header: &[u8],
        aad: &[u8],
    ) -> Result<Stream, OpError> {
        let header = Header::parse(header)?;
        if header.format == Format::Message {
            return Err(OpError::new(Code::Malformed, "a message is decrypted by the unary call"));
        }
        let want = Want::Exactly { key_id: header.key_id, version: header.version };
        let begun = self.store.lend(address, want, caller, |lent| Position::resume(&lent, header, aad));
        let position = begun.map_err(|refusal| OpError::refused(refusal, address))??;
        Ok(Stream::new(self.clone(), address, caller, position, Direction::Decrypt))
    }
}

impl BatchOutput {
    fn done(&mut self, index: usize, before: usize, result: Result<(), EnvelopeError>) {
        match result {
            Ok(()) => self.lengths.push(u32::try_from(self.data.len() - before).unwrap_or(u32::MAX)),
            Err(error) => {
                self.data.truncate(before);
                self.fail(index, error.into());
            }
        }
    }

    fn fail(&mut self, index: usize, error: OpError) {
        self.lengths.push(0);
        self.errors.push((u32::try_from(index).unwrap_or(u32::MAX), error));
    }
}

/// A stream on its way through the edge. Bytes go in at any length; chunks come out as they are complete.
pub struct Stream {
    engine: Engine,
    tenant: Box<str>,
    namespace: Box<str>,
    name: Box<str>,
    caller: Caller,
    position: Position,
    direction: Direction,
    chunker: Chunker,
}

impl Stream {
    fn new(
        engine: Engine,
        address: Address<'_>,
        caller: &Caller,
        position: Position,
        direction: Direction,
    ) -> Self {
        Self {
            engine,
            tenant: address.tenant.into(),
            namespace: address.namespace.into(),
            name: address.name.into(),
            caller: caller.clone(),
            position,
            direction,
            chunker: Chunker::new(match direction {
                Direction::Encrypt => CHUNK,
                Direction::Decrypt => CHUNK + TAG_LEN,
            }),
        }
    }

    /// The header that goes before the chunks of an encrypted stream.
    pub fn header(&self) -> [u8; HEADER_LEN] {
        self.position.header_bytes()
    }

    /// Takes bytes and appends what is complete to `out`.
    pub fn push(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<(), OpError> {
        while let Some(chunk) = self.chunker.push(&mut data) {
            self.turn(chunk, false, out)?;
        }
        Ok(())
    }

    /// Says that all bytes have been pushed, and appends the last chunk to `out`.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), OpError> {
        let chunk = self.chunker.finish();
        self.turn(chunk, true, out)
    }

    fn turn(&mut self, mut chunk: Vec<u8>, last: bool, out: &mut Vec<u8>) -> Result<(), OpError> {
        let address = Address { tenant: &self.tenant, namespace: &self.namespace, name: &self.name };
        let header = self.position.header();
        // A stream stays with the version it began with: a rotation in between does not break it, an eviction does.
        let want = Want::Exactly { key_id: header.key_id, version: header.version };
        let (position, direction) = (&mut self.position, self.direction);
        let result = self.engine.store.lend(address, want, &self.caller, |lent| match direction {
            Direction::Encrypt => position.seal(&lent, &mut chunk, last),
            Direction::Decrypt => position.open(&lent, &mut chunk, last),
        });
        let result = result.map_err(|refusal: Refusal| OpError::refused(refusal, address));
        let done = result.and_then(|turned| turned.map_err(OpError::from));
        if done.is_ok() {
            out.extend_from_slice(&chunk);
        }
        chunk.zeroize();
        done
    }
}
