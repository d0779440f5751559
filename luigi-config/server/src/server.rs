//! Which path is answered by what.

use std::path::Path;

use axum::Router;
use axum::middleware;
use axum::routing::{any, get, post};
use tower_http::services::{ServeDir, ServeFile};

use crate::headers::{Policy, secure};
use crate::proxy::{self, Proxy};
use crate::shell::{self, Shell};

/// The build leaves a `.br` and a `.gz` beside every text file.
fn files(dir: &Path) -> ServeDir {
    ServeDir::new(dir).precompressed_br().precompressed_gzip()
}

/// The whole server.
pub fn router(mfe: &Path, shell: Option<Shell>, proxy: Option<Proxy>, policy: Policy) -> Router {
    let mut router = Router::new().route("/healthz", get(|| async { "ok" })).nest_service("/mfe", files(mfe));
    if let Some(proxy) = proxy {
        router = router.route("/kcp/{*path}", any(proxy::forward).with_state(proxy));
    }
    if let Some(shell) = shell {
        // Luigi routes by path: whatever is no file is the shell's page.
        let index = ServeFile::new(shell.dir.join("index.html")).precompressed_br().precompressed_gzip();
        let pages = files(&shell.dir).fallback(index);
        router = router
            .route("/shell/config", post(shell::config).with_state(shell.clone()))
            .route("/shell/session", post(shell::session).with_state(shell))
            .fallback_service(pages);
    }
    router.layer(middleware::from_fn_with_state(policy, secure))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use axum::body::Body;
    use http::{Request, StatusCode, header};
    use tower::ServiceExt as _;

    fn served(dir: &tempfile::TempDir) -> Router {
        let mfe = dir.path().join("mfe");
        let pages = dir.path().join("shell");
        std::fs::create_dir_all(mfe.join("assets")).unwrap();
        std::fs::create_dir_all(&pages).unwrap();
        std::fs::write(mfe.join("index.html"), "mfe").unwrap();
        std::fs::write(mfe.join("assets/a-1234.js"), "1").unwrap();
        std::fs::write(pages.join("index.html"), "shell").unwrap();
        std::fs::write(dir.path().join("token"), "s3cret\n").unwrap();
        let config = dir.path().join("shell.json");
        let token = dir.path().join("token");
        std::fs::write(
            &config,
            serde_json::json!({"workspace": "root:demo", "tokenFile": token}).to_string(),
        )
        .unwrap();
        let shell = Shell::new(pages, &config, "127.0.0.1:7".parse().unwrap(), true).unwrap();
        let policy = Policy::new(
            &["https://gateway.example".parse().unwrap()],
            &["https://portal.example".parse().unwrap()],
        )
        .unwrap();
        router(&mfe, Some(shell), None, policy)
    }

    async fn ask(router: Router, request: http::request::Builder) -> http::Response<Body> {
        router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    #[tokio::test]
    async fn pages_carry_the_policy_and_hashed_names_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let page = ask(served(&dir), Request::get("/mfe/index.html")).await;
        let csp = page.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(csp.contains("default-src 'none'"), "{csp}");
        assert!(csp.contains("connect-src 'self' https://gateway.example;"), "{csp}");
        assert!(csp.ends_with("frame-ancestors 'self' https://portal.example"), "{csp}");
        assert_eq!(page.headers()[header::CACHE_CONTROL], "no-cache");
        let asset = ask(served(&dir), Request::get("/mfe/assets/a-1234.js")).await;
        assert!(asset.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        let missing = ask(served(&dir), Request::get("/mfe/assets/b-1234.js")).await;
        assert_eq!(missing.status(), StatusCode::NOT_FOUND);
        assert_eq!(missing.headers()[header::CACHE_CONTROL], "no-cache");
    }

    #[tokio::test]
    async fn only_the_portal_may_import_the_tile() {
        let dir = tempfile::tempdir().unwrap();
        for (origin, allowed) in [("https://portal.example", true), ("https://evil.example", false)] {
            let got = ask(served(&dir), Request::get("/mfe/index.html").header(header::ORIGIN, origin)).await;
            assert_eq!(got.headers().contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), allowed, "{origin}");
        }
    }

    #[tokio::test]
    async fn the_token_is_for_our_own_page_only() {
        let dir = tempfile::tempdir().unwrap();
        let own = || {
            Request::post("/shell/session")
                .header(header::HOST, "127.0.0.1:7")
                .header("sec-fetch-site", "same-origin")
                .header("x-openkcm-shell", "1")
        };
        let got = ask(served(&dir), own()).await;
        assert_eq!(got.status(), StatusCode::OK);
        assert_eq!(got.headers()[header::CACHE_CONTROL], "no-store");
        for request in [
            Request::post("/shell/session")
                .header(header::HOST, "127.0.0.1:7")
                .header("x-openkcm-shell", "1"),
            Request::post("/shell/session")
                .header(header::HOST, "127.0.0.1:7")
                .header("sec-fetch-site", "cross-site")
                .header("x-openkcm-shell", "1"),
            Request::post("/shell/session")
                .header(header::HOST, "rebound.example:7")
                .header("sec-fetch-site", "same-origin")
                .header("x-openkcm-shell", "1"),
        ] {
            assert_eq!(ask(served(&dir), request).await.status(), StatusCode::FORBIDDEN);
        }
    }

    #[tokio::test]
    async fn any_other_path_is_the_shell() {
        let dir = tempfile::tempdir().unwrap();
        let got = ask(served(&dir), Request::get("/home/openkcm/accounts/x")).await;
        assert_eq!(got.status(), StatusCode::OK);
        let csp = got.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(csp.contains("frame-ancestors 'none'"), "{csp}");
    }
}
