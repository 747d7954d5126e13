//! Epochs, partitions and snapshots of the machine. Keys have tests of their own.

use longshore_raft::NodeId;
use longshore_raft::consensus::machine::{ApplyContext, LogTime, Queries, StateMachine};
use proptest::prelude::*;

use super::*;
use crate::blocks;
use crate::keys::{Condition, KeyCommand, KeyReply, Lifetime, Value};
use crate::operations::{
    ClaimReply, Failure, FailureKind, Listing, OperationCommand, OperationKind, OperationReply, Part,
    Progress, SessionId, Strategy, SubKey, SubState, Submission, Work,
};

/// The machine of the first of 32 groups, with a log that the test writes.
struct Log {
    machine: PartitionMachine,
    at: ApplyContext,
}

impl Log {
    fn new() -> Self {
        let machine = PartitionMachine::new(PartitionRange::new(0..=7).unwrap());
        Self { machine, at: ApplyContext { index: 0, position: 0, time: LogTime(0) } }
    }

    fn apply(&mut self, ms: u64, command: Command) -> Reply {
        self.at.index += 1;
        self.at.time.0 += ms;
        self.machine.apply(self.at, command)
    }
}

/// The `n`th key that the group carries.
fn key(n: usize) -> Vec<u8> {
    let names = (0..).map(|i| format!("key{i}").into_bytes());
    names.filter(|k| partition_of(k).0 < 8).nth(n).expect("one key in 32 is there")
}

fn set(key: &[u8], value: &[u8], lifetime: Lifetime) -> PartitionCommand {
    PartitionCommand::Key(KeyCommand::Set {
        namespace: "ns".into(),
        key: key.into(),
        value: Value::from(value.to_vec()),
        lifetime,
        condition: Condition::Always,
    })
}

fn request(epoch: u64, command: PartitionCommand) -> Command {
    let PartitionCommand::Key(of) = &command else { panic!("not about a key") };
    Command::Request(Envelope { epoch, partition: partition_of(of.key()), command })
}

#[test]
fn a_superseded_epoch_is_refused_and_nothing_is_done() {
    let mut log = Log::new();
    assert_eq!(log.apply(1, Command::SetEpoch { epoch: 5 }), Reply::Epoch { current: 5 });
    assert_eq!(log.apply(1, Command::SetEpoch { epoch: 4 }), Reply::Epoch { current: 5 });
    let write = |epoch| request(epoch, set(&key(0), b"v", Lifetime::Forever));
    for epoch in [0, 4] {
        assert_eq!(log.apply(1, write(epoch)), Reply::WrongEpoch { current: 5 });
    }
    assert_eq!(log.machine.status().keys.writes, 0);
    for epoch in [5, 6, u64::MAX] {
        assert!(matches!(log.apply(1, write(epoch)), Reply::Key(Ok(KeyReply::Set { .. }))), "{epoch}");
        assert_eq!(log.machine.epoch(), 5, "a front's epoch is not taken over");
    }
    assert_eq!(log.machine.admit(4, PartitionId(0)), Err(Reply::WrongEpoch { current: 5 }));
    assert_eq!(log.machine.admit(5, PartitionId(7)), Ok(()));
}

#[test]
fn a_partition_that_is_not_carried_is_refused() {
    let mut log = Log::new();
    let partition = PartitionId(8);
    let stray = (0..).map(|i| format!("{i}").into_bytes()).find(|k| partition_of(k) == partition).unwrap();
    let reply = log.apply(1, request(0, set(&stray, b"v", Lifetime::Forever)));
    assert_eq!(reply, Reply::WrongPartition { carried: log.machine.range() });
    let disguised =
        Envelope { epoch: 0, partition: PartitionId(0), command: set(&stray, b"v", Lifetime::Forever) };
    let reply = log.apply(1, Command::Request(disguised));
    assert!(matches!(reply, Reply::Key(Err(crate::keys::KeyError::WrongPartition { .. }))), "{reply:?}");
    assert_eq!(log.machine.status().keys.keys, 0);
}

