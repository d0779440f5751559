//! The headers that every answer carries.

use anyhow::{Result, ensure};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, header};
use url::Url;

/// What the pages may load, ask and be embedded in. Made once.
#[derive(Clone, Debug)]
pub struct Policy {
    mfe: HeaderValue,
    shell: HeaderValue,
    /// Origins whose pages may import the tile's module.
    embedders: Vec<HeaderValue>,
}

impl Policy {
    /// Fails on an address that is no plain origin: a path or a user name in it would be a misunderstanding.
    pub fn new(connect: &[Url], ancestors: &[Url]) -> Result<Self> {
        let connect = origins(connect)?;
        let ancestors = origins(ancestors)?;
        let join = |own: &str, more: &[String]| {
            std::iter::once(own.to_owned()).chain(more.iter().cloned()).collect::<Vec<_>>().join(" ")
        };
        // UI5 and Luigi set style attributes; no script is ever inline.
        let common = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'none'; object-src 'none'";
        let mfe = format!(
            "{common}; connect-src {}; frame-ancestors {}",
            join("'self'", &connect),
            join("'self'", &ancestors)
        );
        let shell = format!(
            "{common}; connect-src {}; frame-src 'self'; frame-ancestors 'none'",
            join("'self'", &connect)
        );
        Ok(Self {
            mfe: mfe.parse()?,
            shell: shell.parse()?,
            embedders: ancestors.iter().map(|o| o.parse()).collect::<Result<_, _>>()?,
        })
    }
}

fn origins(urls: &[Url]) -> Result<Vec<String>> {
    urls.iter()
        .map(|u| {
            ensure!(
                matches!(u.scheme(), "http" | "https")
                    && matches!(u.path(), "" | "/")
                    && u.query().is_none()
                    && u.username().is_empty(),
                "an origin is wanted, like https://portal.example, not {u}"
            );
            Ok(u.origin().ascii_serialization())
        })
        .collect()
}

/// Adds the policy and the caching rule of the path.
pub async fn secure(State(policy): State<Policy>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = next.run(request).await;
    let of_mfe = path.starts_with("/mfe/");
    let cacheable = path.contains("/assets/") && response.status().is_success();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        if of_mfe { policy.mfe.clone() } else { policy.shell.clone() },
    );
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            // The portal imports the tile's module from its own origin.
            if of_mfe { "cross-origin" } else { "same-origin" },
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(
            header::CACHE_CONTROL,
            // Names under assets/ hold a hash of the content; everything else is asked for anew.
            HeaderValue::from_static(if cacheable {
                "public, max-age=31536000, immutable"
            } else {
                "no-cache"
            }),
        );
    }
    if of_mfe {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = origin.filter(|o| policy.embedders.contains(o)) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        }
    }
    response
}
