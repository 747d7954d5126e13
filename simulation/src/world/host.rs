//! A host: what outlives the processes of its node.

use std::sync::Arc;

use longshore_node::api::listener::MemoryDialer;
use tokio_util::sync::CancellationToken;

use crate::disk::HostDisk;
use crate::engine::HostEngine;
use crate::plan::{HostId, HostShape, node_name};
use crate::runtime::{Context, HostClock};

/// One host of the fleet.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) shape: HostShape,
    pub(super) clock: Arc<HostClock>,
    pub(super) disk: HostDisk,
    pub(super) engine: Option<HostEngine>,
    pub(super) process: Option<Process>,
    /// Not from a loss of power until it is started: its engine is down then.
    pub(super) has_power: bool,
    /// Counts starts of processes.
    pub(super) incarnation: u64,
    /// Counts the nodes that this host has been: a wiped one comes back as another.
    pub(super) generation: u32,
    /// Whether the node should run: what a service manager is told.
    pub(super) wanted: bool,
    /// It is stopping, and is to be started when it has.
    pub(super) restarts: bool,
    /// The data folder belongs to a node.
    pub(super) is_member: bool,
    /// The node ended for good (left, removed, damaged); it is joined anew when it is wanted again.
    pub(super) is_gone: bool,
    /// Its share of the ring, from its next start on.
    pub(super) weight: u32,
}

/// A running process of a node.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) incarnation: u64,
    pub(super) context: Arc<Context>,
    pub(super) dialer: MemoryDialer,
    pub(super) shutdown: CancellationToken,
}

impl Host {
    /// Name of its present node.
    pub(super) fn node_name(&self) -> String {
        node_name(self.id, self.generation)
    }

    /// Empties the disk: the next node of this host is another one.
    pub(super) fn empty(&mut self) {
        self.disk.wipe();
        self.generation += 1;
        (self.is_member, self.is_gone) = (false, false);
    }

    pub(super) fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !process.context.is_dead())
    }

    /// It runs, and was told to stop.
    pub(super) fn is_stopping(&self) -> bool {
        self.is_running() && self.process.as_ref().is_some_and(|process| process.shutdown.is_cancelled())
    }

    pub(super) fn is_up(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| !process.context.is_dead() && !process.context.is_paused())
    }
}
