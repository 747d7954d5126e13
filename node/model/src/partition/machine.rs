//! The state itself, `apply`, and what can be read.

use bincode::{Decode, Encode};
use longshore_raft::consensus::machine::{ApplyContext, LogTime, StateMachine};
use longshore_raft::model::ring::ChangeId;

use super::command::{Command, Envelope, PartitionCommand, Reply};
use super::{PartitionId, PartitionRange};
use crate::blocks::{BlockReader, BlockWriter};
use crate::keys::{Found, KeyError, KeyStats, Keys, Page, Scan};
use crate::operations::table::Finished;
use crate::operations::{OperationCommand, OperationId, OperationReply, Operations};

/// Version of the encoded state and of commands. A node refuses a snapshot of a version it does not know.
pub const STATE_VERSION: u16 = 7;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionMachine {
    range: PartitionRange,
    /// The highest that the control group's record had for this group, as far as the group was told.
    epoch: u64,
    /// The last change of members that was given up.
    forbidden: ChangeId,
    /// Log time of the last command.
    time: LogTime,
    operations: Operations,
    keys: Keys,
}

/// What a group says about its state.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PartitionStatus {
    pub range: PartitionRange,
    pub epoch: u64,
    pub time: LogTime,
    /// From when on a [`Command::Sweep`] has something to do.
    pub next_expiry: Option<LogTime>,
    pub keys: KeyStats,
}

/// First record of a snapshot.
#[derive(Debug, Encode, Decode)]
struct Head {
    range: PartitionRange,
    epoch: u64,
    forbidden: ChangeId,
    time: LogTime,
}

impl PartitionMachine {
    /// The empty state, the same on every replica of the group.
    pub fn new(range: PartitionRange) -> Self {
        Self {
            range,
            epoch: 0,
            forbidden: ChangeId(0),
            time: LogTime(0),
            operations: Operations::default(),
            keys: Keys::new(range),
        }
    }

    pub fn range(&self) -> PartitionRange {
        self.range
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The last change of the group's members that must not be carried on; nor must those before it.
    pub fn forbidden(&self) -> ChangeId {
        self.forbidden
    }

    /// Whether a request, to read too, is to be served; else what to reply. An epoch above the group's is let in: the control group
    /// has recorded a change that this group was not told of yet, and which partitions it carries does not depend on it.
    /// It is not taken over either, or one faulty front could shut out all others.
    pub fn admit(&self, epoch: u64, partition: PartitionId) -> Result<(), Reply> {
        if !self.range.contains(partition) {
            return Err(Reply::WrongPartition { carried: self.range });
        }
        if epoch < self.epoch {
            return Err(Reply::WrongEpoch { current: self.epoch });
        }
        Ok(())
    }

    /// The key as of `now`, or of the last command if that is later: a clock that is behind must not show what was seen to expire.
    pub fn get(&self, now: LogTime, namespace: &str, key: &[u8]) -> Result<Option<Found>, KeyError> {
        self.keys.get(now.max(self.time), namespace, key)
    }

    /// The next page of a scan, as of the same moment as [`Self::get`].
    pub fn scan(&self, now: LogTime, scan: &Scan) -> Result<Page, KeyError> {
        self.keys.scan(now.max(self.time), scan)
    }

    /// As of the last command.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// From when on a [`Command::Sweep`] has something to do.
    pub fn next_expiry(&self) -> Option<LogTime> {
        self.keys.next_expiry()
    }

    /// O(partitions).
    pub fn status(&self) -> PartitionStatus {
        PartitionStatus {
            range: self.range,
            epoch: self.epoch,
            time: self.time,
            next_expiry: self.next_expiry(),
            keys: self.keys.stats(),
        }
    }

    fn request(&mut self, at: ApplyContext, request: Envelope) -> Reply {
        if let Err(refusal) = self.admit(request.epoch, request.partition) {
            return refusal;
        }
        match request.command {
            PartitionCommand::Key(command) => {
                Reply::Key(self.keys.apply(at.time, request.partition, command))
            }
            PartitionCommand::Operation(command) => {
                let id = OperationId { index: at.index, position: at.position, partition: request.partition };
                Reply::Operation(self.operate(at.time, id, command))
            }
        }
    }

    /// `id`: of an operation that begins here.
    fn operate(&mut self, now: LogTime, id: OperationId, command: OperationCommand) -> OperationReply {
        match command {
            OperationCommand::Submit(submission) => {
                OperationReply::Submitted(self.operations.submit(id, now, *submission))
            }
            OperationCommand::Claim { sub, node, incarnation, unix_ms } => {
                OperationReply::Claimed(self.operations.claim(sub, node, incarnation, now, unix_ms))
            }
            OperationCommand::Report { reports } => {
                OperationReply::Reported { lost: self.operations.report(&reports, now) }
            }
            OperationCommand::Cancel { operation, by, unix_ms } => {
                OperationReply::Cancelled(self.operations.cancel(operation, by, now, unix_ms))
            }
            OperationCommand::Relocate { moves } => {
                OperationReply::Relocated(self.operations.relocate(&moves, now))
            }
            OperationCommand::Repair { submission, replaced } => {
                OperationReply::Repaired(self.operations.repair(id, now, *submission, replaced))
            }
            OperationCommand::CopyNews { origin, node, news } => {
                OperationReply::Noted(self.operations.copy_news(&origin, node, news, now))
            }
            OperationCommand::Upkeep { run, change, unix_ms } => {
                OperationReply::Upkept(self.operations.change_upkeep(run, change, now, unix_ms))
            }
            OperationCommand::Finish { sub, token, progress, outcome, unix_ms } => {
                self.operations.report(&[(sub, token, progress)], now);
                let finished = self.operations.finish(sub, token, outcome, now, unix_ms);
                OperationReply::Finished {
                    counted: finished != Finished::LeaseLost,
                    again_ms: match finished {
                        Finished::Again { after_ms } => Some(after_ms),
                        Finished::Ended | Finished::LeaseLost => None,
                    },
                }
            }
        }
    }
}

impl StateMachine for PartitionMachine {
    type Command = Command;
    type Reply = Reply;

