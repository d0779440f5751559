//! RFC 7512 URIs of keys in a PKCS#11 token.

use std::{fmt, str::FromStr};

use super::{MAX_LEN, ReferenceError};

const EXPECTED: &str = "pkcs11:token=LABEL;object=LABEL";

/// A secret or RSA key, by the labels of its token and of itself.
///
/// A tenant names nothing else: which library, PIN and mechanism belong to a token is the operator's configuration, so the query part of
/// RFC 7512 (`module-path`, `pin-source`, `pin-value`) is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pkcs11Key {
    /// The token's label (Luna: partition), at most 32 bytes.
    pub token: String,
    /// The key's label.
    pub object: String,
}

impl FromStr for Pkcs11Key {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |problem| ReferenceError { problem, expected: EXPECTED };
        if text.len() > MAX_LEN {
            return Err(wrong("the reference is too long"));
        }
        let path = text.strip_prefix("pkcs11:").ok_or_else(|| wrong("not a PKCS#11 URI"))?;
        if path.contains('?') {
            return Err(wrong("module, PIN and other query attributes are the operator's to set"));
        }
        let (mut token, mut object, mut class) = (None, None, None);
        for attribute in path.split(';') {
            let (name, value) =
                attribute.split_once('=').ok_or_else(|| wrong("an attribute has no value"))?;
            let slot = match name {
                "token" => &mut token,
                "object" => &mut object,
                "type" => &mut class,
                _ => return Err(wrong("only the attributes token, object and type are supported")),
            };
            let value = decode(value).ok_or_else(|| wrong("a value is not percent-encoded text"))?;
            if slot.replace(value).is_some() {
                return Err(wrong("an attribute is given twice"));
            }
        }
        if class.is_some_and(|class| class != "secret-key") {
            return Err(wrong("only keys of type secret-key are supported"));
        }
        let token =
            token.filter(|label| (1..=32).contains(&label.len())).ok_or_else(|| wrong("no token label"))?;
        let object = object
            .filter(|label| (1..=255).contains(&label.len()))
            .ok_or_else(|| wrong("no object label"))?;
        Ok(Self { token, object })
    }
}

/// Characters that stand for themselves in an attribute's value: RFC 7512's `pk11-pchar`.
fn is_plain(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-._~:[]@!$'()*+,=&".contains(&c)
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match first {
            b'%' => {
                let (digits, tail) = tail.split_at_checked(2)?;
                let digits =
                    std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|c| c.is_ascii_hexdigit()))?;
                bytes.push(u8::from_str_radix(digits, 16).ok()?);
                tail
            }
            c if is_plain(*c) => {
                bytes.push(*c);
                tail
            }
            _ => return None,
        };
    }
    // A control character in a label is no label that a person chose, and spoils logs.
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.bytes() {
            // '*' is plain in RFC 7512, but the operator's patterns give it a meaning.
            if is_plain(c) && c != b'*' { write!(f, "{}", char::from(c))? } else { write!(f, "%{c:02X}")? }
        }
        Ok(())
    }
}

impl fmt::Display for Pkcs11Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkcs11:token={};object={}", Encoded(&self.token), Encoded(&self.object))
    }
}
