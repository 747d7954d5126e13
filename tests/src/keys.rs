//! Writers of keys, one a group, and the judge of what they were told.
//!
//! Each key has one writer, which sets it to 1, 2, 3, ... with compare-and-set on the version that it knows. So the judge knows what may
//! be there: the last value that was acknowledged or read, or one of those after it whose outcome is unknown. Anything else was lost, was
//! applied though refused, or came after something that excludes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use longshore_node::api::types::ErrorCode;
use longshore_raft::model::ring::{GroupCount, partition_of};
use parking_lot::Mutex;

use crate::http::{Http, HttpError};
use crate::probe::now_us;
use crate::wait::{eventually_value, pause};

/// Where the writers' keys are.
pub const NAMESPACE: &str = "writers";
/// Pause of a writer after a refusal.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A key of each group of a ring, in the order of the groups.
pub fn key_of_each_group(groups: u32) -> Vec<String> {
    let count = GroupCount::new(groups).expect("a number of groups that there can be");
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    let mut number = 0_u32;
    while found.len() < groups as usize {
        let key = format!("key-{number}");
        found.entry(count.group_of(partition_of(key.as_bytes())).0).or_insert(key);
        number += 1;
    }
    found.into_values().collect()
}

/// What one writer was told.
#[derive(Debug, Clone, Default)]
pub struct KeyRecord {
    /// When acknowledged writes were sent and when their acknowledgement came, by [`now_us`], in order.
    pub acknowledged_us: Vec<(u64, u64)>,
    /// The last value that was acknowledged or read.
    known: Option<u64>,
    /// Values after it whose outcome is unknown.
    unknown: BTreeSet<u64>,
    /// Refusals and unknown outcomes, by what was said.
    pub errors: BTreeMap<String, u32>,
    /// What must not be.
    pub wrong: Vec<String>,
}

impl KeyRecord {
    /// What is there is what may be there; afterwards it is what must be there.
    fn saw(&mut self, value: Option<u64>) {
        if value != self.known && !value.is_some_and(|value| self.unknown.contains(&value)) {
            self.wrong.push(format!(
                "it holds {value:?}; {:?} was acknowledged or read last, {:?} may have come after it",
                self.known, self.unknown
            ));
        }
        if value != self.known {
            self.known = value;
            // They were to be written at the version that this one superseded.
            self.unknown.clear();
        }
    }

    fn acknowledged(&mut self, value: u64, sent_us: u64) {
        self.acknowledged_us.push((sent_us, now_us()));
        self.known = Some(value);
        self.unknown.clear();
    }

    fn error(&mut self, error: &HttpError) {
        let kind = match error {
            HttpError::Api(_, error) => format!("{:?}", error.code),
            HttpError::Unreachable(_) => "unreachable".to_owned(),
            HttpError::Broken(_) => "broken".to_owned(),
            HttpError::Malformed(_) => "malformed".to_owned(),
        };
        *self.errors.entry(kind).or_default() += 1;
    }

    /// What is known of the key, without how it came about.
    pub fn without_history(self) -> Self {
        Self { acknowledged_us: Vec::new(), errors: BTreeMap::new(), ..self }
    }

    /// The longest time between two acknowledgements.
    pub fn largest_gap(&self) -> Option<Duration> {
        let gaps = self.acknowledged_us.windows(2).map(|pair| pair[1].1 - pair[0].1);
        gaps.max().map(Duration::from_micros)
    }

    /// When the first write was acknowledged that was sent at or after `since_us`.
    pub fn first_acknowledged_since(&self, since_us: u64) -> Option<u64> {
        self.acknowledged_us.iter().find(|(sent_us, _)| *sent_us >= since_us).map(|(_, ended_us)| *ended_us)
    }
}

/// Writers at work until they are stopped.
#[derive(Debug)]
pub struct Writers {
    keys: Vec<String>,
    records: Vec<Arc<Mutex<KeyRecord>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// A writer for each of `keys`, which nobody has written before. They are spread over `nodes`, go on at the next one
    /// after an error, and pause for `pace` after each success.
    pub fn start(keys: &[String], nodes: &[Http], pace: Duration) -> Self {
        Self::resume(keys, vec![KeyRecord::default(); keys.len()], nodes, pace)
    }

