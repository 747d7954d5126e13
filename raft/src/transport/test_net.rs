//! A network in memory for tests: UDP sockets that can be slow, lose packets, and die without a word.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft_rt::AsyncRuntime as _;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};

use super::quic::QuicSocket;
use crate::consensus::runtime::TokioRuntime;

/// Datagrams that one socket holds; more are lost, as in a kernel.
const QUEUE_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct TestNet {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sockets: BTreeMap<SocketAddr, Arc<Socket>>,
    /// Datagrams that are lost next.
    lose: usize,
    /// Of so many datagrams one is lost; 0: none.
    lose_one_in: usize,
    sent: usize,
    /// How long each datagram takes.
    delay: Duration,
}

fn address(host: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 1000 + host))
}

impl TestNet {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A socket of host `host`; the one before, if any, is cut off.
    pub(crate) fn bind(self: &Arc<Self>, host: u16) -> QuicSocket {
        let address = address(host);
        let socket = Arc::new(Socket { address, net: self.clone(), inbox: Mutex::default() });
        self.state.lock().sockets.insert(address, socket.clone());
        QuicSocket::from_parts(socket, Arc::new(quinn::TokioRuntime))
    }

    /// Cuts the host off: what it sends is lost, and nobody answers for it.
    pub(crate) fn crash(&self, host: u16) {
        self.state.lock().sockets.remove(&address(host));
    }

    pub(crate) fn lose_next(&self, datagrams: usize) {
        self.state.lock().lose = datagrams;
    }

    pub(crate) fn lose_one_in(&self, datagrams: usize) {
        self.state.lock().lose_one_in = datagrams;
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.state.lock().delay = delay;
    }

    fn send(&self, from: &Socket, to: SocketAddr, datagram: &[u8]) {
        let mut state = self.state.lock();
        let alive = state.sockets.get(&from.address).is_some_and(|s| std::ptr::eq(&**s, from));
        if !alive {
            return;
        }
        state.sent += 1;
        if state.lose > 0 {
            state.lose -= 1;
            return;
        }
        if state.lose_one_in > 0 && state.sent.is_multiple_of(state.lose_one_in) {
            return;
        }
        let Some(socket) = state.sockets.get(&to).cloned() else {
            return;
        };
        let (delay, from, datagram) = (state.delay, from.address, datagram.to_vec());
        drop(state);
        if delay.is_zero() {
            return socket.receive(from, datagram);
        }
        drop(TokioRuntime::spawn(async move {
            TokioRuntime::sleep(delay).await;
            socket.receive(from, datagram);
        }));
    }
}

#[derive(Debug)]
struct Socket {
    address: SocketAddr,
    net: Arc<TestNet>,
    inbox: Mutex<Inbox>,
}

impl Socket {
    fn receive(&self, from: SocketAddr, datagram: Vec<u8>) {
        let mut inbox = self.inbox.lock();
        if inbox.datagrams.len() < QUEUE_MAX {
            inbox.datagrams.push_back((from, datagram));
        }
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Debug, Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct AlwaysWritable;

impl quinn::UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl quinn::AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            self.net.send(self, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock();
        let mut received = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some((from, datagram)) = inbox.datagrams.pop_front() else { break };
            buffer[..datagram.len()].copy_from_slice(&datagram);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, datagram.len(), datagram.len());
            received += 1;
        }
        if received == 0 {
            inbox.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(received))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
