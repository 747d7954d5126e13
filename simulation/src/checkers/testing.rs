//! Histories in a few characters, for tests.
//!
//! Calls are written `name:what` when they begin and `name=outcome` when they end:
//! `w1` writes serial 1, `r` reads, `s5` submits serial 5, `l` lists operations, `x` is anything else; `ok`, `no` (refused), `?` (unknown),
//! `none` (never written), `7` (read serial 7), `op3` (submitted, at index 3 of the log of group 0; `op1.3`: of group 1), `[3:5,1.4:6*]` (listed: serial 5 at
//! index 3, and serial 6 at index 4 of group 1, which has ended). Of keys of the ring: `p1>2` puts serial 2 in place of serial 1 and `p>2` of nothing, `d` deletes, `t2` writes
//! serial 2 for two seconds; `@4` (written, at version 4), `7@4` (found serial 7, of version 4), `miss4` and `miss` (at version 4, or
//! absent), `del4` and `del` (deleted by version 4, or nothing was there). The client is the first letter of the call's name. `+9` lets 9 s pass, `H` heals,
//! `E` ends.

use std::collections::BTreeMap;

use super::Watch;
use crate::observation::{
    Call, CallId, Checker, DurableLog, Key, Listed, LogPosition, Observation, Outcome, ReplicaStatus, Seen,
    Serial, Verified, Violation, VoteView,
};
use crate::plan::hold::Hold;
use crate::plan::{
    DiskShape, EngineShape, Fault, FleetShape, HostShape, Latency, Load, NetworkShape, Plan, Scheduled,
    TransportKind,
};

/// Three hosts, with clients that write and read; no faults but these.
pub(crate) fn plan(faults: &[Fault]) -> Plan {
    let host = HostShape {
        zone: None,
        late: false,
        drift_ppm: 0,
        wall_ahead_ms: 0,
        disk: DiskShape::default(),
        engine: EngineShape::default(),
        weight: None,
    };
    let fleet = FleetShape {
        hosts: vec![host; 3],
        network: NetworkShape::default(),
        segment_bytes: 1 << 20,
        snapshot_entries: 100,
        ring: None,
    };
    let think = Latency::even(1_000, 2_000);
    let load = Load {
        clients: 3,
        think,
        keys: 1,
        writes: 1,
        reads: 1,
        pulls: 1,
        runs: 0,
        others: 1,
        timeout_ms: 1_000,
        ring: None,
        calms: Vec::new(),
    };
    Plan {
        seed: 1,
        profile: "test".into(),
        transport: TransportKind::Memory,
        fleet,
        load,
        faults: faults.iter().map(|fault| Scheduled { at_ms: 1, fault: fault.clone() }).collect(),
        fault_ms: 1_000,
        settle_ms: 60_000,
        unhealed: vec![],
        mutant: None,
        flip_payload: None,
        hold: Hold::default(),
    }
}

/// Observations, each a millisecond after the one before.
#[derive(Debug, Default, Clone)]
pub(crate) struct History {
    pub(crate) at_ns: u64,
    pub(crate) seen: Vec<Observation>,
    calls: BTreeMap<String, CallId>,
    /// Calls are about a key of the ring in this namespace, not about a label.
    namespace: Option<&'static str>,
}

impl History {
    pub(crate) fn of(script: &str) -> Self {
        let mut history = Self::default();
        history.calls(script);
        history
    }

    pub(crate) fn of_key(namespace: &'static str, script: &str) -> Self {
        let mut history = Self { namespace: Some(namespace), ..Self::default() };
        history.calls(script);
        history
    }

    pub(crate) fn see(&mut self, seen: Seen) {
        self.at_ns += 1_000_000;
        self.seen.push(Observation { at_ns: self.at_ns, seen });
    }

    pub(crate) fn calls(&mut self, script: &str) {
        for token in script.split_whitespace() {
            match token {
                "H" => self.see(Seen::Healed),
                "E" => self.see(Seen::Ending),
                _ => match (token.strip_prefix('+'), token.split_once(':'), token.split_once('=')) {
                    (Some(seconds), ..) => self.at_ns += seconds.parse::<u64>().unwrap() * 1_000_000_000,
                    (_, _, Some((name, outcome))) => self.end(name, outcome),
                    (_, Some((name, what)), _) => self.begin(name, what),
                    _ => panic!("{token:?} means nothing"),
                },
            }
        }
    }

