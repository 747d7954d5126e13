//! The harness of the end-to-end tests: real processes, real sockets, real disks, real engines.
//!
//! Owns: building and finding the binary, addresses, processes, clients, and the parsers that judge what was seen.
//! Must never: reach into a node other than through what its users have (command line, HTTP, files, signals), or
//! wait for a fixed time where there is a condition to wait for.
//!
//! What a test needs and the machine lacks is an error that names the package, unless `LONGSHORE_TEST_WITHOUT`
//! lists it (see [`tools`]).
#![expect(
    clippy::disallowed_methods,
    reason = "tests stand outside the node: they use the machine's clock and threads"
)]

pub mod address;
pub mod binary;
pub mod canary;
pub mod cli;
pub mod compare;
pub mod counting_proxy;
pub mod docker_hosts;
pub mod fleet;
pub mod guarded_registry;
pub mod http;
pub mod keys;
pub mod machine;
pub mod peer;
pub mod probe;
pub mod procfs;
pub mod registry;
pub mod ring;
pub mod sources;
pub mod strace;
pub mod tools;
pub mod wait;
pub mod yard;

pub use fleet::Fleet;
pub use peer::{Peer, PeerSpec};
pub use wait::{Stopwatch, eventually, eventually_value};
