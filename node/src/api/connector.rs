//! How the client reaches a node: a unix socket, TCP, or memory.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::net::{TcpStream, UnixStream};

use super::listener::{BoxFuture, ByteStream, MemoryDialer};

/// Where a node's API is.
#[derive(Debug, Clone)]
pub enum Target {
    Unix(PathBuf),
    /// `host:port`; reads only.
    Tcp(String),
    /// Within the process; for tests and simulation.
    Memory(MemoryDialer),
}

/// Why a `--host` is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("{0:?} is not the address of a node; write unix:///PATH, a path, or http://127.0.0.1:7400")]
    NotAnAddress(String),
    #[error("{0:?}: https is not served by nodes in this version; use the unix socket on the node itself")]
    Https(String),
}

impl Target {
    /// Parses `unix:///PATH`, `http://HOST:PORT`, `IP:PORT` or a path.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError::NotAnAddress(text.to_owned());
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        if text.starts_with("https://") {
            return Err(TargetError::Https(text.to_owned()));
        }
        if let Some(authority) = text.strip_prefix("http://") {
            let authority = authority.strip_suffix('/').unwrap_or(authority);
            return if is_authority(authority) { Ok(Self::Tcp(authority.to_owned())) } else { Err(wrong()) };
        }
        if text.parse::<SocketAddr>().is_ok() {
            return Ok(Self::Tcp(text.to_owned()));
        }
        if text.is_empty() || text.contains("://") {
            return Err(wrong());
        }
        Ok(Self::Unix(Path::new(text).to_owned()))
    }

    pub(super) fn connect(&self) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async move {
            Ok(match self {
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?) as Box<dyn ByteStream>,
                Self::Tcp(authority) => {
                    let stream = TcpStream::connect(authority.as_str()).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
                Self::Memory(dialer) => Box::new(dialer.dial()?),
            })
        })
    }

    /// The `Host` header.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Tcp(authority) => authority,
            Self::Unix(_) | Self::Memory(_) => "localhost",
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Memory(_) => f.write_str("memory"),
        }
    }
}

/// `host:port` and nothing else.
fn is_authority(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '[' | ']' | ':' | '_');
    !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let cases = [
            ("unix:///run/x.sock", Some("unix:///run/x.sock")),
            ("/run/x.sock", Some("unix:///run/x.sock")),
            ("x.sock", Some("unix://x.sock")),
            ("http://127.0.0.1:7400", Some("http://127.0.0.1:7400")),
            ("http://localhost:7400/", Some("http://localhost:7400")),
            ("http://[::1]:7400", Some("http://[::1]:7400")),
            ("127.0.0.1:7400", Some("http://127.0.0.1:7400")),
            ("unix://x.sock", None),
            ("http://127.0.0.1", None),
            ("http://127.0.0.1:99999", None),
            ("http://127.0.0.1:7400/v1", None),
            ("https://127.0.0.1:7400", None),
            ("ftp://x", None),
            ("", None),
        ];
        for (text, expected) in cases {
            let parsed = Target::parse(text).ok().map(|target| target.to_string());
            assert_eq!(parsed.as_deref(), expected, "{text:?}");
        }
    }
}
