//! The limits of the HTTP API. All are settings (`[limits]` in the configuration); the defaults are here.

use std::time::Duration;

/// What one listener allows. Every listener has its own allowance, so that a flood on TCP leaves the unix socket usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiLimits {
    /// Open connections. The next one is answered with `busy` and closed.
    pub connections_max: usize,
    /// Requests being worked on, watches not counted once they stream. The next one is answered with `busy`.
    pub requests_max: usize,
    /// Most bytes of a request body; more is `too_large`.
    pub body_max_bytes: usize,
    /// A connection that has not sent a whole request head after so long is closed; also how long an idle one is kept.
    pub header_timeout: Duration,
    /// A request whose body has not arrived after so long is refused.
    pub body_timeout: Duration,
    /// How long requests may go on after the shutdown began.
    pub shutdown_grace: Duration,
}

impl Default for ApiLimits {
    fn default() -> Self {
        Self {
            // Room for clients of keys, which keep their connections and ask one thing at a time.
            connections_max: 1024,
            requests_max: 512,
            body_max_bytes: 1 << 20,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            // A node stops within 5 s; handing leadership over needs the larger part of it.
            shutdown_grace: Duration::from_secs(1),
        }
    }
}

/// Most bytes of a request line and headers together: room for any sane client, 64 MiB for 1024 connections at worst.
pub const HEAD_MAX_BYTES: usize = 64 << 10;

/// Most headers of a request.
pub const HEADERS_MAX: usize = 64;

/// Most characters of `Idempotency-Key`: it is replicated with the operation.
pub const IDEMPOTENCY_KEY_MAX_CHARS: usize = 128;

/// Most characters of a caller's `x-request-id`; another one is made for a longer one.
pub const REQUEST_ID_MAX_CHARS: usize = 64;

/// Most bytes of a reply that the client takes, and of one line of a watch: 1000 nodes or operations with room to spare.
pub const REPLY_MAX_BYTES: usize = 32 << 20;
