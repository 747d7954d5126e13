//! Simulated UDP: a socket of quinn's over the fabric, and the runtime that quinn's drivers run on.
//!
//! A socket belongs to a process: what it receives while that is paused waits, up to a buffer's worth, and with the process it
//! dies. Time is the host's monotonic clock, so that a host whose clock runs fast times out early in QUIC, too.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use longshore_raft::transport::quic::QuicSocket;
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};

use super::fabric::{Draft, Fabric};
use super::parcel::{Cargo, Digest, Kind};
use crate::plan::HostId;
use crate::runtime::{Context, current, global_ns, instant_at, sleep_global, spawn_in};

/// Datagrams that one socket holds; more are lost, as in a kernel.
const QUEUE_MAX: usize = 4096;

/// A bound socket of the current process, and the runtime for it.
pub(super) fn bind(fabric: &Arc<Fabric>, host: HostId, address: SocketAddr) -> io::Result<QuicSocket> {
    let context = current();
    let socket = Arc::new(Socket {
        address,
        host,
        context: context.clone(),
        fabric: fabric.clone(),
        inbox: Mutex::default(),
    });
    if !fabric.bind(&socket) {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    Ok(QuicSocket::from_parts(socket, Arc::new(QuinnRuntime { context })))
}

pub(super) struct Socket {
    address: SocketAddr,
    host: HostId,
    context: Arc<Context>,
    fabric: Arc<Fabric>,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Bytes)>,
    waker: Option<Waker>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Socket({})", self.address)
    }
}

impl Socket {
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Whether the socket belongs to this process.
    pub(super) fn is_of(&self, context: &Arc<Context>) -> bool {
        Arc::ptr_eq(&self.context, context)
    }

    /// Whether a datagram that arrives now is kept.
    pub(super) fn has_room(&self) -> bool {
        !self.context.is_dead() && self.inbox.lock().datagrams.len() < QUEUE_MAX
    }

    pub(super) fn receive(&self, from: SocketAddr, datagram: Bytes) {
        let mut inbox = self.inbox.lock();
        inbox.datagrams.push_back((from, datagram));
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

#[derive(Debug)]
struct AlwaysWritable;

impl quinn::UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl quinn::AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn quinn::UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let Some(to) = Fabric::host_of(transmit.destination) else {
            return Err(io::ErrorKind::NetworkUnreachable.into());
        };
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            let bytes = Bytes::copy_from_slice(datagram);
            self.fabric.send(Draft {
                from: self.host,
                to,
                kind: Kind::Datagram,
                lane: None,
                len: bytes.len(),
                digest: Digest::of(&bytes),
                cargo: Cargo::Datagram { from: self.address, to: transmit.destination, bytes },
            });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut TaskContext<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inbox = self.inbox.lock();
        let mut received = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            let Some((from, datagram)) = inbox.datagrams.pop_front() else { break };
            // What does not fit is cut off, as by a kernel.
            let len = datagram.len().min(buffer.len());
            buffer[..len].copy_from_slice(&datagram[..len]);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride) = (from, len, len);
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

/// quinn's drivers as tasks of one process.
#[derive(Debug)]
struct QuinnRuntime {
    context: Arc<Context>,
}

/// quinn names moments by the machine's clock. One such moment, taken once, stands for the boot of every host; only differences are
/// ever looked at.
fn boot() -> Instant {
    static BOOT: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "a name for time zero, the same for the whole process")]
    *BOOT.get_or_init(Instant::now)
}

fn local_now(context: &Context) -> Instant {
    boot() + Duration::from_nanos(context.clock().local_ns(global_ns()))
}

impl quinn::Runtime for QuinnRuntime {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn quinn::AsyncTimer>> {
        let context = self.context.clone();
        let mut timer = Box::pin(Timer { deadline, sleep: Box::pin(sleep_global(Duration::ZERO)), context });
        timer.aim();
        timer
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        drop(spawn_in(&self.context, future));
    }

    fn wrap_udp_socket(&self, _: std::net::UdpSocket) -> io::Result<Arc<dyn quinn::AsyncUdpSocket>> {
        Err(io::Error::other("the simulation has no sockets of the machine"))
    }

    fn now(&self) -> Instant {
        local_now(&self.context)
    }
}

struct Timer {
    deadline: Instant,
    sleep: Pin<Box<tokio::time::Sleep>>,
    context: Arc<Context>,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

impl Timer {
    fn aim(&mut self) {
        let left = self.deadline.saturating_duration_since(local_now(&self.context));
        let left = self.context.clock().to_global(left).as_nanos().min(u128::from(u64::MAX)) as u64;
        self.sleep.as_mut().reset(instant_at(global_ns().saturating_add(left)));
    }
}

impl quinn::AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = deadline;
        self.aim();
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            if Future::poll(self.sleep.as_mut(), context).is_pending() {
                return Poll::Pending;
            }
            // The clock's rate may have changed meanwhile.
            if local_now(&self.context) >= self.deadline {
                return Poll::Ready(());
            }
            self.aim();
        }
    }
}
