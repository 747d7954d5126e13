//! The ring on this node: its replicas of groups with partitions, the changes of the groups that it leads, and the way to all others.
//!
//! Level-triggered, like all that acts here: each part looks at the record in the control group's state and takes the steps that are
//! missing. [`replicas`] opens and destroys this node's replicas; [`carrier`] carries out changes of groups that it leads; [`director`], on
//! the control group's leader, decides what changes; [`leaders`] spreads leadership, [`sweeper`]
//! has expired keys removed, and [`front`] brings requests to whoever serves them.
//! Must never: change a group's members in another way than the record says.

mod carrier;
mod director;
mod front;
mod leaders;
mod listings;
mod load;
mod replicas;
mod sweeper;
mod work;

pub(crate) use carrier::Carrier;
pub(crate) use director::Director;
pub(crate) use front::{Front, FrontError};
pub(crate) use leaders::Leaders;
pub(crate) use listings::CLOCKS_DIFFER_MS;
pub(crate) use replicas::{Replicas, ReplicasOptions};
pub(crate) use sweeper::Sweeper;
pub(crate) use work::{OpenContexts, OpenPart};

use std::sync::Arc;

use longshore_model::partition::PartitionMachine;
use longshore_raft::consensus::group::Group;

/// A replica of a group with partitions.
pub(crate) type Partitions<R> = Arc<Group<R, PartitionMachine>>;
