//! Keys in an HSM behind PKCS#11: Thales Luna, and SoftHSM for tests.
//!
//! A library is loaded and initialised once in the process, and every call blocks a thread: each token has a few, and a thread that hangs in
//! the library keeps its place, so that a dead HSM never eats the thread pool. One session stays open for the login to live in.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error as HsmError, RvError},
    mechanism::{Mechanism, MechanismType, aead::GcmParams, vendor_defined::VendorDefinedMechanism},
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use futures::{FutureExt as _, future::BoxFuture};
use openkcm_secret::SecretKey;
use tokio::sync::Semaphore;
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Binding, Description, Error, Operation, Reason, Result, RootKey, StoreKind, Wrapped,
    config::{Pkcs11Library, Pkcs11Mechanism, Pkcs11Token, secret_file},
    messages,
    reference::Pkcs11Key,
    wrapped::{self, Algorithm, Parts},
};

const KIND: StoreKind = StoreKind::ThalesHsm;
/// Threads in one token at a time.
const THREADS: usize = 4;
const NONCE_LEN: usize = 12;
const TAG_BITS: u64 = 128;
/// Keys without `CKA_ID`.
const NO_VERSION: &str = "-";
const CKM_AES_KEY_WRAP: u64 = 0x2109;
const CKM_AES_KEY_WRAP_PAD: u64 = 0x210a;

/// A library, once it is initialised. Behind a lock of its own, so that one which hangs in its initialisation holds up no other.
type Library = Arc<Mutex<Option<Pkcs11>>>;

/// The libraries of this process: PKCS#11 allows one initialisation.
static LIBRARIES: LazyLock<Mutex<HashMap<PathBuf, Library>>> = LazyLock::new(Mutex::default);

/// A mechanism that takes no parameter.
fn plain(kind: MechanismType) -> Mechanism<'static> {
    match kind {
        MechanismType::AES_KEY_WRAP => Mechanism::AesKeyWrap,
        MechanismType::AES_KEY_WRAP_PAD => Mechanism::AesKeyWrapPad,
        vendor => Mechanism::VendorDefined(VendorDefinedMechanism::new::<()>(vendor, None)),
    }
}

/// The tokens that the operator configured, by label.
pub(crate) struct Pkcs11Store(HashMap<String, Arc<Token>>);

impl Pkcs11Store {
    pub(crate) fn new(libraries: &[Pkcs11Library]) -> Result<Self> {
        let mut tokens = HashMap::new();
        for library in libraries {
            for token in &library.tokens {
                let made = Token::new(&library.module, token)?;
                if tokens.insert(token.label.clone(), Arc::new(made)).is_some() {
                    return Err(Error::misconfigured(format!(
                        "pkcs11: the token {} is configured twice",
                        token.label
                    )));
                }
            }
        }
        Ok(Self(tokens))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn open(&self, key: Pkcs11Key) -> Result<Pkcs11Root> {
        let token = self.0.get(&key.token).ok_or_else(|| failure(Reason::NotFound, Operation::Describe))?;
        Ok(Pkcs11Root { token: Arc::clone(token), key: Arc::new(key) })
    }
}

/// How a token wraps keys, checked.
#[derive(Debug, Clone, Copy)]
enum How {
    Gcm,
    KeyWrap(MechanismType, Algorithm),
}

struct Token {
    module: PathBuf,
    label: String,
    serial: Option<String>,
    pin: Zeroizing<String>,
    how: How,
    threads: Arc<Semaphore>,
    /// The session that the login lives in, and idle ones.
    sessions: Mutex<Vec<Session>>,
    keeper: Mutex<Option<(Slot, Session)>>,
    /// The PIN was refused: not to be tried again, since a token locks itself after some tries.
    refused: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Token {
    fn new(module: &Path, config: &Pkcs11Token) -> Result<Self> {
        let how = match config.mechanism {
            Pkcs11Mechanism::AesGcm => How::Gcm,
            Pkcs11Mechanism::KeyWrap { number } => {
                let unknown = || {
                    Error::misconfigured(format!("pkcs11: mechanism {number:#x} cannot be used to wrap keys"))
                };
                match number {
                    CKM_AES_KEY_WRAP => How::KeyWrap(MechanismType::AES_KEY_WRAP, Algorithm::AesKw),
                    CKM_AES_KEY_WRAP_PAD => How::KeyWrap(MechanismType::AES_KEY_WRAP_PAD, Algorithm::AesKwp),
                    _ => How::KeyWrap(
                        MechanismType::new_vendor_defined(number).map_err(|_| unknown())?,
                        Algorithm::AesKwp,
                    ),
                }
            }
        };
        Ok(Self {
            module: module.to_owned(),
            label: config.label.clone(),
            serial: config.serial.clone(),
            pin: secret_file(&config.pin_file)?,
            how,
            threads: Arc::new(Semaphore::new(THREADS)),
            sessions: Mutex::default(),
            keeper: Mutex::default(),
            refused: AtomicBool::new(false),
        })
    }

    fn library(&self) -> std::result::Result<Pkcs11, HsmError> {
        let slot = Arc::clone(lock(&LIBRARIES).entry(self.module.clone()).or_default());
        let mut slot = lock(&slot);
        if let Some(library) = &*slot {
            return Ok(library.clone());
        }
        let library = Pkcs11::new(&self.module)?;
        match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            // Somebody else in this process uses the same library: it is ready.
            Ok(()) | Err(HsmError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error),
        }
        *slot = Some(library.clone());
        Ok(library)
    }

