//! Where the engine is: the value of `--docker`. Pure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::{BollardEngine, ContainerEngine, NoEngine};

const UNIX_SCHEME: &str = "unix://";

/// A parsed `--docker` value. `Display` writes what parses to the same again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEndpoint {
    /// Written `none`.
    None,
    /// An absolute path, written `/run/docker.sock` or `unix:///run/docker.sock`.
    Unix(PathBuf),
}

/// Why a `--docker` value is none. The caller corrects it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("the Docker endpoint is empty; write a socket such as {}, or none", EngineEndpoint::DEFAULT)]
    Empty,
    #[error(
        "the Docker endpoint {given:?} is not on a unix socket, and only those are supported; write unix:///PATH or none"
    )]
    Scheme { given: String },
    #[error(
        "the Docker socket {given:?} is not an absolute path; write one such as {}",
        EngineEndpoint::DEFAULT
    )]
    Relative { given: String },
}

impl EngineEndpoint {
    /// Where Debian's and Docker's packages put the socket.
    pub const DEFAULT: &'static str = "/var/run/docker.sock";

    /// The engine there. Does not connect yet.
    pub fn engine(&self) -> Arc<dyn ContainerEngine> {
        match self {
            Self::None => Arc::new(NoEngine),
            Self::Unix(socket) => Arc::new(BollardEngine::new(socket)),
        }
    }
}

impl FromStr for EngineEndpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let given = || text.to_owned();
        match text {
            "" => return Err(EndpointError::Empty),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let path = match text.strip_prefix(UNIX_SCHEME) {
            Some(path) => path,
            None if text.contains("://") => return Err(EndpointError::Scheme { given: given() }),
            None => text,
        };
        if Path::new(path).is_absolute() {
            Ok(Self::Unix(PathBuf::from(path)))
        } else {
            Err(EndpointError::Relative { given: given() })
        }
    }
}

impl fmt::Display for EngineEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Unix(path) => write!(f, "{UNIX_SCHEME}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_and_are_written_again() {
        let table = [
            ("none", EngineEndpoint::None),
            ("/run/docker.sock", EngineEndpoint::Unix("/run/docker.sock".into())),
            ("unix:///run/docker.sock", EngineEndpoint::Unix("/run/docker.sock".into())),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse(), Ok(expected.clone()), "{text}");
            assert_eq!(expected.to_string().parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for (text, expected) in [
            ("", "is empty"),
            ("tcp://127.0.0.1:2375", "only those are supported"),
            ("docker.sock", "not an absolute path"),
            ("unix://docker.sock", "not an absolute path"),
            ("None", "not an absolute path"),
        ] {
            let error = text.parse::<EngineEndpoint>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?} said {error:?}");
        }
    }
}
