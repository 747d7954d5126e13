//! What a host durably holds, as production recovery would find it after a power loss that kept nothing unsynced.
//!
//! It opens a copy, so it disturbs nothing and is no part of the trace. Runs after each end of a process and every few virtual
//! seconds, so it decodes no commands.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_node::owner_of;
use longshore_raft::consensus::inspect_log::{self, EntryKind};
use longshore_raft::consensus::snapshots::Snapshots;
use longshore_storage::log::{LogConfig, SegmentedLog};
use longshore_storage::{Disk, LogStore, SnapshotStore, StreamId};

use super::{HostDisk, SNAPSHOT_DIR};
use crate::observation::{DurableLog, VoteView};

/// The logs of all replicas on this disk; none if no node owns it yet. `Err` says what is damaged: then the disk
/// says nothing certain.
pub fn read_durable(disk: &HostDisk) -> Result<Vec<DurableLog>, String> {
    let image: Arc<dyn Disk> = Arc::new(disk.durable_image());
    let Some(owner) = owner_of(Arc::clone(&image)).map_err(|error| error.to_string())? else {
        return Ok(Vec::new());
    };
    // Its age is of no interest, and nothing is submitted: a queue of full length would take longer to make than the rest.
    let config = LogConfig { max_queued_submits: 1, ..LogConfig::new(Arc::new(|| 0)) };
    let opened = SegmentedLog::open(Arc::clone(&image), config);
    let (log, _committer, _) = opened.map_err(|error| error.to_string())?;
    let snapshots = SnapshotStore::new(image, SNAPSHOT_DIR).map_err(|error| error.to_string())?;
    log.streams().into_iter().map(|stream| read_stream(owner.node.0, stream, &log, &snapshots)).collect()
}

fn read_stream(
    node: u64,
    stream: StreamId,
    log: &SegmentedLog,
    snapshots: &SnapshotStore,
) -> Result<DurableLog, String> {
    let in_stream = |error: &dyn std::fmt::Display| format!("{stream}: {error}");
    let state = log.state(stream).map_err(|error| in_stream(&error))?;
    let vote = state.vote.map(|bytes| inspect_log::vote(&bytes)).transpose();
    let vote = vote.map_err(|error| in_stream(&error))?;
    let stored = Snapshots::load(snapshots, stream).map_err(|error| in_stream(&error))?;
    let snapshot = stored.map(|stored| inspect_log::snapshot(&stored.meta)).transpose();
    let snapshot = snapshot.map_err(|error| in_stream(&error))?;
    let mut voters = snapshot.as_ref().map(|snapshot| snapshot.voters.clone()).unwrap_or_default();
    let snapshot = snapshot.and_then(|snapshot| snapshot.last).map(|last| last.index);
    let held = log.read(stream, 0..u64::MAX, usize::MAX).map_err(|error| in_stream(&error))?;
    let mut entries = BTreeMap::new();
    for (index, bytes) in held {
        let entry = inspect_log::entry(&bytes).map_err(|error| in_stream(&error))?;
        if entry.id.index != index {
            return Err(format!("{stream}: entry {index} says that it is {}", entry.id.index));
        }
        if let EntryKind::Membership(since) = entry.kind
            && snapshot.is_none_or(|snapshot| index > snapshot)
        {
            voters = since;
        }
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        entries.insert(index, (entry.id.term, hash));
    }
    Ok(DurableLog {
        group: stream.group,
        node,
        replica: stream.replica,
        vote: vote.map(|vote| VoteView {
            term: vote.term,
            voted_for: vote.voted_for.0,
            committed: vote.committed,
        }),
        purged: state.purged.map(|(index, _)| index),
        entries,
        snapshot,
        voters: voters.all.into_iter().map(|replica| replica.0).collect(),
        joint: voters.joint,
    })
}
