//! Ports of the fake's host: who has which, and which are free. Pure.

use std::fmt;
use std::net::IpAddr;

use longshore_model::container::{PortMapping, Protocol};

use super::super::EngineError;
use super::containers::Containers;

/// Ports that a mapping without one takes from.
const FREE_PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A port of the host that a container has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    ip: Option<IpAddr>,
    host_port: u16,
    port: u16,
    protocol: Protocol,
}

impl Bound {
    fn meets(&self, other: &Self) -> bool {
        let any = |bound: &Self| bound.ip.is_none_or(|ip| ip.is_unspecified());
        let same = any(self) || any(other) || self.ip == other.ip;
        same && self.host_port == other.host_port && self.protocol == other.protocol
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]")?,
            Some(IpAddr::V4(ip)) => write!(f, "{ip}")?,
            None => f.write_str("0.0.0.0")?,
        }
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, ":{}->{}/{protocol}", self.host_port, self.port)
    }
}

impl Containers {
    /// The ports of the host that it gets, if nobody has them.
    pub(super) fn bind(&self, name: &str) -> Result<Vec<Bound>, EngineError> {
        let container = self.get(name)?;
        let network = container.made_of.spec.network.as_deref();
        if let Some(network) = network.filter(|network| !self.networks.contains(*network)) {
            return Err(EngineError::Refused { detail: format!("network {network} not found") });
        }
        if matches!(network, Some("host" | "none")) {
            return Ok(Vec::new());
        }
        let taken = |mine: &[Bound], wanted: &Bound| {
            self.occupied.contains(&(wanted.host_port, wanted.protocol))
                || mine.iter().any(|bound| bound.meets(wanted))
                || self.by_name.values().flat_map(|other| &other.bound).any(|bound| bound.meets(wanted))
        };
        let mut mine = Vec::new();
        for PortMapping { ip, host_port, port, protocol } in container.made_of.spec.ports.iter().copied() {
            let at = |host_port| Bound { ip, host_port, port, protocol };
            let bound = match host_port {
                Some(host_port) => Some(at(host_port)).filter(|wanted| !taken(&mine, wanted)),
                None => FREE_PORTS.map(at).find(|wanted| !taken(&mine, wanted)),
            };
            mine.push(bound.ok_or_else(|| EngineError::PortTaken {
                container: name.to_owned(),
                detail: match host_port {
                    Some(port) => format!("Bind for {port} failed: port is already allocated"),
                    None => "all free ports are taken".to_owned(),
                },
            })?);
        }
        Ok(mine)
    }
}
