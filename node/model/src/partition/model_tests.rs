//! The machine against a model that is too simple to be wrong: random commands, in random time, over snapshots.
//!
//! The model keeps one flat map, looks through all of it each time, and recounts everything.

use std::collections::BTreeMap;

use longshore_raft::consensus::machine::{ApplyContext, LogTime, StateMachine};
use proptest::prelude::*;

use super::*;
use crate::keys::limits::{EXPIRY_OVERHEAD_BYTES, KEY_OVERHEAD_BYTES, NAMESPACE_OVERHEAD_BYTES};
use crate::keys::{Condition, KeyCommand, KeyError, KeyReply, Lifetime, Page, Scan};

const NAMESPACES: [&str; 3] = ["a", "a.b", "b"];
/// Partitions 0 to 7 have these: several in one, prefixes of each other, bytes that are not text.
const KEYS: usize = 10;

fn names() -> Vec<Vec<u8>> {
    let tag = (0..).map(|i| format!("{{{i}}}")).find(|t| partition_of(t.as_bytes()).0 == 3).unwrap();
    let tagged = ["", "x", "xy", "\u{ff}"].map(|tail| format!("{tag}{tail}").into_bytes());
    let plain = (0..).map(|i| format!("k{i}").into_bytes()).filter(|k| partition_of(k).0 < 8);
    tagged.into_iter().chain(plain).take(KEYS).collect()
}

#[derive(Debug, Clone)]
enum If {
    Always,
    Absent,
    Present,
    /// At the version that the key has, or had last, plus this.
    Version(i8),
}

#[derive(Debug, Clone)]
enum Step {
    Set {
        at: (usize, usize),
        value: Vec<u8>,
        lifetime: Lifetime,
        condition: If,
    },
    Delete {
        at: (usize, usize),
        condition: If,
    },
    Expire {
        at: (usize, usize),
        ttl_ms: Option<u64>,
        condition: If,
    },
    Sweep {
        keys_max: u32,
    },
    SetEpoch {
        epoch: u64,
    },
    /// The next requests are sent under this epoch.
    Believe {
        epoch: u64,
    },
    Snapshot,
}

fn condition() -> impl Strategy<Value = If> {
    prop_oneof![
        4 => Just(If::Always),
        1 => Just(If::Absent),
        1 => Just(If::Present),
        2 => (-1..=1i8).prop_map(If::Version),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (0..NAMESPACES.len(), 0..KEYS);
    let ttl = || 0..30u64;
    let lifetime = prop_oneof![2 => Just(Lifetime::Forever), 1 => Just(Lifetime::Keep), 3 => ttl().prop_map(Lifetime::ForMs)];
    let value = prop::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        10 => (at(), value, lifetime, condition())
            .prop_map(|(at, value, lifetime, condition)| Step::Set { at, value, lifetime, condition }),
        4 => (at(), condition()).prop_map(|(at, condition)| Step::Delete { at, condition }),
        4 => (at(), prop::option::of(ttl()), condition())
            .prop_map(|(at, ttl_ms, condition)| Step::Expire { at, ttl_ms, condition }),
        3 => (0..4u32).prop_map(|keys_max| Step::Sweep { keys_max }),
        1 => (0..3u64).prop_map(|epoch| Step::SetEpoch { epoch }),
        1 => (0..4u64).prop_map(|epoch| Step::Believe { epoch }),
        1 => Just(Step::Snapshot),
    ]
}

