//! Which nodes an operation's work goes to: hard requirements filter, then shares of the work are weighed.
//!
//! Pure: who is able, and what each has to do already, is the caller's to know. Must never: choose a node that misses a requirement.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use longshore_raft::NodeId;

use super::record::Part;

/// Most requirements of one request, of each kind.
pub const REQUIREMENTS_MAX: usize = 64;
/// Nodes that an error names; the others are counted.
const NAMED_MAX: usize = 8;

/// A label that a node must have: `KEY=VALUE`, or `KEY` with any value.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LabelRequirement {
    pub key: String,
    pub value: Option<String>,
}

impl FromStr for LabelRequirement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        match key.is_empty() {
            true => Err(format!("{text:?} is not a label such as disk=ssd, or disk for any value")),
            false => Ok(Self { key: key.to_owned(), value }),
        }
    }
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// What a node must have to be chosen. The empty one is met by all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Requirements {
    /// All of these.
    pub labels: Vec<LabelRequirement>,
    /// One of these, if there are any.
    pub zones: Vec<String>,
    /// As many processors, and bytes of memory, as its host has at least.
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Of its engine, as Docker spells it: `amd64`, `arm64`.
    pub arch: Option<String>,
}

/// What a node's engine tells of its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub arch: String,
}

/// Where work may go, later too: when its node dies, or is to be emptied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Places {
    /// Only to these, if there are any.
    pub on: Vec<NodeId>,
    pub requirements: Requirements,
}

/// A node, as far as placement cares.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub node: NodeId,
    pub name: String,
    pub zone: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// `None`: its engine has not told.
    pub capacity: Option<Capacity>,
    /// What it can carry, relative to others; 0 counts as 1.
    pub weight: u32,
    /// Parts that it was given and has not ended.
    pub open: u32,
    /// Why it can do no work now, if it can't: `is dead`, `has no Docker engine`.
    pub unable: Option<String>,
}

impl Candidate {
    fn weight(&self) -> u64 {
        u64::from(self.weight.max(1))
    }

    fn has(&self, label: &LabelRequirement) -> bool {
        let value = self.labels.get(&label.key);
        value.is_some_and(|value| label.value.as_ref().is_none_or(|wanted| wanted == value))
    }

    /// What it lacks, if anything.
    fn misses(&self, wanted: &Requirements) -> Option<String> {
        let zone = || wanted.zones.is_empty() || self.zone.as_ref().is_some_and(|z| wanted.zones.contains(z));
        if let Some(label) = wanted.labels.iter().find(|label| !self.has(label)) {
            return Some(match self.labels.get(&label.key) {
                Some(value) => format!("has {}={value}", label.key),
                None => format!("has no label {}", label.key),
            });
        }
        if !zone() {
            return Some(match &self.zone {
                Some(zone) => format!("is in zone {zone}"),
                None => "is in no zone".to_owned(),
            });
        }
        if let Some(why) = &self.unable {
            return Some(why.clone());
        }
        let asks = wanted.cpus > 0 || wanted.memory_bytes > 0 || wanted.arch.is_some();
        match &self.capacity {
            None if asks => Some("has not told what its host has".to_owned()),
            Some(has) if has.cpus < wanted.cpus => Some(format!("has {} processors", has.cpus)),
            Some(has) if has.memory_bytes < wanted.memory_bytes => {
                Some(format!("has {} MiB of memory", has.memory_bytes >> 20))
            }
            Some(has) if wanted.arch.as_ref().is_some_and(|arch| !same_arch(arch, &has.arch)) => {
                Some(format!("is {}", has.arch))
            }
            _ => None,
        }
    }
}

/// Engines tell theirs as Go spells it or as the kernel does.
fn same_arch(a: &str, b: &str) -> bool {
    fn go(arch: &str) -> &str {
        match arch {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            other => other,
        }
    }
    go(a) == go(b)
}

/// Why there is no node, or too few. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("no node of the fleet has the label {0}{known}", known = known(.1))]
    UnknownLabel(LabelRequirement, Vec<String>),
    #[error("no node of the fleet is in zone {0:?}{known}", known = known(.1))]
    UnknownZone(String, Vec<String>),
    #[error("no node can do this: {}", reasons(.0))]
    Nobody(Vec<(String, String)>),
    #[error("{wanted} nodes are asked for, and {able} can do this: {}", reasons(.misses))]
    TooFew { wanted: usize, able: usize, misses: Vec<(String, String)> },
}

fn known(values: &[String]) -> String {
    match values {
        [] => String::new(),
        values => format!("; there are {}", values[..values.len().min(NAMED_MAX)].join(", ")),
    }
}

fn reasons(misses: &[(String, String)]) -> String {
    if misses.is_empty() {
        return "the fleet has no others".to_owned();
    }
    let named: Vec<String> =
        misses.iter().take(NAMED_MAX).map(|(name, why)| format!("{name} {why}")).collect();
    match misses.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Nodes that can do the work now, and why the others can't.
#[derive(Debug)]
pub struct Eligible<'a> {
    able: Vec<&'a Candidate>,
    misses: Vec<(String, String)>,
}

