//! Bytes that nobody meant, at every port of a fleet that must go on working.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use longshore_tests::{Fleet, machine, procfs};

/// More than a node may grow by whatever is thrown at it.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// A reproducible stream of bytes (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// The fleet agrees, takes a change, and has not grown.
fn unharmed(fleet: &Fleet, before: &[u64]) {
    fleet.settle();
    let leader = fleet.leader();
    fleet.peers[leader].http().set_label("self", "un", "harmed").expect("it takes changes");
    for (peer, before) in fleet.peers.iter().zip(before) {
        let now = procfs::resident_bytes(peer.pid());
        assert!(now < before + GROWTH_BYTES_MAX, "{} grew from {before} to {now} bytes", peer.name());
        let log = peer.stderr();
        assert!(!log.contains("panicked"), "{} panicked:\n{log}", peer.name());
    }
}

fn sizes(fleet: &Fleet) -> Vec<u64> {
    fleet.peers.iter().map(|peer| procfs::resident_bytes(peer.pid())).collect()
}

#[test]
fn datagrams_that_are_not_quic() {
    let _machine = machine::share();
    let fleet = Fleet::of(3, "datagrams");
    let before = sizes(&fleet);
    let socket = UdpSocket::bind((fleet.site.net().host(99), 0)).expect("a socket");
    let mut noise = Noise(1);
    for round in 0..3000_u64 {
        let length = match round % 6 {
            0 => 0,
            1 => 1,
            2 => 1200,
            3 => 65_507, // The longest there is over IPv4.
            _ => (noise.next() % 2000) as usize,
        };
        let mut bytes = noise.bytes(length);
        if round % 2 == 0 && bytes.len() >= 7 {
            // Looks like an Initial packet of QUIC version 1 (RFC 9000, section 17.2.2), with a random rest.
            bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        }
        for peer in &fleet.peers {
            // A full queue drops datagrams; that is fine here.
            let _ = socket.send_to(&bytes, peer.spec.listen);
        }
    }
    unharmed(&fleet, &before);
}

#[test]
fn bytes_that_are_not_http() {
    let _machine = machine::share();
    let fleet = Fleet::of(3, "bytes");
    let before = sizes(&fleet);
    let mut noise = Noise(2);
    let long_header = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(4 << 20));
    let many_headers = format!("GET /v1/status HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(50_000));
    let long_path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "z".repeat(1 << 20));
    let payloads: Vec<Vec<u8>> = vec![
        noise.bytes(1),
        noise.bytes(100_000),
        b"\r\n\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"POST /v1/tokens HTTP/1.1\r\nhost: x\r\ncontent-length: 18446744073709551615\r\n\r\n{}".to_vec(),
        b"POST /v1/tokens HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n"
            .to_vec(),
        long_header.into_bytes(),
        many_headers.into_bytes(),
        long_path.into_bytes(),
    ];
    for peer in &fleet.peers {
        for payload in &payloads {
            let mut tcp = TcpStream::connect(peer.spec.listen).expect("the API listens");
            tcp.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            tcp.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
            // Being cut off in the middle is an answer.
            let _ = tcp.write_all(payload);
            let _ = tcp.shutdown(Shutdown::Write);
            let _ = tcp.read(&mut [0; 4096]);
            let mut unix = UnixStream::connect(peer.socket()).expect("the API listens");
            unix.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
            let _ = unix.write_all(payload);
        }
    }
    unharmed(&fleet, &before);
}

#[test]
fn connections_that_say_nothing_do_not_lock_others_out() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "silent");
    let before = sizes(&fleet);
    let peer = &fleet.peers[0];
    // More than a server keeps open; the ones beyond may be refused.
    let silent: Vec<TcpStream> = (0..600).map_while(|_| TcpStream::connect(peer.spec.listen).ok()).collect();
    assert!(!silent.is_empty());
    peer.http().status().expect("the unix socket is not affected by TCP");
    drop(silent);
    longshore_tests::eventually("TCP to answer again", Duration::from_secs(30), || {
        peer.tcp().status().is_ok()
    });
    unharmed(&fleet, &before);
}
