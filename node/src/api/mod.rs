//! The HTTP API: its types, the service behind it, and the server.

pub mod service;
pub mod types;