/// Filters by hard requirements. An error if that leaves nobody, or if a requirement names something that no node has: a typing mistake
/// is told as such.
pub fn eligible<'a>(candidates: &'a [Candidate], wanted: &Requirements) -> Result<Eligible<'a>, PlaceError> {
    for label in &wanted.labels {
        if !candidates.iter().any(|c| c.has(label)) {
            let others = candidates
                .iter()
                .filter_map(|c| Some(format!("{}={}", label.key, c.labels.get(&label.key)?)));
            let others: BTreeSet<String> = others.collect();
            return Err(PlaceError::UnknownLabel(label.clone(), others.into_iter().collect()));
        }
    }
    for zone in &wanted.zones {
        if !candidates.iter().any(|c| c.zone.as_ref() == Some(zone)) {
            let zones: BTreeSet<String> = candidates.iter().filter_map(|c| c.zone.clone()).collect();
            return Err(PlaceError::UnknownZone(zone.clone(), zones.into_iter().collect()));
        }
    }
    let (mut able, mut misses) = (Vec::new(), Vec::new());
    for candidate in candidates {
        match candidate.misses(wanted) {
            None => able.push(candidate),
            Some(why) => misses.push((candidate.name.clone(), why)),
        }
    }
    match able.is_empty() {
        true => Err(PlaceError::Nobody(misses)),
        false => Ok(Eligible { able, misses }),
    }
}

impl Eligible<'_> {
    /// All of them, each to do all of the work.
    pub fn all(&self) -> Vec<NodeId> {
        self.able.iter().map(|c| c.node).collect()
    }

    /// `count` of them, each to do all of the work: spread over zones, the least burdened of a zone first. By node, with the reason.
    pub fn choose(&self, count: usize) -> Result<Vec<(NodeId, String)>, PlaceError> {
        if count > self.able.len() {
            let (able, misses) = (self.able.len(), self.misses.clone());
            return Err(PlaceError::TooFew { wanted: count, able, misses });
        }
        let mut left = self.able.clone();
        let mut by_zone: BTreeMap<&Option<String>, u32> = BTreeMap::new();
        let mut chosen = Vec::new();
        while chosen.len() < count {
            let in_zone = |c: &Candidate| by_zone.get(&c.zone).copied().unwrap_or(0);
            let best = (0..left.len()).min_by(|a, b| {
                let (a, b) = (left[*a], left[*b]);
                in_zone(a).cmp(&in_zone(b)).then_with(|| lighter(a, a.open, b, b.open))
            });
            let best = left.swap_remove(best.expect("there are as many as are asked for"));
            *by_zone.entry(&best.zone).or_default() += 1;
            let zone = best.zone.as_ref().map_or(String::new(), |zone| format!(", zone {zone}"));
            chosen.push((best.node, format!("weight {}, {} under way{zone}", best.weight, best.open)));
        }
        chosen.sort_unstable();
        Ok(chosen)
    }

    /// Each of `works` pieces to one of them: next comes whoever is then least burdened for its weight (D'Hondt's method of highest averages),
    /// so that none has more than its share by a whole piece.
    pub fn distribute(&self, works: u32) -> Vec<Part> {
        let mut open: Vec<u32> = self.able.iter().map(|c| c.open).collect();
        let part = |work| {
            let next =
                (0..open.len()).min_by(|a, b| lighter(self.able[*a], open[*a], self.able[*b], open[*b]));
            let next = next.expect("somebody is eligible");
            let why = format!("weight {}, {} under way", self.able[next].weight, open[next]);
            open[next] += 1;
            Part { node: self.able[next].node, work, why: Some(why) }
        };
        (0..works).map(part).collect()
    }

    /// Each of `copies` to one of them, so that the loss of a node or a zone takes as few as can be: next comes whoever has the fewest, of the zone
    /// that has the fewest, and is then least burdened. `there`: how many each has already, of those that are not among `copies`.
    pub fn spread(&self, copies: u32, there: &BTreeMap<NodeId, u32>) -> Vec<Part> {
        let mut has: Vec<u32> = self.able.iter().map(|c| there.get(&c.node).copied().unwrap_or(0)).collect();
        let mut by_zone: BTreeMap<&Option<String>, u32> = BTreeMap::new();
        for (candidate, has) in self.able.iter().zip(&has) {
            *by_zone.entry(&candidate.zone).or_default() += has;
        }
        let part = |work| {
            let next = (0..has.len()).min_by(|a, b| {
                let (first, second) = (self.able[*a], self.able[*b]);
                let in_zone = |c: &Candidate| by_zone.get(&c.zone).copied().unwrap_or(0);
                has[*a]
                    .cmp(&has[*b])
                    .then(in_zone(first).cmp(&in_zone(second)))
                    .then_with(|| lighter(first, first.open + has[*a], second, second.open + has[*b]))
            });
            let next = next.expect("somebody is eligible");
            let of = self.able[next];
            let others = match has[next] {
                0 => "no other copy".to_owned(),
                1 => "1 other copy".to_owned(),
                has => format!("{has} other copies"),
            };
            let zone = of.zone.as_ref().map_or(String::new(), |zone| format!(", zone {zone}"));
            let why = format!("{others}, weight {}, {} under way{zone}", of.weight, of.open);
            has[next] += 1;
            *by_zone.entry(&of.zone).or_default() += 1;
            Part { node: of.node, work, why: Some(why) }
        };
        (0..copies).map(part).collect()
    }

    /// Each of `works` pieces to the next of them in turn, whatever they carry.
    pub fn deal(&self, works: u32) -> Vec<Part> {
        let nodes = self.able.iter().cycle();
        let part =
            |(work, to): (u32, &&Candidate)| Part { node: to.node, work, why: Some("in turn".to_owned()) };
        (0..works).zip(nodes).map(part).collect()
    }
}

/// By what each would carry with one more, relative to its weight; the lower id of two alike.
fn lighter(a: &Candidate, a_open: u32, b: &Candidate, b_open: u32) -> std::cmp::Ordering {
    let with_one_more = |open: u32, of: &Candidate| (u64::from(open) + 1) * of.weight();
    with_one_more(a_open, b).cmp(&with_one_more(b_open, a)).then(a.node.cmp(&b.node))
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
