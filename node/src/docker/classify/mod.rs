//! What an engine's error means for the caller. Pure: texts in, [`EngineError`] out.
//!
//! Engines say what went wrong in prose, some of it passed on from the registry or the kernel, so this matches on phrases.
//! They were collected from Engine 20.10 (see the table in the tests) and from its sources: moby's `distribution` package,
//! Go's `net` and `syscall`. What matches nothing is [`EngineError::Refused`]: given up, never retried blindly.

mod builds;
mod containers;

pub(super) use builds::build_error;
pub(super) use containers::{Subject, container_error, is_being_removed};

use super::EngineError;

/// Longest text of an engine passed on. Registries behind proxies answer with whole web pages.
const MAX_DETAIL_LENGTH: usize = 500;

/// Where an error of a pull comes from. `image` is the familiar spelling.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) endpoint: &'a str,
    pub(super) image: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    DiskFull,
    /// The engine itself stopped the work: it is shutting down.
    Interrupted,
    /// The registry answers but a person must change something; beats the phrases of unreachable registries that such
    /// texts also contain.
    Misconfigured,
    ImageNotFound,
    /// The registry wants to be shown a name and a password, or others.
    Denied,
    RegistryUnavailable,
}

/// Phrases, in lower case, from the surest to the vaguest; the first that occurs decides.
const PHRASES: &[(&str, Cause)] = &[
    ("no space left on device", Cause::DiskFull),
    ("disk quota exceeded", Cause::DiskFull),
    ("context canceled", Cause::Interrupted),
    ("server gave http response to https client", Cause::Misconfigured),
    ("x509: ", Cause::Misconfigured),
    ("tls: ", Cause::Misconfigured),
    ("manifest unknown", Cause::ImageNotFound),
    ("name unknown", Cause::ImageNotFound),
    ("repository does not exist", Cause::ImageNotFound),
    ("pull access denied", Cause::ImageNotFound),
    ("requested access to the resource is denied", Cause::ImageNotFound),
    ("no basic auth credentials", Cause::Denied),
    ("authentication required", Cause::Denied),
    ("no matching manifest for", Cause::ImageNotFound),
    ("does not provide any platform", Cause::ImageNotFound),
    ("connection refused", Cause::RegistryUnavailable),
    ("connection reset by peer", Cause::RegistryUnavailable),
    ("broken pipe", Cause::RegistryUnavailable),
    ("no such host", Cause::RegistryUnavailable),
    ("server misbehaving", Cause::RegistryUnavailable),
    ("temporary failure in name resolution", Cause::RegistryUnavailable),
    ("no route to host", Cause::RegistryUnavailable),
    ("network is unreachable", Cause::RegistryUnavailable),
    ("i/o timeout", Cause::RegistryUnavailable),
    ("handshake timeout", Cause::RegistryUnavailable),
    ("client.timeout exceeded", Cause::RegistryUnavailable),
    ("deadline exceeded", Cause::RegistryUnavailable),
    ("request canceled while waiting for connection", Cause::RegistryUnavailable),
    ("toomanyrequests", Cause::RegistryUnavailable),
    ("too many requests", Cause::RegistryUnavailable),
    ("bad gateway", Cause::RegistryUnavailable),
    ("service unavailable", Cause::RegistryUnavailable),
    ("gateway timeout", Cause::RegistryUnavailable),
    ("internal server error", Cause::RegistryUnavailable),
    // Registry 2.8 answers so when its own storage fails.
    ("unknown: unknown error", Cause::RegistryUnavailable),
    // A layer that came cut short or mixed up: the next try fetches it again.
    ("layer verification failed", Cause::RegistryUnavailable),
    ("unexpected eof", Cause::RegistryUnavailable),
    ("http: ", Cause::RegistryUnavailable),
    (": eof", Cause::RegistryUnavailable),
];

/// The error of a pull, from the text the engine gave in its reply or in the middle of its progress stream.
pub(super) fn pull_error(context: Context<'_>, message: &str) -> EngineError {
    let detail = shorten(message);
    let image = || context.image.to_owned();
    match cause(message) {
        Some(Cause::DiskFull) => EngineError::DiskFull { detail },
        Some(Cause::Interrupted) => {
            EngineError::Interrupted { endpoint: context.endpoint.to_owned(), detail }
        }
        Some(Cause::ImageNotFound) => EngineError::ImageNotFound { image: image(), detail },
        Some(Cause::Denied) => EngineError::Denied { image: image(), detail },
        Some(Cause::RegistryUnavailable) => EngineError::RegistryUnavailable { image: image(), detail },
        Some(Cause::Misconfigured) | None => EngineError::Refused { detail },
    }
}

