//! What the administrator of an HSM does: switching a key off and on. `pkcs11-tool` cannot.

use std::path::Path;

use anyhow::{Context as _, bail};
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    object::Attribute,
    session::UserType,
    types::AuthPin,
};

/// Allows or forbids every use of a key.
pub fn set_enabled(module: &Path, pin: &str, token: &str, key: &str, enabled: bool) -> anyhow::Result<()> {
    let library = Pkcs11::new(module).context("load the PKCS#11 library")?;
    library
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .context("initialise the PKCS#11 library")?;
    for slot in library.get_slots_with_initialized_token()? {
        if library.get_token_info(slot)?.label() != token {
            continue;
        }
        let session = library.open_rw_session(slot)?;
        session.login(UserType::User, Some(&AuthPin::new(pin.to_owned().into()))).context("log in")?;
        let [found] = session.find_objects(&[Attribute::Label(key.as_bytes().to_vec())])?[..] else {
            bail!("not exactly one object with the label {key}");
        };
        let uses = [
            Attribute::Encrypt(enabled),
            Attribute::Decrypt(enabled),
            Attribute::Wrap(enabled),
            Attribute::Unwrap(enabled),
        ];
        return session.update_attributes(found, &uses).context("change the key");
    }
    bail!("no token with the label {token}")
}