#[test]
fn a_read_is_never_earlier_than_the_last_command() {
    let mut log = Log::new();
    let key = key(0);
    log.apply(10, request(0, set(&key, b"v", Lifetime::ForMs(5))));
    assert!(log.machine.get(LogTime(0), "ns", &key).unwrap().is_some());
    assert!(log.machine.get(LogTime(15), "ns", &key).unwrap().is_none());
    log.apply(5, Command::SetEpoch { epoch: 1 });
    assert!(
        log.machine.get(LogTime(0), "ns", &key).unwrap().is_none(),
        "a condition would not see it either"
    );
}

#[test]
fn a_sweep_says_when_the_next_is_due() {
    let mut log = Log::new();
    for (n, ttl_ms) in [(0, 10), (1, 20), (2, 30)] {
        log.apply(0, request(0, set(&key(n), b"v", Lifetime::ForMs(ttl_ms))));
    }
    assert_eq!(log.machine.next_expiry(), Some(LogTime(10)));
    let sweep = || Command::Sweep { keys_max: 1 };
    assert_eq!(log.apply(25, sweep()), Reply::Swept { removed: 1, next: Some(LogTime(20)) });
    assert_eq!(log.apply(0, sweep()), Reply::Swept { removed: 1, next: Some(LogTime(30)) });
    assert_eq!(log.apply(0, sweep()), Reply::Swept { removed: 0, next: Some(LogTime(30)) });
    assert_eq!(log.apply(5, sweep()), Reply::Swept { removed: 1, next: None });
}

#[test]
#[should_panic(expected = "log time went back")]
fn log_time_never_goes_back() {
    let mut log = Log::new();
    log.apply(10, Command::SetEpoch { epoch: 1 });
    log.at.time = LogTime(9);
    log.apply(0, Command::SetEpoch { epoch: 1 });
}

/// Some of everything that a state can hold.
fn sample() -> PartitionMachine {
    let mut log = Log::new();
    log.apply(3, Command::SetEpoch { epoch: 7 });
    for n in 0..40 {
        let lifetime = if n % 3 == 0 { Lifetime::ForMs(n as u64 + 1) } else { Lifetime::Forever };
        log.apply(1, request(7, set(&key(n), &vec![n as u8; n], lifetime)));
    }
    let other = KeyCommand::Set {
        namespace: "another".into(),
        key: key(3),
        value: Value::default(),
        lifetime: Lifetime::Forever,
        condition: Condition::Always,
    };
    log.apply(1, request(7, PartitionCommand::Key(other)));
    log.apply(1, Command::Sweep { keys_max: 2 });
    log.machine
}

#[test]
fn a_snapshot_gives_the_same_state_back_and_a_newer_version_is_refused() {
    let machine = sample();
    let mut bytes = machine.snapshot();
    assert_eq!(PartitionMachine::restore(&bytes), Ok(machine.clone()));
    assert!((bytes.len() as u64) < machine.status().keys.bytes, "what is counted bounds the snapshot");
    let empty = PartitionMachine::new(PartitionRange::new(255..=255).unwrap());
    assert_eq!(PartitionMachine::restore(&empty.snapshot()), Ok(empty));
    bytes[0] += 1;
    assert!(PartitionMachine::restore(&bytes).unwrap_err().contains("run the newer longshore"));
}

#[test]
fn a_snapshot_of_many_blocks_gives_the_same_state_back() {
    let mut log = Log::new();
    for n in 0..20 {
        log.apply(1, request(0, set(&key(n), &vec![n as u8; 50_000], Lifetime::ForMs(9))));
    }
    let bytes = log.machine.snapshot();
    assert!(bytes.len() > 20 * 50_000);
    assert_eq!(PartitionMachine::restore(&bytes), Ok(log.machine));
}

