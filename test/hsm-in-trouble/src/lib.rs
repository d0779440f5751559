//! A PKCS#11 library in front of another: an HSM that can be told to misbehave.
//!
//! `OPENKCM_HSM_MODULE` names the library behind it. The file `OPENKCM_HSM_TROUBLE` says how it is, asked anew with every call:
//! `silent` (calls do not come back until it says something else), `down`, `denied`, `throttled`; anything else is well.
#![allow(unsafe_code)] // A C interface on both sides.
#![allow(clippy::panic)] // A test's library without its settings is of no use.

use std::{env, ffi::c_void, fs, ptr, sync::LazyLock, thread::sleep, time::Duration};

use cryptoki_sys::{
    CK_ATTRIBUTE, CK_BBOOL, CK_FLAGS, CK_FUNCTION_LIST, CK_NOTIFY, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID,
    CK_ULONG, CKR_ACTION_PROHIBITED, CKR_ARGUMENTS_BAD, CKR_DEVICE_REMOVED, CKR_FUNCTION_NOT_SUPPORTED,
    CKR_OK, CKR_SESSION_COUNT, Pkcs11,
};

/// The functions of the library behind, and the list that callers get.
struct Library {
    behind: CK_FUNCTION_LIST,
    given: CK_FUNCTION_LIST,
    _loaded: Pkcs11,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let Some(module) = env::var_os("OPENKCM_HSM_MODULE") else { panic!("OPENKCM_HSM_MODULE is not set") };
    // SAFETY: the operator's library, as the provider loads it.
    let loaded = unsafe { Pkcs11::new(module) }.unwrap_or_else(|error| panic!("load the library: {error}"));
    let mut list: *mut CK_FUNCTION_LIST = ptr::null_mut();
    // SAFETY: the function that every PKCS#11 library has; it fills in a pointer to a list that lives as long as the library.
    let behind = unsafe {
        assert_eq!(loaded.C_GetFunctionList(&raw mut list), CKR_OK);
        *list
    };
    let given = CK_FUNCTION_LIST {
        C_GetSlotList: Some(get_slot_list),
        C_OpenSession: Some(open_session),
        C_FindObjectsInit: Some(find_objects_init),
        ..behind
    };
    Library { behind, given, _loaded: loaded }
});

/// The one function that callers look for.
///
/// # Safety
/// `list` is where the pointer goes.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: checked above; callers only read the list.
    unsafe { *list = (&raw const LIBRARY.given).cast_mut() };
    CKR_OK
}

/// How it is just now: waits while it is silent.
fn trouble() -> Option<CK_RV> {
    let file = env::var_os("OPENKCM_HSM_TROUBLE")?;
    loop {
        return match fs::read_to_string(&file).unwrap_or_default().trim() {
            "down" => Some(CKR_DEVICE_REMOVED),
            "denied" => Some(CKR_ACTION_PROHIBITED),
            "throttled" => Some(CKR_SESSION_COUNT),
            "silent" => {
                sleep(Duration::from_millis(50));
                continue;
            }
            _ => None,
        };
    }
}

unsafe extern "C" fn get_slot_list(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> CK_RV {
    match (trouble(), LIBRARY.behind.C_GetSlotList) {
        (Some(code), _) => code,
        // SAFETY: passed on as it came.
        (None, Some(behind)) => unsafe { behind(present, slots, count) },
        (None, None) => CKR_FUNCTION_NOT_SUPPORTED,
    }
}

unsafe extern "C" fn open_session(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    match (trouble(), LIBRARY.behind.C_OpenSession) {
        (Some(code), _) => code,
        // SAFETY: passed on as it came.
        (None, Some(behind)) => unsafe { behind(slot, flags, application, notify, session) },
        (None, None) => CKR_FUNCTION_NOT_SUPPORTED,
    }
}

unsafe extern "C" fn find_objects_init(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> CK_RV {
    match (trouble(), LIBRARY.behind.C_FindObjectsInit) {
        (Some(code), _) => code,
        // SAFETY: passed on as it came.
        (None, Some(behind)) => unsafe { behind(session, template, count) },
        (None, None) => CKR_FUNCTION_NOT_SUPPORTED,
    }
}
