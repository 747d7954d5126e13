//! What a group replicates: a deterministic state machine over typed commands.

use bincode::{Decode, Encode};

use crate::model::ids::{ClientId, GroupId, NodeId, ReplicaId};

/// Milliseconds of log time. The leader stamps each command with the last state time plus its own monotonic time since it took
/// office; so it never goes back, moves on in an idle group, and no wall clock can change it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct LogTime(pub u64);

/// Where and when a command is applied; the same on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyContext {
    /// Index of the entry in the log.
    pub index: u64,
    /// Position of the command in its entry; `(index, position)` is unique for ever.
    pub position: u32,
    pub time: LogTime,
}

/// A deterministic state machine. Pure: no clock, no randomness, no I/O, no map with random order.
pub trait StateMachine: Send + Sync + Sized + 'static {
    type Command: Encode + Decode<()> + Send + Sync + 'static;
    type Reply: Encode + Decode<()> + Send + Sync + 'static;

    /// Applies one committed command. Must not panic on any command: bad input is a reply.
    fn apply(&mut self, at: ApplyContext, command: Self::Command) -> Self::Reply;
    /// The whole state, encoded with a version.
    fn snapshot(&self) -> Vec<u8>;
    /// The state that `snapshot` encoded; an error for an unknown version or damaged bytes.
    fn restore(bytes: &[u8]) -> Result<Self, String>;
}

/// A state machine that can be asked. Kept apart from [`StateMachine`], since not every machine is asked from afar.
pub trait Queries: StateMachine {
    type Query: Encode + Decode<()> + Send + Sync + 'static;
    type Answer: Encode + Decode<()> + Send + Sync + 'static;

    /// Answers from the state as it is; `now` is the present log time (what has expired by then is not there). Must not panic
    /// on any query: bad input is an answer. Applying waits meanwhile, so it must be quick.
    fn query(&self, now: LogTime, query: Self::Query) -> Self::Answer;
}

/// One member of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Member {
    pub replica: ReplicaId,
    pub node: NodeId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    /// The group's core has stopped; `GroupStatus::fatal` says why.
    Stopped,
}

/// A group as this replica sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<Member>,
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub snapshot: Option<u64>,
    pub purged: Option<u64>,
    pub voters: Vec<Member>,
    pub learners: Vec<Member>,
    /// The change of voters is half done: `voters` are those of both sets, and each decision needs a majority of either.
    pub joint: bool,
    /// On the leader: index each member is known to hold.
    pub matched: Vec<(ReplicaId, Option<u64>)>,
    /// On the leader: milliseconds since a quorum last acknowledged it.
    pub quorum_ack_ms: Option<u64>,
    pub fatal: Option<String>,
}

/// Why a command or a read was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum GroupError {
    /// Not proposed, for certain; retry (elsewhere, if `leader` is another).
    #[error("group {group} has its leader elsewhere ({leader:?})")]
    NotLeader { group: GroupId, leader: Option<Member> },
    /// No quorum answered in time; nothing was done.
    #[error("group {group} has no leader: {detail}")]
    NoQuorum { group: GroupId, detail: String },
    /// The command may or may not take effect, once.
    #[error("outcome unknown: {detail}")]
    OutcomeUnknown { detail: String },
    /// The client's registration expired, so that a retry could apply twice. Register anew.
    #[error("client {0} is not registered or has expired: outcome unknown")]
    ClientExpired(ClientId),
    /// A limit was hit; nothing was done; retry after a pause.
    #[error("busy: {0}")]
    Busy(String),
    #[error("a command, query or answer of {len} bytes is over the limit of {limit} bytes")]
    TooLarge { len: usize, limit: usize },
    /// A membership change was refused; the reason says which rule.
    #[error("membership change refused: {0}")]
    Membership(String),
    /// The replica stopped: disk failure, damage, or shutdown.
    #[error("the replica of group {group} has stopped: {detail}")]
    Stopped { group: GroupId, detail: String },
}