    /// A session that is logged in.
    fn session(&self, operation: Operation) -> Result<Session> {
        if let Some(session) = lock(&self.sessions).pop() {
            return Ok(session);
        }
        let explain = |error: HsmError| explain(&error, operation);
        let library = self.library().map_err(explain)?;
        let mut keeper = lock(&self.keeper);
        let slot = if let Some((slot, _)) = &*keeper {
            *slot
        } else {
            if self.refused.load(Ordering::Relaxed) {
                return Err(failure(Reason::Misconfigured, operation));
            }
            let slot = self.find_slot(&library, operation)?;
            let session = library.open_ro_session(slot).map_err(explain)?;
            let pin = AuthPin::new(self.pin.as_str().to_owned().into());
            match session.login(UserType::User, Some(&pin)) {
                Ok(()) | Err(HsmError::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
                Err(error) => {
                    let error = explain(error);
                    self.refused.store(error.reason == Reason::Misconfigured, Ordering::Relaxed);
                    return Err(error);
                }
            }
            *keeper = Some((slot, session));
            slot
        };
        drop(keeper);
        library.open_ro_session(slot).map_err(explain)
    }

    /// By label or serial number: slot numbers change.
    fn find_slot(&self, library: &Pkcs11, operation: Operation) -> Result<Slot> {
        for slot in library.get_slots_with_initialized_token().map_err(|error| explain(&error, operation))? {
            // A slot that went away in between is not the one.
            let Ok(info) = library.get_token_info(slot) else { continue };
            let named = match &self.serial {
                Some(serial) => info.serial_number() == serial,
                None => info.label() == self.label,
            };
            if named {
                return Ok(slot);
            }
        }
        Err(failure(Reason::NotFound, operation))
    }

    /// Runs `work` in a session, and once more in a new login if the old one is gone (an HSM that was restarted).
    fn with_session<T>(
        &self,
        operation: Operation,
        work: impl Fn(&Session) -> std::result::Result<T, Fault>,
    ) -> Result<T> {
        for last in [false, true] {
            let session = self.session(operation)?;
            match work(&session) {
                Ok(done) => {
                    lock(&self.sessions).push(session);
                    return Ok(done);
                }
                Err(Fault::Hsm(error)) if !last && is_session_lost(&error) => {
                    drop(session);
                    lock(&self.sessions).clear();
                    *lock(&self.keeper) = None;
                }
                // A session is not used again after an error: an operation may still be open in it.
                Err(Fault::Hsm(error)) => return Err(explain(&error, operation)),
                Err(Fault::Known(error)) => return Err(error),
            }
        }
        Err(failure(Reason::Unreachable, operation))
    }
}

/// What can go wrong inside a session.
enum Fault {
    Hsm(HsmError),
    Known(Error),
}

impl From<HsmError> for Fault {
    fn from(error: HsmError) -> Self {
        Self::Hsm(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

/// One key in a token.
pub(crate) struct Pkcs11Root {
    token: Arc<Token>,
    key: Arc<Pkcs11Key>,
}

impl Pkcs11Root {
    /// Runs `work` on a thread of the token's.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        work: impl Fn(&Token, &Pkcs11Key, &Session) -> std::result::Result<T, Fault> + Send + 'static,
    ) -> Result<T> {
        let (token, key) = (Arc::clone(&self.token), Arc::clone(&self.key));
        let Ok(place) = Arc::clone(&token.threads).acquire_owned().await else {
            return Err(failure(Reason::Unreachable, operation));
        };
        let thread = tokio::task::spawn_blocking(move || {
            // Kept by the thread, not by the caller, who gives up at its deadline.
            let _place = place;
            token.with_session(operation, |session| work(&token, &key, session))
        });
        thread.await.unwrap_or_else(|error| Err(failure(Reason::Unreachable, operation).with_source(&error)))
    }
}

/// The one key with this label, with what is known of it.
fn find(
    session: &Session,
    key: &Pkcs11Key,
    operation: Operation,
) -> std::result::Result<ObjectHandle, Fault> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Token(true),
        Attribute::Label(key.object.as_bytes().to_vec()),
    ];
    match session.find_objects(&template)?[..] {
        [] => Err(failure(Reason::NotFound, operation).into()),
        [found] => Ok(found),
        _ => Err(failure(Reason::WrongKeyType, operation).into()),
    }
}

fn describe(token: &Token, key: &Pkcs11Key, session: &Session) -> std::result::Result<Description, Fault> {
    let operation = Operation::Describe;
    let handle = find(session, key, operation)?;
    let (forward, back) = match token.how {
        How::Gcm => (AttributeType::Encrypt, AttributeType::Decrypt),
        How::KeyWrap(..) => (AttributeType::Wrap, AttributeType::Unwrap),
    };
    let wanted = [AttributeType::KeyType, AttributeType::ValueLen, AttributeType::Id, forward, back];
    let (mut aes, mut long, mut allowed, mut version) = (false, false, true, NO_VERSION.to_owned());
    for attribute in session.get_attributes(handle, &wanted)? {
        match attribute {
            Attribute::KeyType(kind) => aes = kind == KeyType::AES,
            Attribute::ValueLen(length) => long = u64::from(length) == 32,
            Attribute::Id(id) if !id.is_empty() => version = hex(&id),
            Attribute::Encrypt(yes)
            | Attribute::Decrypt(yes)
            | Attribute::Wrap(yes)
            | Attribute::Unwrap(yes) => {
                allowed &= yes;
            }
            _ => {}
        }
    }
    if !aes || !long {
        return Err(failure(Reason::WrongKeyType, operation).into());
    }
    if !allowed {
        return Err(failure(Reason::Disabled, operation).into());
    }
    let algorithm = match token.how {
        How::Gcm => "AES-GCM-256",
        How::KeyWrap(_, Algorithm::AesKw) => "AES-KW-256",
        How::KeyWrap(..) => "AES-KWP-256",
    };
    Ok(Description { reference: key.to_string(), version, algorithm: algorithm.to_owned() })
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

/// Algorithm and ciphertext.
fn wrap(
    token: &Token,
    key: &Pkcs11Key,
    session: &Session,
    secret: &SecretKey,
    binding: &Binding,
) -> std::result::Result<(Algorithm, Vec<u8>), Fault> {
    let root = find(session, key, Operation::Wrap)?;
    match token.how {
        How::Gcm => {
            // From our own generator: a nonce must never come from a caller, and some HSMs accept an empty one.
            let mut nonce = [0; NONCE_LEN];
            aws_lc_rs::rand::fill(&mut nonce).map_err(|_| failure(Reason::Unreachable, Operation::Wrap))?;
            let sent = nonce;
            let aad = wrapped::aad(binding);
            let gcm = Mechanism::AesGcm(GcmParams::new(&mut nonce, &aad, TAG_BITS.into())?);
            let sealed = secret.expose(|bytes| session.encrypt(&gcm, root, bytes))?;
            Ok((Algorithm::AesGcm, [sent.as_slice(), &sealed].concat()))
        }
        How::KeyWrap(mechanism, algorithm) => {
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Token(false),
                Attribute::Sensitive(false),
                Attribute::Extractable(true),
                Attribute::Value(wrapped::payload(secret, binding).to_vec()),
            ];
            let inside = session.create_object(&template)?;
            let wrapped = session.wrap_key(&plain(mechanism), root, inside);
            session.destroy_object(inside)?;
            Ok((algorithm, wrapped?))
        }
    }
}

fn unwrap(
    token: &Token,
    key: &Pkcs11Key,
    session: &Session,
    blob: &[u8],
    binding: &Binding,
) -> std::result::Result<SecretKey, Fault> {
    let operation = Operation::Unwrap;
    let foreign = || failure(Reason::BadCiphertext, operation);
    let parts = Parts::parse(blob, KIND)?;
    if parts.reference != key.to_string() {
        return Err(foreign().into());
    }
    let root = find(session, key, operation)?;
    match (token.how, parts.algorithm) {
        (_, Algorithm::AesGcm) => {
            let (nonce, sealed) = parts.ciphertext.split_first_chunk::<NONCE_LEN>().ok_or_else(foreign)?;
            let (mut nonce, aad) = (*nonce, wrapped::aad(binding));
            let gcm = Mechanism::AesGcm(GcmParams::new(&mut nonce, &aad, TAG_BITS.into())?);
            let mut plain = session.decrypt(&gcm, root, sealed)?;
            let secret = wrapped::secret(&mut plain);
            plain.zeroize();
            Ok(secret?)
        }
        (How::KeyWrap(mechanism, algorithm), made_by) if algorithm == made_by => {
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::GENERIC_SECRET),
                Attribute::Token(false),
                Attribute::Sensitive(false),
                Attribute::Extractable(true),
            ];
            let inside = session.unwrap_key(&plain(mechanism), root, parts.ciphertext, &template)?;
            let value = session.get_attributes(inside, &[AttributeType::Value]);
            session.destroy_object(inside)?;
            let [Attribute::Value(payload)] = &mut value?[..] else { return Err(foreign().into()) };
            let secret = wrapped::open_payload(payload, binding);
            payload.zeroize();
            Ok(secret?)
        }
        _ => Err(foreign().into()),
    }
}

