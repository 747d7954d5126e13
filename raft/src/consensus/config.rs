//! Timings and limits of a group, and openraft's configuration made of them.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// Most bytes of one encoded command. A larger payload belongs in a blob that the command names.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Most bytes of one encoded answer to a query: what `Lane::Control` takes, but for what is around it. Of the query itself,
/// [`COMMAND_BYTES_MAX`].
pub const ANSWER_BYTES_MAX: usize = (4 << 20) - (64 << 10);
/// Bytes after which a batch is closed; so an entry is at most this plus one command, and a forwarded batch stays below
/// the 4 MiB of `Lane::Control`.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Bytes of entries after which one append request is closed; with one entry on top it stays below the 20 MiB of
/// `Lane::Append`, and small enough that a slow link acknowledges something within the timeout.
pub(crate) const APPEND_BYTES_MAX: usize = 4 << 20;
/// Entries of one append request.
const APPEND_ENTRIES_MAX: u64 = 512;
/// Append requests on the way to one follower.
pub(crate) const APPEND_PIPELINE_MAX: usize = 16;
/// Bytes of entries on the way to one follower, above which no more is sent: fills a link of 1 Gbit/s at 60 ms.
pub(crate) const APPEND_PIPELINE_BYTES_MAX: usize = 8 << 20;

/// How long things take in one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timings {
    pub heartbeat_ms: u64,
    /// The leader's lease is `election_max_ms`; without the failure detector's help a follower campaigns after the lease
    /// plus a random time between the two.
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// How long [`Group::propose`](super::group::Group::propose) and reads keep trying.
    pub propose_deadline: Duration,
    /// Log time after which a client that sent nothing is forgotten.
    pub client_idle: Duration,
    /// A snapshot is taken after this many entries.
    pub snapshot_every_entries: u64,
    /// Entries kept in the log although a snapshot covers them, so that a follower that was away for a moment needs no
    /// snapshot.
    pub keep_entries: u64,
    /// How fast one snapshot is sent at most; without: as fast as it goes.
    pub snapshot_bytes_per_s: Option<NonZeroU64>,
    /// How long followers may wait for the news of a commit if no entry brings them; zero: not at all. A read through a follower does not
    /// wait for it.
    pub commit_news_hold: Duration,
    /// Whether, and when, the group goes to rest.
    pub quiescence: Option<Quiescence>,
}

/// A group at rest has no ticks, heartbeats or timers; it wakes when there is something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiescence {
    /// How long nothing was asked of the leader before it puts the group to rest. It looks once in this time, so that the group
    /// rests after once to twice as long.
    pub idle: Duration,
}

impl Timings {
    /// For the control group: failover matters, and there is one of it.
    pub fn control() -> Self {
        Self {
            heartbeat_ms: 200,
            // Deaths are found by the failure detector. The first is how long a candidate waits for votes, and so for a voter's disk.
            election_min_ms: 1000,
            election_max_ms: 2000,
            propose_deadline: Duration::from_secs(10),
            client_idle: Duration::from_secs(3600),
            snapshot_every_entries: 10_000,
            keep_entries: 1_000,
            // Every node acts on what the control group decides.
            commit_news_hold: Duration::ZERO,
            // It is small, and everything waits for it.
            snapshot_bytes_per_s: None,
            quiescence: None,
        }
    }

    /// For the others, of which there are many; failover comes from the failure detector, not from these.
    pub fn partition() -> Self {
        // Waking costs one round of heartbeats, as much as half a second awake: a few seconds are enough to keep groups that are
        // in use from going back and forth.
        let quiescence = Some(Quiescence { idle: Duration::from_secs(3) });
        Self {
            heartbeat_ms: 500,
            election_min_ms: 1500,
            election_max_ms: 3000,
            quiescence,
            // A few times as long as it takes until a group in use has its next entry.
            commit_news_hold: Duration::from_millis(20),
            ..Self::control()
        }
    }

    /// openraft's form.
    pub(crate) fn raft_config(&self, name: String) -> Result<Arc<Config>, ConfigError> {
        let config = Config {
            cluster_name: name,
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            enable_pre_vote: Some(true),
            // The state machine is in memory, so a leader that restarts must be elected again before it serves.
            enable_leader_restore: Some(false),
            enable_tick: self.quiescence.is_none(),
            // Half of the time silent when there is no quorum: a connected minority gets its chance to elect. A group that rests
            // sees to that itself (`quiesce_leader.rs`): openraft would take rest for a loss of the quorum, and keep a leader that
            // wakes silent.
            quorum_loss_probe_interval: self.quiescence.is_none().then_some(2 * self.election_max_ms),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: (self.snapshot_every_entries / 8).clamp(1, 256),
            max_payload_entries: APPEND_ENTRIES_MAX,
            // A learner counts as caught up, and can be given a vote, when it lacks fewer entries than this.
            replication_lag_threshold: 1000,
            api_channel_size: Some(4096),
            notification_channel_size: Some(4096),
            api_batch_capacity: 256,
            install_snapshot_timeout: SNAPSHOT_STEP_TIMEOUT.as_millis() as u64,
            ..Config::default()
        };
        debug_assert!(config.allow_log_reversion.is_none(), "a reverted log is a new replica");
        Ok(Arc::new(config.validate()?))
    }
}

/// How long one append request may take: a dead peer is the failure detector's to find, so this only bounds what a
/// broken one can hold up.
pub(crate) const APPEND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one chunk of a snapshot may take; installing takes at most ten times as long.
pub(crate) const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(5);
