//! Addresses: what is listened on, what is told to others, and whom to ask.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::host::Host;
use super::node::PeerAddress;

/// The port of every door but the Redis ones, UDP and TCP.
pub const DEFAULT_PORT: u16 = 7400;

/// Parses `IP`, `IP:PORT`, `[IPv6]` or `[IPv6]:PORT`.
fn parse_ip_port(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some((ip, None));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some((address.ip(), Some(address.port())));
    }
    let ip = text.strip_prefix('[')?.strip_suffix(']')?;
    Some((ip.parse().ok()?, None))
}

/// `--listen IP[:PORT]`. Port 0 lets the system choose.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    match parse_ip_port(text) {
        Some((ip, port)) => Ok(SocketAddr::new(ip, port.unwrap_or(DEFAULT_PORT))),
        None => {
            Err(format!("{text:?} is not an address to listen on; write IP or IP:PORT, such as 0.0.0.0:7400"))
        }
    }
}

/// `--api IP:PORT|none`; `None` for `none`.
pub fn parse_api(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "none" {
        return Ok(None);
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(format!(
            "{text:?} is not an address for the API; write IP:PORT, such as 127.0.0.1:7400, or none"
        ));
    };
    if !address.ip().is_loopback() {
        return Err(format!(
            "{address} is not a loopback address; the API over TCP has neither TLS nor access control in this version, so \
             it is served on loopback only (from elsewhere, use ssh -L to reach it)"
        ));
    }
    Ok(Some(address))
}

/// Where the API is without `--api`: beside a loopback listener, else on 127.0.0.1.
pub fn default_api(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_loopback() { listen } else { SocketAddr::new(Ipv4Addr::LOCALHOST.into(), DEFAULT_PORT) }
}

/// `--docker SOCKET|none`; `None` for `none`.
pub fn parse_docker(text: &str) -> Result<Option<PathBuf>, String> {
    if text == "none" {
        return Ok(None);
    }
    let path = text.strip_prefix("unix://").unwrap_or(text);
    if path.starts_with('/') && path.len() > 1 {
        return Ok(Some(path.into()));
    }
    Err(format!("{text:?} is not the socket of a Docker Engine on this host; write unix:///PATH, or none"))
}

/// `HOST[:PORT]` of a node to ask. The name is resolved when it is asked, each time.
pub fn parse_peer(text: &str) -> Result<PeerAddress, String> {
    if let Some((ip, port)) = parse_ip_port(text) {
        if ip.is_unspecified() || port == Some(0) {
            return Err(format!("{text:?} is nobody's address; write HOST or HOST:PORT"));
        }
        return Ok(PeerAddress { host: ip.to_string(), port: port.unwrap_or(DEFAULT_PORT) });
    }
    let wrong = || format!("{text:?} is not the address of a node; write HOST or HOST:PORT");
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        None => (text, DEFAULT_PORT),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
        return Err(wrong());
    }
    Ok(PeerAddress { host: host.to_owned(), port })
}

/// What `--advertise` says, before this host's interfaces are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    Address(IpAddr, Option<u16>),
    Interface(String, Option<u16>),
}

/// `IP|INTERFACE[:PORT]`.
pub fn parse_advertise(text: &str) -> Result<Advertise, String> {
    if let Some((ip, port)) = parse_ip_port(text) {
        if ip.is_unspecified() {
            return Err(format!("{text:?} is nobody's address; name one that the other nodes can reach"));
        }
        return Ok(Advertise::Address(ip, port));
    }
    let wrong = || format!("{text:?} is neither an address nor an interface; write IP|INTERFACE[:PORT]");
    // Alias interfaces have a colon in their names (`eth0:1`) and are named like a port: the port wins.
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    // IFNAMSIZ in linux/if.h is 16, with the terminating zero.
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '[' | ']');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(wrong());
    }
    Ok(Advertise::Interface(name.to_owned(), port))
}

/// The address to tell the other nodes. Its port is that of `listen` unless named; 0 then stands for the port as bound.
pub fn resolve_advertise(
    given: Option<&Advertise>,
    listen: SocketAddr,
    host: &dyn Host,
) -> Result<SocketAddr, String> {
    let (ip, port) = match given {
        Some(Advertise::Address(ip, port)) => (*ip, *port),
        Some(Advertise::Interface(name, port)) => (address_of(name, listen, host)?, *port),
        None if !listen.ip().is_unspecified() => (listen.ip(), None),
        None => {
            let name = host.default_interface(listen.is_ipv6()).ok_or_else(|| {
                format!(
                    "no address to tell the other nodes: {} stands for all of this host's, and no interface has the \
                     default route; name one with --advertise IP|INTERFACE[:PORT]",
                    listen.ip()
                )
            })?;
            (address_of(&name, listen, host)?, None)
        }
    };
    Ok(SocketAddr::new(ip, port.unwrap_or(listen.port())))
}

/// The best address of an interface: of the family that is listened on, global before link-local.
fn address_of(name: &str, listen: SocketAddr, host: &dyn Host) -> Result<IpAddr, String> {
    let interfaces =
        host.interfaces().map_err(|error| format!("cannot list this host's interfaces: {error}"))?;
    let own: Vec<IpAddr> = interfaces.iter().filter(|(n, _)| n == name).map(|(_, ip)| *ip).collect();
    if own.is_empty() {
        let mut names: Vec<&str> = interfaces.iter().map(|(name, _)| name.as_str()).collect();
        names.dedup();
        return Err(format!("there is no interface {name} with an address; there are: {}", names.join(", ")));
    }
    // A listener on [::] takes IPv4 as well.
    let fits =
        |ip: &IpAddr| ip.is_ipv4() == listen.is_ipv4() || (listen.is_ipv6() && listen.ip().is_unspecified());
    let reachable = own.into_iter().filter(fits).filter(|ip| !is_link_local(ip));
    reachable.min_by_key(|ip| ip.is_ipv4() != listen.is_ipv4()).ok_or_else(|| {
        let family = if listen.is_ipv4() { "IPv4" } else { "IPv6" };
        format!(
            "interface {name} has no {family} address that other hosts can reach; name an IP with --advertise"
        )
    })
}

/// Link-local IPv6 addresses mean nothing without an interface of the one who uses them.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
