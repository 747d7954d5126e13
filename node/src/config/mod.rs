//! Configuration: where values come from, what they mean, and what is wrong with them.
//!
//! Every setting is one row of [`keys::KEYS`]. Its value is the first of: the command line, a `LONGSHORE_*` variable,
//! the TOML file, the default; where it came from is remembered. Mistakes are collected and told all at once, each with
//! its place. Must never: print a secret, or touch anything but the files it is told to read.

pub mod addresses;
mod error;
mod file;
pub mod host;
mod kept;
pub mod keys;
mod layers;
pub mod names;
mod node;
mod template;
#[cfg(test)]
mod tests;
pub mod units;

pub use error::{ConfigError, Problem};
pub use host::{Host, SystemHost};
pub use kept::settings_file;
pub use layers::{FILE_NAME, Flags, Settings, Source, Value, Variables};
pub use node::{JoinConfig, LogConfig, LogFormat, NodeConfig, PeerAddress, SOCKET_NAME, Secret};
pub use template::template;
