//! Whether the calls on one register, whose writes all write different values, can have happened one after the other. Exact, online,
//! O(log n) a call.
//!
//! Gibbons and Korach, "Testing Shared Memories" (SIAM J. Comput. 26, 1997), section 4. The calls on one value (its write and the reads
//! that returned it) make a *cluster*. Let `end` be the first completion in it and `start` the last invocation. If
//! `end < start`, the value was certainly in place all the time between: a forward zone. Otherwise the cluster fits at any one
//! point of `start..end`: a backward zone. The history is linearizable if and only if no two forward zones overlap and
//! no backward zone lies within a forward one. That holds the acknowledged floor (an acknowledged write is a backward
//! zone even if nobody read it), monotonic reads, and the obligation that a read creates, all at once.
//!
//! A write whose outcome is not known has an invocation and no completion: it counts as soon as someone read its value.

use std::collections::BTreeMap;

use crate::checkers::calls::Moment;
use crate::observation::{CallId, Serial};

/// What a register holds; `None` before the first write.
pub(crate) type Value = Option<Serial>;

/// The beginning or the end of a call, for the clusters and for telling people of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Edge {
    at: Moment,
    call: Option<CallId>,
    read: bool,
}

impl std::fmt::Display for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(call) = self.call else { return f.write_str("the beginning") };
        let kind = if self.read { "read" } else { "write" };
        write!(f, "{kind} call {call} at {}", self.at)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Under way, or its outcome is unknown.
    Possible,
    Written(Moment),
    Refused(Moment),
}

#[derive(Debug)]
struct Cluster {
    fate: Fate,
    /// Of a read that returned the value, if there was one.
    read: Option<CallId>,
    /// First completion.
    end: Option<Edge>,
    /// Last invocation.
    start: Edge,
}

impl Cluster {
    fn is_forward(&self) -> Option<bool> {
        self.end.map(|end| end.at.step < self.start.at.step)
    }
}

/// One register.
#[derive(Debug)]
pub(crate) struct Register {
    clusters: BTreeMap<Value, Cluster>,
    /// Values by the step at which their forward zone begins. Disjoint.
    forward: BTreeMap<u64, Value>,
    /// Values by the step at which their backward zone ends.
    backward: BTreeMap<u64, Value>,
    acknowledged: Option<Moment>,
    last_read_began: Option<Moment>,
}

fn name(value: Value) -> String {
    value.map_or("\"never written\"".to_owned(), |serial| format!("value {serial}"))
}

impl Register {
    pub(crate) fn new() -> Self {
        let edge = Edge { at: Moment::BEGINNING, call: None, read: false };
        let fate = Fate::Written(Moment::BEGINNING);
        let initial = Cluster { fate, read: None, end: Some(edge), start: edge };
        Self {
            clusters: BTreeMap::from([(None, initial)]),
            forward: BTreeMap::new(),
            backward: BTreeMap::from([(0, None)]),
            acknowledged: None,
            last_read_began: None,
        }
    }

    pub(crate) fn write_began(&mut self, serial: Serial, call: CallId, now: Moment) {
        let start = Edge { at: now, call: Some(call), read: false };
        let cluster = Cluster { fate: Fate::Possible, read: None, end: None, start };
        let earlier = self.clusters.insert(Some(serial), cluster);
        assert!(earlier.is_none(), "serial {serial} was written twice: the workload makes each write unique");
    }

    pub(crate) fn write_acknowledged(
        &mut self,
        serial: Serial,
        call: CallId,
        now: Moment,
    ) -> Result<(), String> {
        self.acknowledged = Some(now);
        let cluster = self.clusters.get_mut(&Some(serial)).expect("completed calls were invoked");
        cluster.fate = Fate::Written(now);
        self.extend(Some(serial), None, Edge { at: now, call: Some(call), read: false })
    }

    pub(crate) fn write_refused(&mut self, serial: Serial, call: CallId, now: Moment) -> Result<(), String> {
        let cluster = self.clusters.get_mut(&Some(serial)).expect("completed calls were invoked");
        cluster.fate = Fate::Refused(now);
        match cluster.read {
            Some(read) => Err(format!(
                "write call {call} of value {serial} was refused at {now}, as certainly not done, but read call {read} had returned that value"
            )),
            None => Ok(()),
        }
    }