/// The error of a push, likewise. What a registry says to a pull of an image that is not to be had, it says to a push that it does not allow.
pub(super) fn push_error(context: Context<'_>, message: &str) -> EngineError {
    let image = context.image.to_owned();
    let said = message.to_lowercase();
    if said.contains("does not exist locally") || said.contains("tag does not exist") {
        return EngineError::NoSuchImage { image };
    }
    match pull_error(context, message) {
        EngineError::ImageNotFound { detail, .. } => EngineError::Denied { image, detail },
        other => other,
    }
}

/// Why no connection to the engine could be made.
pub(super) fn connect_error(endpoint: &str, error: &std::io::Error) -> EngineError {
    use std::io::ErrorKind;
    let endpoint = endpoint.to_owned();
    let detail = match error.kind() {
        ErrorKind::PermissionDenied => return EngineError::Forbidden { endpoint },
        ErrorKind::NotFound => "there is no such socket".to_owned(),
        ErrorKind::ConnectionRefused => "nothing listens on the socket".to_owned(),
        _ => error.to_string(),
    };
    EngineError::Unavailable { endpoint, detail }
}

/// What an error says, with what its causes say that it does not say itself. One bounded line.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    shorten(&text)
}

/// One line, bounded.
pub(super) fn shorten(message: &str) -> String {
    let mut line: String = message
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_DETAIL_LENGTH + 1)
        .collect();
    if let Some((cut, _)) = line.char_indices().nth(MAX_DETAIL_LENGTH) {
        line.truncate(cut);
        line.push_str("...");
    }
    if line.is_empty() { "the engine gave no reason".to_owned() } else { line }
}

