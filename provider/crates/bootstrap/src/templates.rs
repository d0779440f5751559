//! Manifests for the console, with its address filled in.

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, apply::Manifest};

const PLACEHOLDER: &str = "${CONSOLE_URL}";

/// The manifests with the console's address in them. Without an address they keep the placeholder, and are good
/// for nothing but their names.
pub(crate) fn render(documents: &[String], console_url: Option<&str>) -> Result<Vec<Manifest>, Error> {
    let url = console_url.map(checked).transpose()?.unwrap_or(PLACEHOLDER);
    let mut manifests = Vec::new();
    for (number, text) in documents.iter().enumerate() {
        let fail = |error: serde_yaml_ng::Error| Error::Manifest {
            what: format!("manifest {} of the console", number + 1),
            source: Box::new(error),
        };
        for document in serde_yaml_ng::Deserializer::from_str(&text.replace(PLACEHOLDER, url)) {
            let value = Value::deserialize(document).map_err(fail)?;
            if !value.is_null() {
                manifests.push(Manifest::try_from(value)?.managed());
            }
        }
    }
    Ok(manifests)
}

/// The address without a slash at its end. It is put into YAML and JSON as text, so nothing may pass that could
/// end a string there. `{` and `}` may: the console replaces `{context.organization}`.
fn checked(url: &str) -> Result<&str, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/%{}[]".contains(c);
    let has_scheme =
        ["https://", "http://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
    if has_scheme && url.chars().all(plain) {
        return Ok(url.trim_end_matches('/'));
    }
    Err(Error::Option {
        option: "--console-url",
        problem: format!(
            "{url:?} is not the address of a console, for example https://console.example.com/openkcm"
        ),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const DOCUMENT: &str = "# comment\n---\napiVersion: ui/v1\nkind: Page\nmetadata: {name: a}\nspec: {url: \"${CONSOLE_URL}/x\"}\n";

    #[test]
    fn the_address_is_filled_in_once_and_clean() {
        let manifests = render(&[DOCUMENT.to_owned()], Some("https://c.example/base/")).unwrap();
        assert_eq!(manifests.len(), 1);
        assert_eq!(manifests[0].value()["spec"]["url"], "https://c.example/base/x");
    }

    #[test]
    fn an_address_cannot_break_out_of_its_string() {
        for url in [
            "",
            "c.example",
            "https://",
            "javascript:alert(1)",
            "https://c\", evil: \"",
            "https://c/\n",
            "https://c/?a",
        ] {
            let error = render(&[DOCUMENT.to_owned()], Some(url)).err().map(|error| error.to_string());
            assert!(error.is_some_and(|text| text.contains("--console-url")), "{url}");
        }
    }
}