    fn apply(&mut self, at: ApplyContext, command: Command) -> Reply {
        assert!(at.time >= self.time, "log time went back from {:?} to {:?}", self.time, at.time);
        self.time = at.time;
        match command {
            Command::Request(envelope) => self.request(at, envelope),
            Command::Sweep { keys_max } => {
                let removed = self.keys.sweep(at.time, keys_max);
                Reply::Swept { removed, next: self.keys.next_expiry() }
            }
            Command::SweepOperations { gone, unix_ms } => {
                self.operations.sweep(at.time, unix_ms, &gone);
                Reply::OperationsSwept
            }
            Command::SetEpoch { epoch } => {
                self.epoch = self.epoch.max(epoch);
                Reply::Epoch { current: self.epoch }
            }
            Command::Forbid { change } => {
                self.forbidden = self.forbidden.max(change);
                Reply::Forbidden
            }
        }
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut blocks = BlockWriter::new(&STATE_VERSION.to_le_bytes());
        blocks.record(&Head {
            range: self.range,
            epoch: self.epoch,
            forbidden: self.forbidden,
            time: self.time,
        });
        self.operations.write(&mut blocks);
        self.keys.write(&mut blocks);
        blocks.finish()
    }

    fn restore(bytes: &[u8]) -> Result<Self, String> {
        let Some((version, rest)) = bytes.split_first_chunk::<2>() else {
            return Err("the state is cut short".into());
        };
        match u16::from_le_bytes(*version) {
            STATE_VERSION => {}
            other => {
                return Err(format!(
                    "the state has version {other}, this longshore knows {STATE_VERSION}: run the newer longshore"
                ));
            }
        }
        let mut blocks = BlockReader::new(version, rest);
        let head = blocks.record::<Head>().map_err(|e| e.to_string())?;
        let Some(Head { range, epoch, forbidden, time }) = head.filter(|h| h.range.is_valid()) else {
            return Err("the state has no valid head".into());
        };
        let operations = Operations::read(range, &mut blocks).map_err(|e| e.to_string())?;
        let keys = Keys::read(range, &mut blocks).map_err(|e| e.to_string())?;
        match blocks.record::<u8>() {
            Ok(None) => Ok(Self { range, epoch, forbidden, time, operations, keys }),
            Ok(Some(_)) => Err("records are left over after the keys".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}
