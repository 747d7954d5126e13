//! Loopback addresses of a test's own, so that tests run side by side on the default ports.
//!
//! A test leases a network `127.a.b.0/24`; the lease is a locked file, so no two test processes get the same one, and it
//! ends with the process however that ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

/// Second octets in use: clear of 127.0.x.x, where people, `launch --local` and the demonstration live.
const SECOND_OCTETS: std::ops::Range<u16> = 64..128;

/// Where leases and locks are kept, shared by all test processes of this user, whatever their `TMPDIR`.
pub fn state_dir() -> PathBuf {
    let uid = rustix::process::getuid().as_raw();
    let dir = PathBuf::from(format!("/tmp/longshore-tests-{uid}"));
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
    dir
}

/// A leased network `127.a.b.0/24`.
#[derive(Debug)]
pub struct Subnet {
    a: u8,
    b: u8,
    _lease: File,
}

impl Subnet {
    /// Leases a network that nobody else has.
    pub fn lease() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let networks = (SECOND_OCTETS.end - SECOND_OCTETS.start) * 256;
        // Processes start at different places, so that the first try usually succeeds.
        let start = (std::process::id() as u16).wrapping_mul(251);
        for _ in 0..networks {
            let number = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % networks;
            let (a, b) = ((SECOND_OCTETS.start + number / 256) as u8, (number % 256) as u8);
            let path = state_dir().join(format!("net-{a}-{b}.lock"));
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()));
            match file.try_lock() {
                Ok(()) => return Self { a, b, _lease: file },
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => panic!("cannot lock {}: {error}", path.display()),
            }
        }
        panic!("all {networks} loopback networks are leased; are there leftover test processes?");
    }

    /// The address of host `number`, 1 to 254.
    pub fn host(&self, number: u8) -> Ipv4Addr {
        assert!((1..=254).contains(&number), "a /24 has the hosts 1 to 254");
        Ipv4Addr::new(127, self.a, self.b, number)
    }
}

/// A port of 127.0.0.1 that nobody has, neither for TCP nor for UDP. It stays so for as long as nobody else asks the kernel for one.
pub fn free_port() -> u16 {
    const TRIES: usize = 100;
    for _ in 0..TRIES {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it has an address");
        if std::net::UdpSocket::bind(address).is_ok() {
            return address.port();
        }
    }
    panic!("no port is free for both");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_disjoint_and_bindable() {
        let (one, two) = (Subnet::lease(), Subnet::lease());
        assert_ne!(one.host(1), two.host(1));
        std::net::UdpSocket::bind((one.host(1), 7400)).expect("nobody else uses a leased address");
    }
}
