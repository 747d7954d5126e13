//! Random operations and crashes against a model: what was acknowledged is there, nothing else is but what was under way.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::disk::{Chance, SeededChance};
use crate::log::{MemLog, StreamState};

/// Runs of the test, each with its own seed and several crashes.
const SEEDS: u64 = 120;
const CRASHES: u64 = 4;

/// Everything that a log says of its streams.
type Seen = BTreeMap<StreamId, (StreamState, Vec<(u64, Bytes)>)>;

fn seen(log: &dyn LogStore, streams: &BTreeSet<StreamId>) -> Seen {
    let of = |stream: &StreamId| {
        let mut state = log.state(*stream).expect("nothing is damaged");
        // A hint: any earlier value is as good.
        state.committed = None;
        let held = log.read(*stream, 0..u64::MAX, usize::MAX).expect("nothing is damaged");
        (*stream, (state, held))
    };
    streams.iter().map(of).collect()
}

/// The model: every operation submitted, in order, each in a memory log.
struct Model {
    chance: SeededChance,
    streams: BTreeSet<StreamId>,
    /// What survived so far, and what was submitted since: operations one by one, and where each submit ended.
    base: Vec<LogOp>,
    submitted: Vec<LogOp>,
    ends: Vec<usize>,
    now: MemLog,
    next_replica: u64,
    stamp: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let streams = (0..6).map(|number| StreamId { group: number % 3, replica: 100 + u64::from(number) });
        Self {
            chance: SeededChance::new(seed),
            streams: streams.collect(),
            base: Vec::new(),
            submitted: Vec::new(),
            ends: Vec::new(),
            now: MemLog::new(),
            next_replica: 1000,
            stamp: 0,
        }
    }

    fn bytes(&mut self) -> Bytes {
        self.stamp += 1;
        let len = match self.chance.below(20) {
            0 => 3000 + self.chance.below(6000),
            1..5 => self.chance.below(1500),
            _ => self.chance.below(200),
        };
        let mut bytes = self.stamp.to_le_bytes().to_vec();
        bytes.resize(8 + len as usize, self.stamp as u8);
        Bytes::from(bytes)
    }

    fn short(&mut self) -> Bytes {
        self.stamp += 1;
        Bytes::from(self.stamp.to_le_bytes().to_vec())
    }

    fn op(&mut self) -> LogOp {
        let live: Vec<_> = self.streams.iter().filter(|s| !self.now.state(**s).unwrap().tombstoned).collect();
        let stream = *live[self.chance.below(live.len() as u64) as usize];
        let state = self.now.state(stream).unwrap();
        let ends = state.first.zip(state.last);
        match self.chance.below(100) {
            0..60 => {
                let purged = state.purged.map(|(index, _)| index);
                let first = state.last.or(purged).map_or_else(|| 1 + self.chance.below(5), |last| last + 1);
                let count = 1 + self.chance.below(4) * self.chance.below(3);
                let entries = (0..count).map(|_| self.bytes()).collect();
                LogOp::Append { stream, first, entries }
            }
            60..72 => LogOp::SaveVote { stream, vote: self.short() },
            72..78 => LogOp::SaveCommitted { stream, committed: self.short() },
            78..84 => match ends {
                Some((first, last)) => {
                    let kept = first + self.chance.below(last - first + 1);
                    LogOp::TruncateAfter { stream, last: (self.chance.below(8) > 0).then_some(kept) }
                }
                None => LogOp::TruncateAfter { stream, last: None },
            },
            84..98 => {
                let index = match ends {
                    Some((first, last)) if self.chance.below(8) > 0 => {
                        first + self.chance.below(last - first + 1)
                    }
                    Some((_, last)) => last + self.chance.below(20),
                    None => state.purged.map_or(0, |(index, _)| index) + self.chance.below(3),
                };
                LogOp::PurgeTo { stream, index, marker: self.short() }
            }
            _ => {
                self.next_replica += 1;
                self.streams.insert(StreamId { group: stream.group, replica: self.next_replica });
                LogOp::Tombstone { stream }
            }
        }
    }

    /// False if the log is poisoned and took nothing.
    fn submit(&mut self, bench: &Bench) -> bool {
        let mut ops = Vec::new();
        for _ in 0..1 + self.chance.below(3) {
            let op = self.op();
            self.now.submit(vec![op.clone()], Box::new(|_| {})).expect("the model made it valid");
            ops.push(op);
        }
        match bench.submit(self.ends.len() as u64 + 1, ops.clone()) {
            Ok(()) => {}
            Err(StorageError::Poisoned(_)) => return false,
            Err(error) => panic!("the model made it valid: {error}"),
        }
        self.submitted.extend(ops);
        self.ends.push(self.submitted.len());
        true
    }

    /// The least and the most that may be there after a crash: everything acknowledged, and some of what was under way. Checks
    /// that what is there is one of the states between, and goes on from it.
    fn check_after_crash(&mut self, bench: &Bench, acknowledged: usize, context: &str) {
        let found = seen(&bench.log, &self.streams);
        let log = MemLog::new();
        let put = |op: &LogOp| log.submit(vec![op.clone()], Box::new(|_| {})).expect("it was valid before");
        self.base.iter().for_each(put);
        let least = acknowledged.checked_sub(1).map_or(0, |last| self.ends[last]);
        self.submitted[..least].iter().for_each(put);
        let mut survived = least;
        // A batch survives whole, but a submit may be split: at records, so also within an append. Compare at each.
        let mut partial = None;
        while seen(&log, &self.streams) != found {
            let op = self.submitted.get(survived).unwrap_or_else(|| {
                panic!("{context}: what is there is no state that the log went through after submit {acknowledged}")
            });
            if let LogOp::Append { stream, first, entries } = op {
                for (index, entry) in (*first..).zip(entries) {
                    put(&LogOp::Append { stream: *stream, first: index, entries: vec![entry.clone()] });
                    if seen(&log, &self.streams) == found {
                        let count = (index - first + 1) as usize;
                        partial = Some((survived, count));
                        break;
                    }
                }
            } else {
                put(op);
            }
            survived += 1;
        }
        let mut kept: Vec<_> = self.submitted[..survived].to_vec();
        if let Some((at, count)) = partial
            && let LogOp::Append { entries, .. } = &mut kept[at]
        {
            entries.truncate(count);
        }
        self.base.extend(kept);
        self.submitted.clear();
        self.ends.clear();
        self.now = log;
    }
}