    /// Goes on with what earlier writers of the same keys were told.
    pub fn resume(keys: &[String], records: Vec<KeyRecord>, nodes: &[Http], pace: Duration) -> Self {
        assert!(!nodes.is_empty() && keys.len() == records.len(), "a node to ask, and a record a key");
        let stop = Arc::new(AtomicBool::new(false));
        let records: Vec<_> = records.into_iter().map(|record| Arc::new(Mutex::new(record))).collect();
        let threads = keys.iter().zip(&records).enumerate().map(|(index, (key, record))| {
            let writer = Writer {
                key: key.clone(),
                nodes: nodes.to_vec(),
                turn: index,
                record: Arc::clone(record),
                stop: Arc::clone(&stop),
                pace,
            };
            std::thread::spawn(move || writer.run())
        });
        Self { keys: keys.to_vec(), threads: threads.collect(), records, stop }
    }

    /// Waits until a write of every key was acknowledged that was sent at or after `since_us`, and says when the last of them was.
    #[track_caller]
    pub fn all_acknowledged_since(&self, since_us: u64, timeout: Duration) -> u64 {
        eventually_value("a write of every key to be acknowledged", timeout, || {
            let mut last = 0;
            for (key, record) in self.keys.iter().zip(&self.records) {
                let record = record.lock();
                let at = record.first_acknowledged_since(since_us);
                last = last.max(at.ok_or_else(|| format!("{key}: none; errors {:?}", record.errors))?);
            }
            Ok(last)
        })
    }

    /// Ends all writers and gives what they were told, in the order of the keys.
    pub fn finish(mut self) -> Vec<KeyRecord> {
        self.halt();
        self.records.iter().map(|record| record.lock().clone()).collect()
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a writer panicked");
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.halt();
    }
}

struct Writer {
    key: String,
    nodes: Vec<Http>,
    /// Counts on after each error; the node asked is the one whose turn it is.
    turn: usize,
    record: Arc<Mutex<KeyRecord>>,
    stop: Arc<AtomicBool>,
    pace: Duration,
}

impl Writer {
    fn run(mut self) {
        // Of what is there: None if that is not known, and has to be read.
        let mut version: Option<u64> = None;
        let mut fresh = self.record.lock().known.is_none();
        let mut value = self.record.lock().acknowledged_us.len() as u64;
        while !self.stop.load(Ordering::Relaxed) {
            if version.is_none() && !fresh {
                (version, fresh) = self.look();
                continue;
            }
            value = value.max(self.highest()) + 1;
            let condition = version.map_or("absent".to_owned(), |version| format!("version:{version}"));
            let sent_us = now_us();
            match self.node().set_key(NAMESPACE, &self.key, value.to_string(), Some(&condition)) {
                Ok(set) => {
                    self.record.lock().acknowledged(value, sent_us);
                    (version, fresh) = (Some(set.version), false);
                    pause(self.pace);
                }
                Err(error) => {
                    if self.failed(value, &error) {
                        (version, fresh) = (None, false);
                    }
                }
            }
        }
    }

    fn node(&self) -> &Http {
        &self.nodes[self.turn % self.nodes.len()]
    }

    fn highest(&self) -> u64 {
        let record = self.record.lock();
        record.known.into_iter().chain(record.unknown.last().copied()).max().unwrap_or(0)
    }

    /// Notes an error of a write; true if the key has to be read before the next.
    fn failed(&mut self, value: u64, error: &HttpError) -> bool {
        let mut record = self.record.lock();
        record.error(error);
        let look = match error {
            HttpError::Unreachable(_) => false,
            HttpError::Broken(_) => true,
            HttpError::Malformed(_) => {
                record.wrong.push(error.to_string());
                true
            }
            HttpError::Api(_, api) => match api.code {
                ErrorCode::NoQuorum | ErrorCode::Busy => false,
                ErrorCode::OutcomeUnknown => true,
                // An earlier write of unknown outcome was done after all.
                ErrorCode::Conflict if !record.unknown.is_empty() => {
                    drop(record);
                    return true;
                }
                _ => {
                    record.wrong.push(format!("write of {value}: {error}"));
                    true
                }
            },
        };
        if look {
            record.unknown.insert(value);
        }
        drop(record);
        self.turn += 1;
        pause(RETRY_PAUSE);
        look
    }