fn failure(reason: Reason, operation: Operation) -> Error {
    Error::new(reason, messages::explain(KIND, reason, operation))
}

fn is_session_lost(error: &HsmError) -> bool {
    matches!(
        error,
        HsmError::Pkcs11(
            RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::UserNotLoggedIn
                | RvError::DeviceRemoved
                | RvError::TokenNotPresent,
            _
        )
    )
}

fn explain(error: &HsmError, operation: Operation) -> Error {
    let reason = match error {
        HsmError::Pkcs11(code, _) => reason_of(code, operation),
        _ => Reason::Misconfigured,
    };
    failure(reason, operation).with_source(error)
}

fn reason_of(code: &RvError, operation: Operation) -> Reason {
    match code {
        RvError::PinIncorrect
        | RvError::PinInvalid
        | RvError::PinLenRange
        | RvError::PinExpired
        | RvError::PinLocked
        | RvError::UserPinNotInitialized
        | RvError::CryptokiNotInitialized
        | RvError::ArgumentsBad => Reason::Misconfigured,
        RvError::KeyFunctionNotPermitted => Reason::Disabled,
        RvError::ActionProhibited => Reason::AccessDenied,
        RvError::KeySizeRange
        | RvError::KeyTypeInconsistent
        | RvError::KeyUnextractable
        | RvError::KeyNotWrappable
        | RvError::MechanismInvalid
        | RvError::MechanismParamInvalid
        | RvError::UnwrappingKeySizeRange
        | RvError::UnwrappingKeyTypeInconsistent
        | RvError::WrappingKeySizeRange
        | RvError::WrappingKeyTypeInconsistent => Reason::WrongKeyType,
        RvError::SessionCount => Reason::Throttled,
        // Integrity failures have many names, GeneralError among them.
        RvError::EncryptedDataInvalid
        | RvError::EncryptedDataLenRange
        | RvError::DataInvalid
        | RvError::DataLenRange
        | RvError::SignatureInvalid
        | RvError::WrappedKeyInvalid
        | RvError::WrappedKeyLenRange
        | RvError::GeneralError
            if operation == Operation::Unwrap =>
        {
            Reason::BadCiphertext
        }
        _ => Reason::Unreachable,
    }
}

