//! What the configuration asks of the host: its name, its addresses, and who runs this process.

use std::io;
use std::net::IpAddr;

/// The host that a node runs on. A port: tests have hosts of their own making.
pub trait Host {
    /// The host name; may be empty.
    fn name(&self) -> String;
    /// Every address with the name of its interface.
    fn interfaces(&self) -> io::Result<Vec<(String, IpAddr)>>;
    /// The interface with the default route, over IPv4 or over IPv6.
    fn default_interface(&self, ipv6: bool) -> Option<String>;
    fn is_root(&self) -> bool;
}

/// This host.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemHost;

impl Host for SystemHost {
    fn name(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn interfaces(&self) -> io::Result<Vec<(String, IpAddr)>> {
        let found = if_addrs::get_if_addrs()?;
        Ok(found.into_iter().map(|interface| (interface.name.clone(), interface.ip())).collect())
    }

    fn default_interface(&self, ipv6: bool) -> Option<String> {
        if ipv6 {
            default_interface_ipv6(&std::fs::read_to_string("/proc/net/ipv6_route").ok()?)
        } else {
            default_interface_ipv4(&std::fs::read_to_string("/proc/net/route").ok()?)
        }
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }
}

/// Flag of a usable route (`RTF_UP` in linux/route.h).
const ROUTE_UP: u32 = 0x1;

/// From `/proc/net/route`: interface, destination, gateway, flags, reference count, use, metric, mask, ...
fn default_interface_ipv4(table: &str) -> Option<String> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, _, flags, _, _, metric, mask, ..] = fields[..] else { return None };
        let up = u32::from_str_radix(flags, 16).ok()? & ROUTE_UP != 0;
        let default = destination == "00000000" && mask == "00000000";
        (up && default).then_some((metric.parse::<u32>().ok()?, interface.to_owned()))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, interface)| interface)
}

/// From `/proc/net/ipv6_route`: destination, its prefix length, source, its prefix length, next hop, metric, reference
/// count, use, flags, interface.
fn default_interface_ipv6(table: &str) -> Option<String> {
    let routes = table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, prefix, _, _, _, metric, _, _, flags, interface] = fields[..] else { return None };
        let up = u32::from_str_radix(flags, 16).ok()? & ROUTE_UP != 0;
        let default = prefix == "00" && destination.bytes().all(|byte| byte == b'0');
        // The kernel's own "unreachable" route is a default one on the loopback interface.
        let real = up && default && interface != "lo";
        real.then_some((u32::from_str_radix(metric, 16).ok()?, interface.to_owned()))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, interface)| interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_routes() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let lan = "eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let wifi = "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
        let cable = "eth0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n";
        let down = "eth9\t00000000\t0100A8C0\t0002\t0\t0\t1\t00000000\t0\t0\t0\n";
        let find = |lines: &[&str]| default_interface_ipv4(&format!("{head}{}", lines.concat()));
        assert_eq!(find(&[lan]), None);
        assert_eq!(find(&[lan, wifi]).as_deref(), Some("wlan0"));
        assert_eq!(find(&[wifi, down, cable]).as_deref(), Some("eth0"));
        assert_eq!(default_interface_ipv4("garbage"), None);
    }

    #[test]
    fn ipv6_routes() {
        let zero = "00000000000000000000000000000000";
        let line = |prefix: &str, metric: &str, flags: &str, interface: &str| {
            format!("{zero} {prefix} {zero} 00 {zero} {metric} 00000001 00000000 {flags} {interface}\n")
        };
        let unreachable = line("00", "ffffffff", "00200200", "lo");
        let default = line("00", "00000064", "00000003", "eth0");
        let better = line("00", "00000010", "00000003", "eth1");
        let network = line("40", "00000001", "00000003", "eth2");
        let find =
            |lines: &[&String]| default_interface_ipv6(&lines.iter().map(|l| l.as_str()).collect::<String>());
        assert_eq!(find(&[&unreachable, &network]), None);
        assert_eq!(find(&[&unreachable, &default, &better, &network]).as_deref(), Some("eth1"));
    }

    #[test]
    fn this_host_has_a_loopback_address() {
        let interfaces = SystemHost.interfaces().unwrap();
        assert!(interfaces.iter().any(|(_, ip)| ip.is_loopback()), "{interfaces:?}");
    }
}