type Name = (&'static str, Vec<u8>);

#[derive(Debug, Clone)]
struct Record {
    value: Vec<u8>,
    version: u64,
    expires: Option<u64>,
}

#[derive(Default)]
struct Model {
    records: BTreeMap<Name, Record>,
    /// The highest version that each key ever had.
    highest: BTreeMap<Name, u64>,
    epoch: u64,
    writes: u64,
}

impl Model {
    fn live(&self, now: u64, name: &Name) -> Option<&Record> {
        self.records.get(name).filter(|r| r.expires.is_none_or(|at| now < at))
    }

    /// What a request shall be answered. Versions are the machine's to choose: this takes them from its reply, if they rise.
    fn request(
        &mut self,
        now: u64,
        name: Name,
        command: &KeyCommand,
        got: &Reply,
    ) -> Result<KeyReply, KeyError> {
        let ttl = match command {
            KeyCommand::Set { lifetime: Lifetime::ForMs(ttl), .. } => Some(*ttl),
            KeyCommand::Expire { ttl_ms, .. } => *ttl_ms,
            _ => None,
        };
        if ttl == Some(0) {
            return Err(KeyError::TtlInvalid { ttl_ms: 0 });
        }
        let live = self.live(now, &name).cloned();
        let current = live.as_ref().map(|r| r.version);
        let condition = command.condition();
        let holds = match condition {
            Condition::Always => true,
            Condition::IfAbsent => current.is_none(),
            Condition::IfPresent => current.is_some(),
            Condition::IfVersion(wanted) => current == Some(wanted),
        };
        if !holds {
            return Err(KeyError::ConditionFailed { condition, current });
        }
        let chosen = match got {
            Reply::Key(Ok(KeyReply::Set { version, .. } | KeyReply::Deleted { version: Some(version) })) => {
                *version
            }
            _ => 0,
        };
        let left = |expires: Option<u64>| expires.map(|at| at - now);
        match command {
            KeyCommand::Set { value, lifetime, .. } => {
                let expires = match lifetime {
                    Lifetime::Forever => None,
                    Lifetime::Keep => live.and_then(|r| r.expires),
                    Lifetime::ForMs(ttl) => Some(now + ttl),
                };
                self.rise(&name, chosen);
                self.records.insert(name, Record { value: value.to_vec(), version: chosen, expires });
                Ok(KeyReply::Set { version: chosen, replaced: current, ttl_ms: left(expires) })
            }
            KeyCommand::Delete { .. } if live.is_none() => Ok(KeyReply::Deleted { version: None }),
            KeyCommand::Delete { .. } => {
                self.rise(&name, chosen);
                self.records.remove(&name);
                Ok(KeyReply::Deleted { version: Some(chosen) })
            }
            KeyCommand::Expire { ttl_ms, .. } => {
                let Some(version) = current else { return Err(KeyError::NotFound) };
                self.writes += 1;
                let record = self.records.get_mut(&name).expect("it is live");
                record.expires = ttl_ms.map(|ttl| now + ttl);
                Ok(KeyReply::Expires { version, ttl_ms: *ttl_ms })
            }
        }
    }

    fn rise(&mut self, name: &Name, version: u64) {
        let before = self.highest.insert(name.clone(), version).unwrap_or(0);
        assert!(version > before, "{name:?}: version {version} after {before}");
        self.writes += 1;
    }

    fn sweep(&mut self, now: u64, keys_max: u32) -> Reply {
        let due = |r: &Record| r.expires.filter(|at| *at <= now);
        let mut expired: Vec<_> = self
            .records
            .iter()
            .filter_map(|(name, r)| Some((due(r)?, partition_of(&name.1), r.version, name.clone())))
            .collect();
        expired.sort();
        expired.truncate(keys_max as usize);
        expired.iter().for_each(|(.., name)| drop(self.records.remove(name)));
        Reply::Swept { removed: expired.len() as u32, next: self.next_expiry() }
    }

    fn next_expiry(&self) -> Option<LogTime> {
        self.records.values().filter_map(|r| r.expires).min().map(LogTime)
    }

    fn bytes(&self) -> u64 {
        let mut namespaces: Vec<_> = self.records.keys().map(|(n, k)| (partition_of(k), *n)).collect();
        namespaces.sort();
        namespaces.dedup();
        let of_namespaces = namespaces.iter().map(|(_, n)| NAMESPACE_OVERHEAD_BYTES + n.len() as u64);
        let of_records = self.records.iter().map(|((_, key), r)| {
            let index = if r.expires.is_some() { EXPIRY_OVERHEAD_BYTES } else { 0 };
            KEY_OVERHEAD_BYTES + index + (key.len() + r.value.len()) as u64
        });
        of_namespaces.chain(of_records).sum()
    }
}

/// Both, and a second machine that takes no part in snapshots.
struct Pair {
    names: Vec<Vec<u8>>,
    model: Model,
    machine: PartitionMachine,
    undisturbed: PartitionMachine,
    at: ApplyContext,
    believed: u64,
}

impl Pair {
    fn new() -> Self {
        let machine = PartitionMachine::new(PartitionRange::new(0..=7).unwrap());
        let at = ApplyContext { index: 0, position: 0, time: LogTime(0) };
        let undisturbed = machine.clone();
        Self { names: names(), model: Model::default(), machine, undisturbed, at, believed: 3 }
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.at.index += 1;
        let reply = self.machine.apply(self.at, command.clone());
        assert_eq!(self.undisturbed.apply(self.at, command), reply, "a snapshot changed something");
        reply
    }

    fn condition(&self, name: &Name, condition: &If) -> Condition {
        let version = self.model.highest.get(name).copied().unwrap_or(0);
        match condition {
            If::Always => Condition::Always,
            If::Absent => Condition::IfAbsent,
            If::Present => Condition::IfPresent,
            If::Version(plus) => Condition::IfVersion(version.saturating_add_signed((*plus).into())),
        }
    }

    fn request(
        &mut self,
        at: (usize, usize),
        command: impl FnOnce(String, Vec<u8>, &Self, &Name) -> KeyCommand,
    ) {
        let name: Name = (NAMESPACES[at.0], self.names[at.1].clone());
        let command = command(name.0.to_owned(), name.1.clone(), self, &name);
        let (epoch, partition) = (self.believed, partition_of(&name.1));
        let envelope = Envelope { epoch, partition, command: PartitionCommand::Key(command.clone()) };
        let got = self.apply(Command::Request(envelope));
        let expected = if epoch < self.model.epoch {
            Reply::WrongEpoch { current: self.model.epoch }
        } else {
            Reply::Key(self.model.request(self.at.time.0, name, &command, &got))
        };
        assert_eq!(got, expected, "{command:?} at {:?}", self.at.time);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Set { at, value, lifetime, condition } => self.request(at, |namespace, key, pair, name| {
                let condition = pair.condition(name, &condition);
                KeyCommand::Set { namespace, key, value: value.into(), lifetime, condition }
            }),
            Step::Delete { at, condition } => self.request(at, |namespace, key, pair, name| {
                KeyCommand::Delete { namespace, key, condition: pair.condition(name, &condition) }
            }),
            Step::Expire { at, ttl_ms, condition } => self.request(at, |namespace, key, pair, name| {
                KeyCommand::Expire { namespace, key, ttl_ms, condition: pair.condition(name, &condition) }
            }),
            Step::Sweep { keys_max } => {
                let got = self.apply(Command::Sweep { keys_max });
                assert_eq!(got, self.model.sweep(self.at.time.0, keys_max));
            }
            Step::SetEpoch { epoch } => {
                let got = self.apply(Command::SetEpoch { epoch });
                self.model.epoch = self.model.epoch.max(epoch);
                assert_eq!(got, Reply::Epoch { current: self.model.epoch });
            }
            Step::Believe { epoch } => self.believed = epoch,
            Step::Snapshot => {
                self.machine = PartitionMachine::restore(&self.machine.snapshot()).unwrap();
            }
        }
        self.compare();
    }

    /// Everything that can be read, now and in a while.
    fn compare(&self) {
        for now in [self.at.time.0, self.at.time.0 + 7] {
            for namespace in NAMESPACES {
                for key in &self.names {
                    let got = self.machine.get(LogTime(now), namespace, key).unwrap();
                    let got = got.map(|f| (f.value.to_vec(), f.version, f.ttl_ms));
                    let live = self.model.live(now, &(namespace, key.clone()));
                    let expected = live.map(|r| (r.value.clone(), r.version, r.expires.map(|at| at - now)));
                    assert_eq!(got, expected, "{namespace} {key:?} at {now}");
                }
                self.compare_scan(now, namespace);
            }
        }
        let status = self.machine.status();
        assert_eq!(status.next_expiry, self.model.next_expiry());
        let expiring = self.model.records.values().filter(|r| r.expires.is_some()).count();
        assert_eq!(
            (status.keys.keys, status.keys.expiring),
            (self.model.records.len() as u64, expiring as u64)
        );
        assert_eq!((status.keys.bytes, status.keys.writes), (self.model.bytes(), self.model.writes));
    }

    fn compare_scan(&self, now: u64, namespace: &'static str) {
        let prefix = self.names[0].clone();
        for prefix in [vec![], prefix] {
            let of_model =
                self.model.records.keys().filter(|(n, k)| *n == namespace && k.starts_with(&prefix));
            let expected: Vec<_> = of_model
                .filter_map(|name| Some((name.1.clone(), self.model.live(now, name)?.value.clone())))
                .collect();
            let mut got = Vec::new();
            let mut after = None;
            // A page has three keys, or is the last.
            for page in 0.. {
                assert!(page <= KEYS / 3, "the scan of {namespace} has no end");
                let (namespace, prefix) = (namespace.to_owned(), prefix.clone());
                let scan = Scan { namespace, partition: None, prefix, after, limit: 3, with_values: true };
                let Page { entries, next } = self.machine.scan(LogTime(now), &scan).unwrap();
                got.extend(
                    entries.into_iter().map(|e| (e.key.to_vec(), e.value.unwrap_or_default().to_vec())),
                );
                match next {
                    Some(next) => after = Some(next.to_vec()),
                    None => break,
                }
            }
            assert_eq!(got, expected, "scan of {namespace} at {now}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn does_what_the_model_does(steps in prop::collection::vec((0..12u64, step()), 0..60)) {
        let mut pair = Pair::new();
        for (ms, step) in steps {
            pair.at.time.0 += ms;
            pair.step(step);
        }
        prop_assert_eq!(pair.machine.snapshot(), pair.undisturbed.snapshot(), "two replicas, two digests");
        prop_assert_eq!(pair.machine, pair.undisturbed);
    }
}