    pub(crate) fn read_completed(
        &mut self,
        value: Value,
        call: CallId,
        began: Moment,
        now: Moment,
    ) -> Result<(), String> {
        self.last_read_began = self.last_read_began.max(Some(began));
        let Some(cluster) = self.clusters.get_mut(&value) else {
            return Err(format!(
                "read call {call} returned {} at {now}, which nobody has written",
                name(value)
            ));
        };
        if let Fate::Refused(refused) = cluster.fate {
            let name = name(value);
            return Err(format!(
                "read call {call} returned {name} at {now}, whose write was refused at {refused}, as certainly not done"
            ));
        }
        cluster.read = Some(call);
        let (start, end) = (
            Edge { at: began, call: Some(call), read: true },
            Edge { at: now, call: Some(call), read: true },
        );
        self.extend(value, Some(start), end)
    }

    /// Whether something was acknowledged that no later read has shown to be there at the end.
    pub(crate) fn unconfirmed(&self) -> bool {
        self.acknowledged.is_some_and(|acked| self.last_read_began.is_none_or(|read| read < acked))
    }

    /// One more call on `value`. Calls come in the order of their completions, so `end` counts only if it is the first.
    fn extend(&mut self, value: Value, start: Option<Edge>, end: Edge) -> Result<(), String> {
        let cluster = self.clusters.get_mut(&value).expect("the caller looked it up");
        let was = cluster.is_forward();
        let old_start = cluster.start.at.step;
        let end = *cluster.end.get_or_insert(end);
        if let Some(start) = start.filter(|s| s.at > cluster.start.at) {
            cluster.start = start;
        } else if was.is_some() {
            return Ok(());
        }
        let key = end.at.step;
        if was == Some(false) {
            self.backward.remove(&key);
        }
        if cluster.is_forward() == Some(true) {
            let start = cluster.start.at.step;
            self.check_forward(value, key, old_start.max(key), start)?;
            self.forward.insert(key, value);
        } else {
            self.check_backward(value)?;
            self.backward.insert(key, value);
        }
        Ok(())
    }

    /// The forward zone `begin..upto` of `value`, of which `begin..checked` was looked at before.
    fn check_forward(&self, value: Value, begin: u64, checked: u64, upto: u64) -> Result<(), String> {
        let before = self.forward.range(..begin).next_back().map(|(_, v)| *v);
        let before = before.filter(|v| self.clusters[v].start.at.step > begin);
        let after = self.forward.range(begin + 1..upto).next().map(|(_, v)| *v);
        if let Some(other) = before.or(after) {
            return Err(self.tell_overlap(value, other));
        }
        // Backward zones that end within but began before: calls that were under way at `begin`, one a client at most.
        let mut within = self.backward.range(checked.max(begin + 1)..upto).map(|(_, v)| *v);
        match within.find(|v| self.clusters[v].start.at.step > begin) {
            Some(other) => Err(self.tell_within(value, other)),
            None => Ok(()),
        }
    }

    fn check_backward(&self, value: Value) -> Result<(), String> {
        let cluster = &self.clusters[&value];
        let end = cluster.end.expect("a cluster in a zone has an end").at.step;
        let Some((_, outer)) = self.forward.range(..cluster.start.at.step).next_back() else { return Ok(()) };
        if self.clusters[outer].start.at.step > end {
            return Err(self.tell_within(*outer, value));
        }
        Ok(())
    }

    fn edges(&self, value: Value) -> (Edge, Edge) {
        let cluster = &self.clusters[&value];
        (cluster.end.expect("a cluster in a zone has an end"), cluster.start)
    }

    /// `inner` must have been in place at a moment when `outer` certainly was.
    fn tell_within(&self, outer: Value, inner: Value) -> String {
        let ((first, last), (end, start)) = (self.edges(outer), self.edges(inner));
        let why = match self.clusters[&inner].fate {
            Fate::Written(at) if self.clusters[&inner].read.is_none() => format!("was acknowledged at {at}"),
            _ => "was read".to_owned(),
        };
        format!(
            "{} was in place when {first} ended, and was read again by {last} (began); yet {inner} {why} and took effect in \
             between, after the beginning of {start} and before the end of {end}: a stale read, a lost write, or \
             a write that took effect twice",
            name(outer),
            inner = name(inner),
        )
    }

    /// Both values were certainly in place for a while, and these whiles overlap.
    fn tell_overlap(&self, one: Value, other: Value) -> String {
        let ((end, start), (other_end, other_start)) = (self.edges(one), self.edges(other));
        format!(
            "{} was in place from the end of {end} to the beginning of {start}, but {} from the end of {other_end} to the \
             beginning of {other_start}: two values at once",
            name(one),
            name(other),
        )
    }
}
