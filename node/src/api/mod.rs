//! The HTTP API: its types, the service behind it, the server and the client.
//!
//! Owns everything between a byte stream and a [`service::FleetService`] call. Must never decide anything about the
//! fleet: it checks the form of a request, hands it on, and turns the answer or the error into JSON.
//!
//! Two flavours are served from one table of routes ([`routes::ROUTES`]): everything on the unix socket, whose file mode
//! says who may use it, and reads only on TCP, which has no authentication in this version and so stays on loopback.

pub mod client;
mod connector;
pub mod errors;
#[cfg(test)]
pub(crate) mod fake;
pub mod limits;
pub mod listener;
mod middleware;
pub mod openapi;
pub(crate) mod percent;
mod routes;
pub mod server;
#[cfg(test)]
mod server_tests;
pub mod service;
pub(crate) mod timer;
pub mod types;