    /// Reads the key: its version, and whether it is known not to exist.
    fn look(&mut self) -> (Option<u64>, bool) {
        match read(self.node(), &self.key) {
            Ok(found) => {
                self.record.lock().saw(found.map(|(value, _)| value));
                (found.map(|(_, version)| version), found.is_none())
            }
            Err(error) => {
                let mut record = self.record.lock();
                record.error(&error);
                let retryable = match &error {
                    HttpError::Api(_, error) => {
                        use ErrorCode::{Busy, NoQuorum, OutcomeUnknown};
                        matches!(error.code, Busy | NoQuorum | OutcomeUnknown)
                    }
                    HttpError::Malformed(_) => false,
                    HttpError::Unreachable(_) | HttpError::Broken(_) => true,
                };
                if !retryable {
                    record.wrong.push(format!("read: {error}"));
                }
                drop(record);
                self.turn += 1;
                pause(RETRY_PAUSE);
                (None, false)
            }
        }
    }
}

/// Value and version of a writer's key at a node.
fn read(node: &Http, key: &str) -> Result<Option<(u64, u64)>, HttpError> {
    let Some((value, version)) = node.get_key(NAMESPACE, key)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&value).into_owned();
    let value = text.parse().map_err(|_| HttpError::Malformed(format!("{key} holds {text:?}")))?;
    Ok(Some((value, version)))
}

/// What is wrong with the keys as `nodes` read them after the writers have ended; empty when nothing is.
#[track_caller]
pub fn wrong_keys(keys: &[String], records: &mut [KeyRecord], nodes: &[Http]) -> Vec<String> {
    for node in nodes {
        for (key, record) in keys.iter().zip(&mut *records) {
            let found = eventually_value("a key to be read", Duration::from_secs(30), || {
                read(node, key).map_err(|error| format!("{key}: {error}"))
            });
            record.saw(found.map(|(value, _)| value));
        }
    }
    let named = keys.iter().zip(records);
    named.flat_map(|(key, record)| record.wrong.iter().map(move |what| format!("{key}: {what}"))).collect()
}

/// Counts for people: acknowledged writes, errors by kind.
pub fn summary(records: &[KeyRecord]) -> String {
    let acknowledged: usize = records.iter().map(|record| record.acknowledged_us.len()).sum();
    let mut errors: BTreeMap<&str, u32> = BTreeMap::new();
    for (kind, count) in records.iter().flat_map(|record| &record.errors) {
        *errors.entry(kind).or_default() += count;
    }
    let errors: Vec<String> = errors.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let errors = if errors.is_empty() { "no errors".to_owned() } else { errors.join(", ") };
    format!("{acknowledged} writes acknowledged, {errors}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_key_for_each_group() {
        let keys = key_of_each_group(32);
        let count = GroupCount::new(32).expect("32");
        let groups: Vec<u32> =
            keys.iter().map(|key| count.group_of(partition_of(key.as_bytes())).0).collect();
        assert_eq!(groups, (1..=32).collect::<Vec<u32>>());
    }

    #[test]
    fn only_what_may_be_there_is_right() {
        let record = |known, unknown: &[u64]| KeyRecord {
            known,
            unknown: unknown.iter().copied().collect(),
            ..KeyRecord::default()
        };
        for (mut record, seen, right) in [
            (record(None, &[]), None, true),
            (record(Some(4), &[]), Some(4), true),
            (record(Some(4), &[]), Some(3), false),
            (record(Some(4), &[]), None, false),
            (record(Some(4), &[]), Some(5), false),
            (record(Some(4), &[5, 6]), Some(6), true),
            (record(Some(4), &[5, 6]), Some(4), true),
            (record(None, &[1]), Some(1), true),
        ] {
            record.saw(seen);
            assert_eq!(record.wrong.is_empty(), right, "{record:?} saw {seen:?}");
        }
    }

    #[test]
    fn what_was_read_must_stay_and_excludes_the_others() {
        let mut record = KeyRecord { known: Some(4), unknown: [5, 6].into(), ..KeyRecord::default() };
        record.saw(Some(4));
        record.saw(Some(6));
        assert!(record.wrong.is_empty());
        record.saw(Some(5));
        assert_eq!(record.wrong.len(), 1, "5 was to be written at the version that 6 superseded");
    }

    #[test]
    fn gaps_and_first_acknowledgements() {
        let acknowledged_us = vec![(0, 10), (20, 30), (40, 900), (910, 920)];
        let record = KeyRecord { acknowledged_us, ..KeyRecord::default() };
        assert_eq!(record.largest_gap(), Some(Duration::from_micros(870)));
        assert_eq!(record.first_acknowledged_since(25), Some(900));
        assert_eq!(record.first_acknowledged_since(911), None);
    }
}