fn cause(message: &str) -> Option<Cause> {
    let message = message.to_lowercase();
    PHRASES.iter().find(|(phrase, _)| message.contains(phrase)).map(|(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context<'_> = Context { endpoint: "/run/docker.sock", image: "nginx:latest" };

    /// The messages are recorded from Engine 20.10.24 with registry 2.8, but for those of Docker Hub, which are quoted
    /// from moby's issue tracker.
    const TABLE: &[(&str, &str)] = &[
        ("not found", "manifest for 127.0.0.1:5555/big:nope not found: manifest unknown: manifest unknown"),
        (
            "not found",
            "manifest for 127.0.0.1:5555/big@sha256:e3b0 not found: manifest unknown: manifest unknown",
        ),
        (
            "not found",
            "pull access denied for nope, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
        ),
        (
            "not found",
            "Head \"https://ghcr.io/v2/a/b/manifests/1\": denied: requested access to the resource is denied",
        ),
        (
            "denied",
            "Head \"https://registry.example/v2/a/manifests/1\": unauthorized: authentication required",
        ),
        ("denied", "Head \"https://registry.example/v2/a/manifests/1\": no basic auth credentials"),
        ("not found", "no matching manifest for linux/arm64/v8 in the manifest list entries"),
        ("registry", "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused"),
        (
            "registry",
            "Get \"https://registry.invalid/v2/\": dial tcp: lookup registry.invalid on 10.0.0.53:53: no such host",
        ),
        (
            "registry",
            "Get \"https://registry.example/v2/\": dial tcp: lookup registry.example: Temporary failure in name resolution",
        ),
        (
            "registry",
            "Get \"https://registry-1.docker.io/v2/\": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
        ),
        ("registry", "Get \"https://registry-1.docker.io/v2/\": net/http: TLS handshake timeout"),
        ("registry", "Get \"https://10.1.2.3/v2/\": dial tcp 10.1.2.3:443: i/o timeout"),
        ("registry", "Get \"https://10.1.2.3/v2/\": dial tcp 10.1.2.3:443: connect: no route to host"),
        ("registry", "Get \"http://127.0.0.1:5555/v2/\": EOF"),
        ("registry", "error pulling image configuration: download failed after attempts=6: unexpected EOF"),
        ("registry", "read tcp 127.0.0.1:1->127.0.0.1:2: read: connection reset by peer"),
        ("registry", "filesystem layer verification failed for digest sha256:bb36"),
        ("registry", "received unexpected HTTP status: 503 Service Unavailable"),
        ("registry", "toomanyrequests: You have reached your pull rate limit."),
        ("disk", "write /var/lib/docker/tmp/GetImageBlob3753957000: no space left on device"),
        (
            "disk",
            "failed to register layer: Error processing tar file(exit status 1): write /blob: no space left on device",
        ),
        ("interrupted", "context canceled"),
        ("refused", "Get \"https://127.0.0.1:5555/v2/\": http: server gave HTTP response to HTTPS client"),
        ("refused", "Get \"https://registry.example/v2/\": x509: certificate signed by unknown authority"),
        ("refused", "invalid reference format: repository name must be lowercase"),
        ("refused", "manifest verification failed for digest sha256:bb36"),
        ("refused", "something nobody has seen yet"),
        ("refused", ""),
    ];

    fn kind(error: &EngineError) -> &'static str {
        match error {
            EngineError::ImageNotFound { .. } => "not found",
            EngineError::RegistryUnavailable { .. } => "registry",
            EngineError::DiskFull { .. } => "disk",
            EngineError::Interrupted { .. } => "interrupted",
            EngineError::Denied { .. } => "denied",
            EngineError::Refused { .. } => "refused",
            other => panic!("a pull's message never means {other:?}"),
        }
    }

    #[test]
    fn messages_of_engines() {
        for (expected, message) in TABLE {
            let error = pull_error(CONTEXT, message);
            assert_eq!(kind(&error), *expected, "{message:?}");
            assert_eq!(error.is_transient(), matches!(*expected, "registry" | "disk" | "interrupted"));
            assert!(error.to_string().contains(message), "{error} keeps what the engine said");
        }
    }

    #[test]
    fn phrases_are_lower_case_as_the_texts_they_are_sought_in() {
        for (phrase, _) in PHRASES {
            assert_eq!(*phrase, phrase.to_lowercase());
        }
    }

    #[test]
    fn failures_to_connect() {
        let refuse = |errno| connect_error("/x", &std::io::Error::from_raw_os_error(errno));
        assert!(matches!(refuse(libc::EACCES), EngineError::Forbidden { .. }));
        assert!(matches!(refuse(libc::EPERM), EngineError::Forbidden { .. }));
        assert!(refuse(libc::ENOENT).to_string().contains("no such socket"));
        assert!(refuse(libc::ECONNREFUSED).to_string().contains("nothing listens"));
        for errno in [libc::ENOENT, libc::ECONNREFUSED, libc::EAGAIN, libc::EMFILE] {
            assert!(matches!(refuse(errno), EngineError::Unavailable { .. }), "{errno}");
        }
    }

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::other("broken pipe");
        let outer = EngineError::Refused { detail: "write: broken pipe".to_owned() };
        assert_eq!(describe(&inner), "broken pipe");
        assert_eq!(describe(&outer), outer.to_string());

        #[derive(Debug, thiserror::Error)]
        #[error("no reply")]
        struct NoReply(#[source] std::io::Error);
        assert_eq!(describe(&NoReply(inner)), "no reply: broken pipe");
    }

    #[test]
    fn details_are_one_bounded_line() {
        assert_eq!(shorten(" a\nb\r\n"), "a b");
        assert_eq!(shorten("\n"), "the engine gave no reason");
        let long = shorten(&"ü".repeat(2 * MAX_DETAIL_LENGTH));
        assert_eq!(long.chars().count(), MAX_DETAIL_LENGTH + 3);
        assert_eq!(shorten(&"u".repeat(MAX_DETAIL_LENGTH)).len(), MAX_DETAIL_LENGTH);
    }

    #[test]
    fn a_push_that_is_not_allowed_is_told_from_one_of_nothing() {
        let cases = [
            ("no image", "An image does not exist locally with the tag: 127.0.0.1:5000/small"),
            ("no image", "tag does not exist: 127.0.0.1:5000/small:none"),
            ("refused", "denied: requested access to the resource is denied"),
            ("refused", "unauthorized: authentication required"),
            (
                "cannot be reached",
                "Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused",
            ),
        ];
        for (kind, message) in cases {
            let text = push_error(CONTEXT, message).to_string();
            assert!(text.contains(kind) && text.contains("nginx:latest"), "{text}");
        }
    }
}
