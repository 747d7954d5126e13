//! The real ports: sockets, threads, signals, the data folder on a real disk; and the composition root that puts a node
//! together out of them.
//!
//! The only module of this crate that reaches the operating system for a node (the command line's client side aside). Must never:
//! be named by anything but the binary.

mod host;
mod lock;
mod network;
mod serve;

pub use lock::{DataDirLock, LockError};
pub use serve::{ServeError, serve, stored_name};