impl RootKey for Pkcs11Root {
    fn kind(&self) -> StoreKind {
        KIND
    }

    fn describe(&self) -> BoxFuture<'_, Result<Description>> {
        self.run(Operation::Describe, describe).boxed()
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey, binding: &'a Binding) -> BoxFuture<'a, Result<Wrapped>> {
        async move {
            let operation = Operation::Wrap;
            let (secret, binding) = (wrapped::duplicate(key)?, binding.clone());
            let (algorithm, version, ciphertext) = self
                .run(operation, move |token, key, session| {
                    let version = describe(token, key, session)?.version;
                    let (algorithm, ciphertext) = wrap(token, key, session, &secret, &binding)?;
                    Ok((algorithm, version, ciphertext))
                })
                .await?;
            let reference = self.key.to_string();
            Parts { kind: KIND, algorithm, reference: &reference, version: &version, ciphertext: &ciphertext }
                .to_wrapped()
        }
        .boxed()
    }

    fn unwrap<'a>(&'a self, wrapped: &'a [u8], binding: &'a Binding) -> BoxFuture<'a, Result<SecretKey>> {
        let (wrapped, binding) = (wrapped.to_vec(), binding.clone());
        self.run(Operation::Unwrap, move |token, key, session| {
            unwrap(token, key, session, &wrapped, &binding)
        })
        .boxed()
    }
}
