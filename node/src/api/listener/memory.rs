//! A listener without sockets, for tests and simulation.

use std::io;

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

use super::{BoxFuture, ByteStream, Listener};

/// Bytes that one side may write ahead of the other's reads; small, so that tests meet back-pressure.
const PIPE_BYTES: usize = 16 << 10;

/// Connections dialled and not yet accepted, like a socket's backlog.
const BACKLOG: usize = 128;

/// A listener and the handle that dials it.
pub fn memory_listener() -> (MemoryListener, MemoryDialer) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (MemoryListener { incoming: receiver }, MemoryDialer { outgoing: sender })
}

#[derive(Debug)]
pub struct MemoryListener {
    incoming: mpsc::Receiver<DuplexStream>,
}

#[derive(Debug, Clone)]
pub struct MemoryDialer {
    outgoing: mpsc::Sender<DuplexStream>,
}

impl MemoryDialer {
    /// A new connection; refused when the listener is gone or its backlog full.
    pub fn dial(&self) -> io::Result<DuplexStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.outgoing.try_send(theirs).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        Ok(ours)
    }
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async {
            match self.incoming.recv().await {
                Some(stream) => Ok(Box::new(stream) as Box<dyn ByteStream>),
                // Nobody can dial any more; the server still ends by its shutdown only.
                None => std::future::pending().await,
            }
        })
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