proptest! {
    #[test]
    fn a_damaged_snapshot_is_an_error(at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>()) {
        let bytes = sample().snapshot();
        let mut flipped = bytes.clone();
        flipped[at.index(bytes.len())] ^= flip;
        prop_assert!(PartitionMachine::restore(&flipped).is_err());
        prop_assert!(PartitionMachine::restore(&bytes[..cut.index(bytes.len())]).is_err());
    }

    /// Behind the checksums: records that a faulty program could have written. Either they are refused, or they are a
    /// state like any other, whose invariants hold when it is used.
    #[test]
    fn wrong_records_are_an_error_or_a_state(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        const HEADER: usize = 2 + 20;
        let bytes = sample().snapshot();
        let len = u32::from_le_bytes(bytes[2..6].try_into().unwrap()) as usize;
        let mut records = bytes[HEADER..HEADER + len].to_vec();
        for (at, byte) in changes {
            let at = at.index(records.len());
            records[at] = byte;
        }
        if let Some(cut) = cut {
            records.truncate(cut.index(records.len()));
        }
        if let Ok(mut machine) = PartitionMachine::restore(&blocks::seal(&bytes[..2], &records)) {
            prop_assert_eq!(&PartitionMachine::restore(&machine.snapshot()), &Ok(machine.clone()));
            let at = ApplyContext { index: 1, position: 0, time: LogTime(u64::MAX) };
            for n in 0..40 {
                machine.apply(at, request(u64::MAX, set(&key(n), b"v", Lifetime::ForMs(1))));
            }
            machine.apply(at, Command::Sweep { keys_max: 100 });
        }
    }
}

/// A session that the group carries.
fn session() -> SessionId {
    (0..).map(|i| format!("s{i}").parse().unwrap()).find(|s: &SessionId| s.partition().0 < 8).unwrap()
}

fn operate(epoch: u64, command: OperationCommand) -> Command {
    let command = PartitionCommand::Operation(command);
    Command::Request(Envelope { epoch, partition: session().partition(), command })
}

fn submit(key: Option<[u8; 32]>) -> OperationCommand {
    OperationCommand::Submit(Box::new(Submission {
        session: session(),
        kind: OperationKind::Pull { images: vec!["busybox".parse().unwrap()] },
        strategy: Strategy::Local,
        places: Default::default(),
        parts: [1, 2].map(|node| Part { node: NodeId(node), work: 0, why: None }).into(),
        left_out: Vec::new(),
        timeout_ms: 60_000,
        submitted_by: NodeId(1),
        unix_ms: 0,
        retry_of: None,
        asked: [0; 32],
        key,
    }))
}

#[test]
fn an_operation_lives_in_the_log_of_its_group() {
    let mut log = Log::new();
    log.apply(1, Command::SetEpoch { epoch: 5 });
    assert_eq!(log.apply(1, operate(4, submit(None))), Reply::WrongEpoch { current: 5 });
    let Reply::Operation(OperationReply::Submitted(Ok(id))) = log.apply(1, operate(5, submit(Some([1; 32]))))
    else {
        panic!("not submitted")
    };
    assert_eq!((id.index, id.partition), (log.at.index, session().partition()));
    let again = log.apply(1, operate(5, submit(Some([1; 32]))));
    assert_eq!(again, Reply::Operation(OperationReply::Submitted(Ok(id))), "once for a key");
    let sub = SubKey { operation: id, index: 0 };
    let claim = OperationCommand::Claim { sub, node: NodeId(1), incarnation: 1, unix_ms: 0 };
    let granted = Reply::Operation(OperationReply::Claimed(ClaimReply::Granted {
        token: 1,
        work: Box::new(Work::Pull("busybox".parse().unwrap())),
    }));
    assert_eq!(log.apply(1, operate(5, claim)), granted);
    let outcome = Err(Failure { error: "no route".into(), kind: FailureKind::Transient });
    let finish =
        OperationCommand::Finish { sub, token: 1, progress: Progress::default(), outcome, unix_ms: 0 };
    let finished = OperationReply::Finished { counted: true, again_ms: Some(1_000) };
    assert_eq!(log.apply(1, operate(5, finish)), Reply::Operation(finished));
    log.apply(1, Command::SweepOperations { gone: vec![NodeId(1)], unix_ms: 9 });
    let restored = PartitionMachine::restore(&log.machine.snapshot()).unwrap();
    assert_eq!(restored, log.machine);
    let query = |read| Query { epoch: 5, partition: session().partition(), read };
    let Answer::Operation(Some(operation)) = restored.query(LogTime(0), query(Read::Operation(id))) else {
        panic!("it is there")
    };
    assert_eq!(operation.subs[0].state, SubState::Failed { error: "its node has left the fleet".into() });
    assert!(matches!(operation.subs[1].state, SubState::Assigned { .. }));
    let listing = Listing { limit: 10, active: true, ..Listing::default() };
    let Answer::Operations(listed) = restored.query(LogTime(0), query(Read::Operations(listing))) else {
        panic!("no list")
    };
    assert_eq!(listed.operations, [*operation]);
}
