//! The spelling of a container's parts, that of `docker run`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{EnvVar, Mount, MountSource, PortMapping, Protocol, RestartPolicy, SpecError};

impl FromStr for PortMapping {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::Port(text.to_owned());
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some(_) => return Err(bad()),
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
        let (host, port) = match ports.rsplit_once(':') {
            Some((host, port)) => (host, number(port)?),
            None => return Ok(Self { ip: None, host_port: None, port: number(ports)?, protocol }),
        };
        let (ip, host_port) = match host.rsplit_once(':') {
            Some((ip, host_port)) => {
                let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
                (Some(ip.parse::<IpAddr>().map_err(|_| bad())?), host_port)
            }
            None => (None, host),
        };
        let host_port = match (host_port, ip) {
            ("", Some(_)) => None,
            _ => Some(number(host_port)?),
        };
        Ok(Self { ip, host_port, port, protocol })
    }
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}:")?,
            None => {}
        }
        match self.host_port {
            Some(port) => write!(f, "{port}:")?,
            None if self.ip.is_some() => f.write_str(":")?,
            None => {}
        }
        write!(f, "{}", self.port)?;
        match self.protocol {
            Protocol::Tcp => Ok(()),
            Protocol::Udp => f.write_str("/udp"),
        }
    }
}

impl FromStr for Mount {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::Mount(text.to_owned());
        let (rest, read_only) = match text.rsplit_once(':') {
            Some((rest, "ro")) => (rest, true),
            Some((rest, "rw")) => (rest, false),
            _ => (text, false),
        };
        let (source, target) = match rest.split_once(':') {
            Some((source, target)) => (source, target),
            None => ("", rest),
        };
        let is_path = |path: &str| path.starts_with('/') && !path.contains([':', '\0']);
        // A volume is named like a container.
        let is_volume = |name: &str| {
            let bytes = name.as_bytes();
            bytes.first().is_some_and(u8::is_ascii_alphanumeric)
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(b))
        };
        if !is_path(target) || target == "/" {
            return Err(bad());
        }
        let source = match source {
            "" if rest.contains(':') => return Err(bad()),
            "" => MountSource::Anonymous,
            path if is_path(path) => MountSource::Host(path.to_owned()),
            name if is_volume(name) => MountSource::Volume(name.to_owned()),
            _ => return Err(bad()),
        };
        Ok(Self { source, target: target.to_owned(), read_only })
    }
}

impl fmt::Display for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            MountSource::Host(source) | MountSource::Volume(source) => write!(f, "{source}:")?,
            MountSource::Anonymous => {}
        }
        f.write_str(&self.target)?;
        if self.read_only { f.write_str(":ro") } else { Ok(()) }
    }
}

impl FromStr for RestartPolicy {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let bad = || SpecError::Restart(text.to_owned());
        Ok(match text {
            "no" => Self::No,
            "always" => Self::Always,
            "unless-stopped" => Self::UnlessStopped,
            "on-failure" => Self::OnFailure { retries_max: 0 },
            _ => {
                let retries = text.strip_prefix("on-failure:").ok_or_else(bad)?;
                Self::OnFailure { retries_max: retries.parse().map_err(|_| bad())? }
            }
        })
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { retries_max: 0 } => f.write_str("on-failure"),
            Self::OnFailure { retries_max } => write!(f, "on-failure:{retries_max}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for EnvVar {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !text.contains('\0') => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(SpecError::Env(text.to_owned())),
        }
    }
}

impl fmt::Display for EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}