/// One run. Returns how often something under way was found kept and dropped.
fn run(seed: u64) -> (u64, u64) {
    let disk = MemDisk::new();
    let mut model = Model::new(seed);
    let mut bench = Bench::open(Arc::new(disk.clone()), small(&TestClock::default()));
    let (mut kept, mut dropped) = (0, 0);
    for round in 0..CRASHES {
        let steps = 20 + model.chance.below(400);
        if model.chance.below(4) == 0 {
            let call = [DiskCall::Write, DiskCall::Sync, DiskCall::SyncDir][model.chance.below(3) as usize];
            disk.fail_nth(call, 1 + model.chance.below(60));
        }
        let mut poisoned = false;
        for _ in 0..steps {
            match model.chance.below(10) {
                0..3 => poisoned = !model.submit(&bench),
                3..8 => {
                    bench.committer.step();
                }
                8 => {
                    bench.maintenance.step();
                }
                _ if model.chance.below(20) == 0 => {
                    bench.committer.mark();
                }
                _ => {}
            }
            if poisoned {
                break;
            }
        }
        let fired = bench.fired();
        assert!(
            fired.iter().map(|(id, _)| *id).eq(1..=fired.len() as u64),
            "seed {seed}: callbacks are in order"
        );
        assert!(fired.is_sorted_by_key(|(_, ok)| !ok), "seed {seed}: nothing is durable after a failure");
        let acknowledged = fired.iter().filter(|(_, ok)| *ok).count();
        if !poisoned {
            let (log, model) = (seen(&bench.log, &model.streams), seen(&model.now, &model.streams));
            assert_eq!(log, model, "seed {seed}: before the crash");
        }
        disk.clear_faults();
        let under_way = model.ends.len() > acknowledged;
        // Power first, then the process: a dying process must not tidy up.
        if model.chance.below(5) > 0 {
            disk.crash(&mut model.chance.clone());
            model.chance.next_u64();
        }
        bench = bench.reopen();
        let context = format!("seed {seed}, crash {round}");
        assert_eq!(bench.report.damaged, [], "{context}");
        assert_eq!(bench.report.lost, None, "{context}");
        let before = model.base.len();
        let least = acknowledged.checked_sub(1).map_or(0, |last| model.ends[last]);
        model.check_after_crash(&bench, acknowledged, &context);
        if under_way {
            *(if model.base.len() - before > least { &mut kept } else { &mut dropped }) += 1;
        }
    }
    // And the log still works.
    bench.settle();
    model.submit(&bench);
    bench.settle();
    let bench = bench.reopen();
    assert_eq!(seen(&bench.log, &model.streams), seen(&model.now, &model.streams), "seed {seed}: in the end");
    (kept, dropped)
}

#[test]
fn whatever_a_crash_leaves_is_what_was_acknowledged_and_perhaps_more() {
    let (mut kept, mut dropped) = (0, 0);
    for seed in 0..SEEDS {
        let outcome = run(seed);
        kept += outcome.0;
        dropped += outcome.1;
    }
    assert!(kept > 10 && dropped > 10, "the crashes hit nothing: {kept} kept, {dropped} dropped");
}

#[test]
fn a_crash_at_every_step_of_opening_a_crashed_log_loses_nothing() {
    // Opening writes too (it makes the tail durable, removes half-made files), so it is cut short at each of its calls.
    let mut failed = 0;
    for cut in 1..60 {
        let (disk, mut bench) = Bench::in_memory();
        bench.put(vec![filler(A, 1, 150, 500), vote(A, "v")]);
        bench.submit(1, vec![filler(A, 151, 5, 2000)]).unwrap();
        bench.committer.step();
        let Bench { disk: shared, config, committer, .. } = bench;
        disk.crash(&mut SeededChance::new(cut));
        drop(committer);
        let calls = [DiskCall::Read, DiskCall::Write, DiskCall::Sync, DiskCall::Remove, DiskCall::SyncDir];
        for call in calls {
            disk.fail_nth(call, 1 + cut / 5);
        }
        let opened = Bench::try_open(shared.clone(), config.clone());
        failed += u32::from(opened.is_err());
        if let Err(error) = &opened {
            assert!(matches!(error, StorageError::Io { .. }), "{error}");
        }
        drop(opened);
        disk.crash(&mut SeededChance::new(cut + 1000));
        disk.clear_faults();
        let bench = Bench::open(shared, config);
        assert_eq!((bench.report.damaged.len(), bench.report.lost.clone()), (0, None));
        let held = bench.held(A).len();
        assert!((150..=155).contains(&held), "{held} entries");
        assert_eq!(bench.log.state(A).unwrap().vote.unwrap(), "v");
    }
    assert!(failed > 20, "only {failed} attempts were cut short");
}
