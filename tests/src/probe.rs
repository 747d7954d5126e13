//! The client that watches a fleet through a failure, and the judge of what it saw.
//!
//! The client is a process of its own (`longshore-probe`), so that nothing of the test slows it down. Every 100 ms it starts a
//! change, whatever became of the ones before: a label of one node set to the change's number. Changes take turns over
//! [`SLOTS`] labels, and a change gives up before its slot's next turn, so that at most one is under way for a label. Beside
//! that it submits operations, each under an idempotency key and repeated until acknowledged.
//!
//! The judge ([`Record`]) knows what the answers promise: acknowledged means there, once; refused means never there; for the
//! rest either may hold.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use longshore_node::api::types::{Action, OperationRequest, OperationView, Strategy};
use serde::{Deserialize, Serialize};

/// Labels that changes take turns on.
pub const SLOTS: u64 = 16;
/// Between the starts of two changes.
pub const EVERY: Duration = Duration::from_millis(100);
/// A change is given up after this; shorter than a slot's turn of `SLOTS * EVERY`.
pub const GIVE_UP: Duration = Duration::from_millis(1500);
/// Between the starts of two operations.
pub const OPERATION_EVERY: Duration = Duration::from_millis(500);

/// What a client knows after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Acknowledged,
    /// The fleet says that nothing was done.
    Refused,
    Unknown,
}

/// One attempt to change something.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts changes, and operations, from 0.
    pub number: u64,
    /// The operation's id, for an acknowledged operation.
    pub operation: Option<String>,
    pub kind: Kind,
    /// [`now_us`] when it was sent and when its outcome was known.
    pub sent_us: u64,
    pub ended_us: u64,
    pub outcome: Outcome,
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Label,
    Operation,
}

/// The machine's monotonic clock in microseconds: the same for all processes.
pub fn now_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

pub fn label_key(number: u64) -> String {
    format!("probe-{}", number % SLOTS)
}

/// The image of operation `number`: it does not exist, and tells which operation is meant.
pub fn operation_image(run: &str, number: u64) -> String {
    format!("probe.invalid/{run}:{number}")
}

pub fn operation_key(run: &str, number: u64) -> String {
    format!("probe-{run}-{number}")
}

pub fn operation_request(run: &str, number: u64, node: &str) -> OperationRequest {
    let action = Action::Pull { images: vec![operation_image(run, number)] };
    OperationRequest {
        on: vec![node.to_owned()],
        timeout_ms: Some(10_000),
        ..OperationRequest::new(action, Strategy::Local)
    }
}

/// All attempts of a client.
#[derive(Debug, Clone, Default)]
pub struct Record(pub Vec<Attempt>);

impl Record {
    /// Reads the client's output, one attempt a line. A last line cut short is left out.
    pub fn parse(text: &str) -> Self {
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let attempts = whole.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in the probe's line {line}"))
        });
        Self(attempts.collect())
    }

    fn labels(&self) -> impl Iterator<Item = &Attempt> {
        self.0.iter().filter(|attempt| attempt.kind == Kind::Label)
    }

    pub fn operations(&self) -> impl Iterator<Item = &Attempt> {
        self.0.iter().filter(|attempt| attempt.kind == Kind::Operation)
    }

    /// When changes were acknowledged, in order.
    pub fn acknowledged_us(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self
            .labels()
            .filter(|attempt| attempt.outcome == Outcome::Acknowledged)
            .map(|attempt| attempt.ended_us)
            .collect();
        times.sort_unstable();
        times
    }

    /// The longest time between two acknowledged changes of which the second came at or after `since_us`.
    /// `None` unless one was acknowledged before and one after.
    pub fn largest_gap(&self, since_us: u64) -> Option<Duration> {
        let times = self.acknowledged_us();
        times
            .windows(2)
            .filter(|pair| pair[1] >= since_us)
            .map(|pair| Duration::from_micros(pair[1] - pair[0]))
            .max()
            .filter(|_| times.first().is_some_and(|first| *first < since_us))
    }

    /// What is wrong with the labels that are there in the end; empty when nothing is.
    ///
    /// A label must hold the last change that was acknowledged for it. A change of unknown outcome may have come
    /// after that. Anything else was lost, or applied again, or applied though refused.
    pub fn wrong_labels(&self, labels: &BTreeMap<String, String>) -> Vec<String> {
        let mut wrong = Vec::new();
        for slot in 0..SLOTS {
            let of_slot = || self.labels().filter(move |attempt| attempt.number % SLOTS == slot);
            let last_acknowledged = of_slot()
                .filter(|attempt| attempt.outcome == Outcome::Acknowledged)
                .map(|attempt| attempt.number)
                .max();
            let key = label_key(slot);
            let held: Option<u64> = match labels.get(&key).map(|value| value.parse()) {
                None => None,
                Some(Ok(number)) => Some(number),
                Some(Err(_)) => {
                    wrong.push(format!("{key} holds {:?}, which nobody wrote", labels[&key]));
                    continue;
                }
            };
            if held == last_acknowledged {
                continue;
            }
            let by_unknown = held.is_some_and(|held| {
                of_slot().any(|attempt| attempt.number == held && attempt.outcome == Outcome::Unknown)
            });
            if !by_unknown {
                wrong.push(format!(
                    "{key} holds change {held:?}, and {last_acknowledged:?} was acknowledged last"
                ));
            }
        }
        wrong
    }

    /// What is wrong with the operations that are there in the end, all of them given; empty when nothing is.
    pub fn wrong_operations(&self, run: &str, operations: &[OperationView]) -> Vec<String> {
        let mut by_image: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for operation in operations {
            for image in &operation.images {
                by_image.entry(image).or_default().push(&operation.id);
            }
        }
        let mut wrong = Vec::new();
        for attempt in self.operations() {
            let image = operation_image(run, attempt.number);
            let there = by_image.get(image.as_str()).map_or(&[][..], Vec::as_slice);
            if there.len() > 1 {
                wrong.push(format!("operation {} is there {} times: {there:?}", attempt.number, there.len()));
            }
            if let Some(id) = &attempt.operation
                && there != [id.as_str()]
            {
                wrong.push(format!(
                    "operation {} was acknowledged as {id}, there is {there:?}",
                    attempt.number
                ));
            }
        }
        wrong
    }

    /// Counts by outcome, for people.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for kind in [Kind::Label, Kind::Operation] {
            let of = |outcome| {
                self.0.iter().filter(|attempt| attempt.kind == kind && attempt.outcome == outcome).count()
            };
            let _ = write!(
                text,
                "{}{kind:?}: {} acknowledged, {} refused, {} unknown",
                if text.is_empty() { "" } else { "; " },
                of(Outcome::Acknowledged),
                of(Outcome::Refused),
                of(Outcome::Unknown)
            );
        }
        text
    }
}