    fn begin(&mut self, name: &str, what: &str) {
        let key = match self.namespace {
            None => Key::Label { node: "n1".into(), label: "k".into() },
            Some(namespace) => Key::Ring { namespace, key: "k".into() },
        };
        let serial = || what[1..].parse::<Serial>().unwrap();
        let what = match &what[..1] {
            "w" => Call::Write { key, serial: serial() },
            "r" => Call::Read { key },
            "p" => {
                let (expected, serial) = what[1..].split_once('>').unwrap();
                Call::Swap { key, expected: expected.parse().ok(), serial: serial.parse().unwrap() }
            }
            "d" => Call::Delete { key },
            "t" => Call::Expiring { key, serial: serial(), ttl_ms: 2_000 },
            "s" => Call::Submit { serial: serial(), image: format!("app:{}", serial()), run: None },
            "c" => {
                let (place, serial) = what[1..].split_once('.').unwrap();
                Call::Cancel { at: placed(place), serial: serial.parse().unwrap() }
            }
            "l" => Call::ListOperations,
            "x" => Call::Other { what: "token".into() },
            _ => panic!("{what:?} is no call"),
        };
        let call = self.calls.len() as CallId + 1;
        assert!(self.calls.insert(name.into(), call).is_none(), "{name} twice");
        self.see(Seen::Invoked { client: u32::from(name.as_bytes()[0]), host: 1, call, what });
    }

    fn end(&mut self, name: &str, outcome: &str) {
        let call = self.calls[name];
        let outcome = match outcome {
            "ok" => Outcome::Written,
            "done" => Outcome::Done,
            "no" => Outcome::Refused("no".into()),
            "?" => Outcome::Unknown("timeout".into()),
            "none" => Outcome::Value(None),
            _ if outcome.contains('@') => {
                let (serial, version) = outcome.split_once('@').unwrap();
                let version = version.parse().unwrap();
                serial.parse().map_or(Outcome::Set(version), |serial| Outcome::Found { serial, version })
            }
            _ if outcome.starts_with("miss") => Outcome::Missed { current: outcome[4..].parse().ok() },
            _ if outcome.starts_with("del") => Outcome::Deleted(outcome[3..].parse().ok()),
            _ => match (outcome.strip_prefix("op"), outcome.strip_prefix('[')) {
                (Some(place), _) => Outcome::Submitted(placed(place)),
                (_, Some(list)) => Outcome::Operations(
                    list.trim_end_matches(']').split_terminator(',').map(listed).collect(),
                ),
                _ => Outcome::Value(Some(outcome.parse().unwrap())),
            },
        };
        self.see(Seen::Completed { client: u32::from(name.as_bytes()[0]), call, outcome });
    }

    /// What the checkers say of it.
    pub(crate) fn judge(&self, checkers: Vec<Box<dyn Checker>>) -> Result<Vec<Verified>, Violation> {
        let mut watch = Watch::of(checkers);
        for observation in &self.seen {
            watch.see(observation)?;
        }
        watch.finish()
    }

    /// Panics unless the one checker says what is expected: a part of the violation, or nothing.
    #[track_caller]
    pub(crate) fn expect(&self, name: &str, checker: impl Checker + 'static, expected: Option<&str>) {
        match (self.judge(vec![Box::new(checker)]), expected) {
            (Ok(_), None) => {}
            (Err(violation), Some(part)) if violation.what.contains(part) => {}
            (outcome, _) => panic!("{name}: expected {expected:?}, got {outcome:#?}"),
        }
    }
}

fn listed(item: &str) -> (LogPosition, Listed) {
    let (place, rest) = item.split_once(':').unwrap();
    let serial = rest.trim_end_matches('*').parse().unwrap();
    (placed(place), Listed { serial, ended: rest.ends_with('*') })
}

fn placed(place: &str) -> LogPosition {
    let (group, index) = place.split_once('.').unwrap_or(("0", place));
    LogPosition { group: group.parse().unwrap(), index: index.parse().unwrap(), position: 0 }
}

/// Replica `r` of node `r` on host `r`, by its own word.
pub(crate) fn status(replica: u64, term: u64, leader: Option<u64>, committed: Option<u64>) -> ReplicaStatus {
    ReplicaStatus {
        group: 0,
        node: replica,
        replica,
        term,
        is_leader: leader == Some(replica),
        leader,
        last_log: committed,
        committed,
        applied: committed,
        voters: vec![1, 2, 3],
        epoch: None,
    }
}

/// A log whose entries have these terms, from index `first` on. The entry of a term at an index is always the same.
pub(crate) fn log(replica: u64, first: u64, terms: &[u64]) -> DurableLog {
    let entries = (first..).zip(terms).map(|(index, term)| (index, (*term, entry(index, *term)))).collect();
    DurableLog {
        group: 0,
        node: replica,
        replica,
        vote: None,
        purged: first.checked_sub(1),
        entries,
        snapshot: first.checked_sub(1),
        voters: vec![1, 2, 3],
        joint: false,
    }
}

fn entry(index: u64, term: u64) -> [u8; 16] {
    (u128::from(index) << 64 | u128::from(term)).to_le_bytes()
}

pub(crate) fn vote(term: u64, voted_for: u64, committed: bool) -> Option<VoteView> {
    Some(VoteView { term, voted_for, committed })
}

/// Chance for tests: splitmix64.
#[derive(Debug, Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// Below `n`.
    pub(crate) fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// Once in `n`.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.roll(n) == 0
    }
}
