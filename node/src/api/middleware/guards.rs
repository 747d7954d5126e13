//! Who may ask what, and how many requests there are at once.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Access, Gate};
use crate::api::types::{ApiError, ErrorCode};

/// On a read-only listener: the host name must be this host's and the method a read.
pub(super) async fn check_access(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    if let Access::ReadOnly { bound } = gate.access {
        let host = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        if !host.is_some_and(|host| is_local_host(host, bound)) {
            let message = format!("the host name {:?} is not one of this listener", host.unwrap_or(""));
            let error = ApiError::new(ErrorCode::Denied, message);
            return error.hint("use localhost, or the address that it listens on").into_response();
        }
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let error = ApiError::new(
                ErrorCode::Denied,
                "changes are not taken over TCP, which has no access control",
            );
            return error
                .hint("use the unix socket: longshore --host unix:///PATH, on the node itself")
                .into_response();
        }
    }
    next.run(request).await
}

/// Whether a `Host` header (`name` or `name:port`) is a loopback name or address, or the address listened on.
fn is_local_host(host: &str, bound: IpAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
            _ => return false,
        },
        None => host.split(':').next().unwrap_or(""),
    };
    match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == bound,
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case("localhost."),
    }
}

/// Answers `busy` beyond the limit. Health is answered whatever the load: it is asked for to learn about that.
pub(super) async fn limit_requests(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/livez" | "/readyz") {
        return next.run(request).await;
    }
    match gate.requests.try_acquire() {
        Ok(_permit) => next.run(request).await,
        Err(_) => {
            let message =
                format!("{} requests are being worked on, the most allowed", gate.limits.requests_max);
            ApiError::new(ErrorCode::Busy, message).hint("try again in a moment").into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        let bound: IpAddr = "127.0.0.2".parse().unwrap();
        let cases = [
            ("localhost", true),
            ("LOCALHOST:7400", true),
            ("localhost.:7400", true),
            ("127.0.0.1", true),
            ("127.0.0.2:7400", true),
            ("127.1.2.3", true),
            ("[::1]", true),
            ("[::1]:7400", true),
            ("", false),
            ("::1", false),
            ("[::1", false),
            ("[::1]evil.example", false),
            ("evil.example", false),
            ("evil.example:7400", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("192.0.2.1", false),
        ];
        for (host, local) in cases {
            assert_eq!(is_local_host(host, bound), local, "{host:?}");
        }
        assert!(is_local_host("192.0.2.1:80", "192.0.2.1".parse().unwrap()));
    }
}
