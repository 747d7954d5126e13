//! How busy every node is, and what it has left: sampled here, shared with the others, kept in memory.
//!
//! [`HostProbe`] asks the host, [`Sampler`] does so now and then, [`Sharer`] tells the others at a bounded rate, [`Loads`] keeps what all have told. Nothing
//! of it is in any log, and whoever was not heard of for half a minute counts as one of whom nothing is known. Must never: wake a group, or be the
//! reason why a node counts as alive.

mod images;
mod loads;
mod messages;
mod pace;
mod probe;
mod sampler;
mod sharer;

pub(crate) use images::{ImageName, ImageWatch};
pub(crate) use loads::{Loads, Sighting};
pub use probe::{FixedHost, HostProbe, HostSample, probe_conforms};
pub(crate) use sampler::Sampler;
pub(crate) use sharer::Sharer;
