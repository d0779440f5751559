use std::error::Error;

/// An error with its sources, in one line. Many errors, kube's among them, end with what their source says too, or with
/// more of it than anybody wants to read: of those, only the words before.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut parts = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let text = error.to_string();
        let source = next.map(ToString::to_string).filter(|source| !source.is_empty());
        let own = source.and_then(|source| text.split(&source).next().map(str::to_owned)).unwrap_or(text);
        let own = own.trim_end_matches([' ', ':']);
        if !own.is_empty() {
            parts.push(own.to_owned());
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use kube::{core::Status, runtime::watcher};

    use super::*;

    #[test]
    fn a_refusal_is_said_once() {
        let status =
            Status::failure("workspaces.tenancy.kcp.io \"root:a\" not found", "NotFound").with_code(404);
        let error = watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status)));
        let said = "failed to start watching object: ApiError: workspaces.tenancy.kcp.io \"root:a\" not found: NotFound";
        assert_eq!(chain(&error), said);
    }

    #[test]
    fn what_a_source_adds_is_kept() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = kube::Error::Service(Box::new(refused));
        assert_eq!(chain(&error), "ServiceError: connection refused");
    }
}