/// The value below which `percent` of the sorted values lie (nearest rank).
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    assert!(!sorted.is_empty() && percent <= 100, "a percentile of something");
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(number: u64, ended_ms: u64, outcome: Outcome) -> Attempt {
        Attempt {
            number,
            operation: None,
            kind: Kind::Label,
            sent_us: ended_ms * 1000,
            ended_us: ended_ms * 1000,
            outcome,
            detail: String::new(),
        }
    }

    fn held(slot: u64, value: u64) -> BTreeMap<String, String> {
        [(label_key(slot), value.to_string())].into()
    }

    #[test]
    fn the_gap_spans_the_failure() {
        use Outcome::*;
        let record = Record(vec![
            label(0, 0, Acknowledged),
            label(1, 3000, Acknowledged),
            label(2, 3100, Acknowledged),
            label(3, 3200, Refused),
            label(4, 3700, Acknowledged),
            label(5, 3800, Acknowledged),
        ]);
        assert_eq!(record.largest_gap(3_150_000), Some(Duration::from_millis(600)));
        assert_eq!(record.largest_gap(9_000_000), None, "nothing was acknowledged after");
        assert_eq!(Record(record.0[4..].to_vec()).largest_gap(3_150_000), None, "nor before");
    }

    #[test]
    fn labels_are_judged_by_what_was_promised() {
        use Outcome::*;
        let record = |outcome| {
            Record(vec![label(0, 0, Acknowledged), label(16, 1, outcome), label(32, 2, Acknowledged)])
        };
        for outcome in [Acknowledged, Refused, Unknown] {
            assert_eq!(record(outcome).wrong_labels(&held(0, 32)), Vec::<String>::new());
            assert_eq!(record(outcome).wrong_labels(&held(0, 0)).len(), 1, "change 0 was applied again");
            assert_eq!(record(outcome).wrong_labels(&BTreeMap::new()).len(), 1, "change 32 was lost");
            assert_eq!(record(outcome).wrong_labels(&held(0, 48)).len(), 1, "nobody wrote 48");
        }
        assert_eq!(record(Unknown).wrong_labels(&held(0, 16)), Vec::<String>::new(), "16 may come late");
        assert_eq!(record(Refused).wrong_labels(&held(0, 16)).len(), 1, "16 was refused");
    }

    #[test]
    fn operations_must_be_there_once() {
        let view = |id: &str, number| OperationView {
            id: id.to_owned(),
            session: "s".to_owned(),
            kind: "pull".to_owned(),
            state: longshore_node::api::types::OperationState::Failed,
            strategy: Strategy::Local,
            containers: Vec::new(),
            images: vec![operation_image("r", number)],
            build: None,
            submitted_by: String::new(),
            submitted_at_ms: 0,
            retry_of: None,
            cancelled_by: None,
            left_out: Vec::new(),
            ended_at_ms: None,
            sub_operations: Vec::new(),
        };
        let mut acknowledged = label(7, 0, Outcome::Acknowledged);
        (acknowledged.kind, acknowledged.operation) = (Kind::Operation, Some("a".to_owned()));
        let record = Record(vec![acknowledged]);
        assert!(record.wrong_operations("r", &[view("a", 7), view("b", 8)]).is_empty());
        assert_eq!(record.wrong_operations("r", &[view("b", 8)]).len(), 1, "lost");
        assert!(!record.wrong_operations("r", &[view("a", 7), view("b", 7)]).is_empty(), "twice");
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<Duration> = (1..=20).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Duration::from_millis(10));
        assert_eq!(percentile(&values, 100), Duration::from_millis(20));
        assert_eq!(percentile(&values[..1], 50), Duration::from_millis(1));
    }
}
