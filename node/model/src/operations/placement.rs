//! Which nodes an operation's work goes to: hard requirements filter, then shares of the work are weighed.
//!
//! Who is chosen of those that meet the requirements: nodes in the preferred zone first, then whatever spreads copies over nodes and zones, then the
//! least burden ([`score`]). Pure: who is able, and what each has to do already, is the caller's to know. Must never: choose a node that misses a
//! requirement.

mod requirements;
mod score;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use longshore_raft::NodeId;

use super::load::Load;
use super::record::{LeftOut, Part};
pub use requirements::{
    Capacity, LabelRequirement, Miss, Places, REQUIREMENTS_MAX, Requirements, arch_of_go,
};
pub use score::lot;
use score::{Able, Bid, beyond_the_least};

/// Nodes that an error names; the others are counted.
const NAMED_MAX: usize = 8;

/// A node, as far as placement cares.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub node: NodeId,
    pub name: String,
    pub zone: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// As its engine told last, though it may be away now. `None`: it has not told.
    pub capacity: Option<Capacity>,
    /// `None`: it has not told for a while.
    pub load: Option<Load>,
    /// Which images of the operation its engine has: one for each piece of work, or one that is all the work's, or none if it is not about images.
    pub has: Vec<bool>,
    /// What it can carry, relative to others; 0 counts as 1.
    pub weight: u32,
    /// Parts that it was given and has not ended.
    pub open: u32,
    /// Parts that it was given a moment ago, and that are not among those.
    pub placed: u32,
    /// It is not heard of just now.
    pub is_suspect: bool,
    /// Why it can do no work now, if it can't: `is dead`, `has no Docker engine`.
    pub unable: Option<Miss>,
}

/// Why there is no node, or too few. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error("no node of the fleet has the label {0}{known}", known = known(.1))]
    UnknownLabel(LabelRequirement, Vec<String>),
    #[error("no node of the fleet is in zone {0:?}{known}", known = known(.1))]
    UnknownZone(String, Vec<String>),
    #[error("no node of the fleet has the capability {0:?}{known}", known = known(.1))]
    UnknownCapability(String, Vec<String>),
    #[error("no node can do this: {}", reasons(.0))]
    Nobody(Vec<(String, Miss)>),
    #[error("{wanted} nodes are asked for, and {able} can do this: {}", reasons(.misses))]
    TooFew { wanted: usize, able: usize, misses: Vec<(String, Miss)> },
}

fn known(values: &[String]) -> String {
    let more = match values.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match values {
        [] => String::new(),
        values => format!("; there are {}{more}", values[..values.len().min(NAMED_MAX)].join(", ")),
    }
}

impl PlaceError {
    /// Whether it may be over in a moment, since a node has not told yet, or is away.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::UnknownLabel(..) | Self::UnknownZone(..) | Self::UnknownCapability(..) => false,
            Self::Nobody(misses) | Self::TooFew { misses, .. } => {
                misses.iter().any(|(_, miss)| miss.may_pass())
            }
        }
    }
}

fn reasons(misses: &[(String, Miss)]) -> String {
    if misses.is_empty() {
        return "the fleet has no others".to_owned();
    }
    let named: Vec<String> =
        misses.iter().take(NAMED_MAX).map(|(name, miss)| format!("{name} {}", miss.why())).collect();
    match misses.len().saturating_sub(NAMED_MAX) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// Nodes that can do the work now, and why the others can't.
#[derive(Debug)]
pub struct Eligible<'a> {
    able: Vec<Able<'a>>,
    misses: Vec<(&'a Candidate, Miss)>,
}

/// Filters by hard requirements. An error if that leaves nobody, or if a requirement names something that no node has: a typing mistake
/// is told as such.
pub fn eligible<'a>(candidates: &'a [Candidate], wanted: &Requirements) -> Result<Eligible<'a>, PlaceError> {
    for label in &wanted.labels {
        if !candidates.iter().any(|c| label.is_met_by(&c.labels)) {
            let others = candidates
                .iter()
                .filter_map(|c| Some(format!("{}={}", label.key, c.labels.get(&label.key)?)));
            return Err(PlaceError::UnknownLabel(label.clone(), unique(others)));
        }
    }
    for zone in &wanted.zones {
        check_zone(candidates, zone)?;
    }
    let capabilities = || candidates.iter().filter_map(|c| c.capacity.as_ref()).flat_map(|c| &c.capabilities);
    let unknown = wanted.capabilities.iter().find(|name| !capabilities().any(|known| known == *name));
    // It may be a capability of a node that has not told yet.
    if let Some(unknown) = unknown.filter(|_| !is_untold(candidates, wanted)) {
        return Err(PlaceError::UnknownCapability(unknown.clone(), unique(capabilities().cloned())));
    }
    let (mut able, mut misses) = (Vec::new(), Vec::new());
    for candidate in candidates {
        match candidate.misses(wanted) {
            None => able.push(Able::new(candidate, wanted.preferred_zone.as_ref())),
            Some(miss) => misses.push((candidate, miss)),
        }
    }
    match able.is_empty() {
        true => Err(PlaceError::Nobody(named(&misses))),
        false => Ok(Eligible { able, misses }),
    }
}

fn named(misses: &[(&Candidate, Miss)]) -> Vec<(String, Miss)> {
    misses.iter().map(|(candidate, miss)| (candidate.name.clone(), miss.clone())).collect()
}

/// Whether a node has not told yet whether it meets the requirements, as far as all else is known of it.
pub fn is_untold(candidates: &[Candidate], wanted: &Requirements) -> bool {
    candidates.iter().any(|candidate| matches!(candidate.misses(wanted), Some(Miss::Untold(_))))
}

/// Whether some node is in the preferred zone, dead or alive: one that is in none is a typing mistake. Work that was placed before does not care.
pub fn check_preference(candidates: &[Candidate], wanted: &Requirements) -> Result<(), PlaceError> {
    wanted.preferred_zone.as_ref().map_or(Ok(()), |zone| check_zone(candidates, zone))
}

fn check_zone(candidates: &[Candidate], zone: &String) -> Result<(), PlaceError> {
    match candidates.iter().any(|c| c.zone.as_ref() == Some(zone)) {
        true => Ok(()),
        false => {
            let zones = candidates.iter().filter_map(|c| c.zone.clone());
            Err(PlaceError::UnknownZone(zone.clone(), unique(zones)))
        }
    }
}

fn unique(values: impl Iterator<Item = String>) -> Vec<String> {
    values.collect::<BTreeSet<String>>().into_iter().collect()
}

impl Candidate {
    /// All that it has to do already.
    fn under_way(&self) -> u32 {
        self.open.saturating_add(self.placed)
    }
}

impl<'a> Eligible<'a> {
    /// Of nodes that are alike in all else the lot decides, and not who has the lowest id: many who decide in one moment must not all choose the same.
    /// `lot`: of the operation, the same whenever it is decided about.
    pub fn drawn_by(mut self, lot: u64) -> Self {
        self.able.iter_mut().for_each(|able| able.draw(lot));
        self
    }

    /// Those that would do it as well, were they not away, or if they had told that they can. For what is meant for all.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let passing = self.misses.iter().filter(|(_, miss)| miss.may_pass());
        passing.map(|(node, miss)| LeftOut { node: node.node, why: miss.why().to_owned() }).collect()
    }

    /// All of them, each to do all of the work.
    pub fn all(&self) -> Vec<NodeId> {
        self.able.iter().map(|able| able.candidate.node).collect()
    }

    /// Those in the preferred zone; all of them, if there are none.
    fn preferred(&self) -> Vec<Able<'a>> {
        let preferred: Vec<Able<'a>> = self.able.iter().filter(|able| able.is_preferred).copied().collect();
        if preferred.is_empty() { self.able.clone() } else { preferred }
    }

    /// `count` of them, each to do all of the work: those in the preferred zone first, spread over zones, the least burdened of a zone first. By
    /// node, with the reason.
    pub fn choose(&self, count: usize) -> Result<Vec<(NodeId, String)>, PlaceError> {
        if count > self.able.len() {
            let (able, misses) = (self.able.len(), named(&self.misses));
            return Err(PlaceError::TooFew { wanted: count, able, misses });
        }
        let against = beyond_the_least(self.able.iter().map(Able::against_all));
        let bids = self.able.iter().zip(against);
        let mut left: Vec<Bid<'_>> =
            bids.map(|(able, against)| Bid { able, open: able.candidate.under_way(), against }).collect();
        let mut by_zone: BTreeMap<&Option<String>, u32> = BTreeMap::new();
        let mut chosen = Vec::new();
        while chosen.len() < count {
            let in_zone = |bid: &Bid<'_>| {
                let zone = by_zone.get(&bid.able.candidate.zone).copied().unwrap_or(0);
                (Reverse(bid.able.is_preferred), zone)
            };
            let best = (0..left.len()).min_by(|a, b| {
                let (a, b) = (&left[*a], &left[*b]);
                in_zone(a).cmp(&in_zone(b)).then_with(|| a.cmp(b))
            });
            let Bid { able, open, .. } = left.swap_remove(best.expect("there are as many as are asked for"));
            *by_zone.entry(&able.candidate.zone).or_default() += 1;
            chosen.push((able.candidate.node, format!("{}{}", able.why_all(open), able.in_zone())));
        }
        chosen.sort_unstable();
        Ok(chosen)
    }

    /// Each of `works` pieces to one of them, of those in the preferred zone if there are any: next comes whoever is then least burdened for what it
    /// can carry (D'Hondt's method of highest averages), so that none has more than its share by a whole piece.
    pub fn distribute(&self, works: u32) -> Vec<Part> {
        let able = self.preferred();
        let mut open: Vec<u32> = able.iter().map(|able| able.candidate.under_way()).collect();
        let part = |work| {
            let against = beyond_the_least(able.iter().map(|able| able.against(work)));
            let bid = |at: usize| Bid { able: &able[at], open: open[at], against: against[at] };
            let next = (0..able.len()).min_by(|a, b| bid(*a).cmp(&bid(*b))).expect("somebody is eligible");
            let of = &able[next];
            let zone = if of.is_preferred { of.in_zone() } else { String::new() };
            let why = format!("{}{zone}", of.why(open[next], work));
            open[next] = open[next].saturating_add(1);
            Part { node: of.candidate.node, work, why: Some(why) }
        };
        (0..works).map(part).collect()
    }

    /// Each of `copies` to one of them, so that the loss of a node or a zone takes as few as can be: next comes whoever has the fewest, of those in the
    /// preferred zone if there are any left, else of the zone that has the fewest, and is then least burdened. `there`: how many each has already,
    /// of those that are not among `copies`.
    pub fn spread(&self, copies: u32, there: &BTreeMap<NodeId, u32>) -> Vec<Part> {
        let able = &self.able;
        let mut has: Vec<u32> =
            able.iter().map(|able| there.get(&able.candidate.node).copied().unwrap_or(0)).collect();
        let mut by_zone: BTreeMap<&Option<String>, u32> = BTreeMap::new();
        for (able, has) in able.iter().zip(&has) {
            *by_zone.entry(&able.candidate.zone).or_default() += has;
        }
        // Copies are alike: what speaks against a node is the same for each.
        let against = beyond_the_least(able.iter().map(|able| able.against(0)));
        let part = |work| {
            let bid = |at: usize| {
                let (able, against) = (&able[at], against[at]);
                Bid { able, open: able.candidate.under_way().saturating_add(has[at]), against }
            };
            let rank = |at: usize| {
                let zone = by_zone.get(&able[at].candidate.zone).copied().unwrap_or(0);
                (has[at], Reverse(able[at].is_preferred), zone)
            };
            let next = (0..has.len())
                .min_by(|a, b| rank(*a).cmp(&rank(*b)).then_with(|| bid(*a).cmp(&bid(*b))))
                .expect("somebody is eligible");
            let of = &able[next];
            let others = match has[next] {
                0 => "no other copy".to_owned(),
                1 => "1 other copy".to_owned(),
                has => format!("{has} other copies"),
            };
            let why = format!("{others}, {}{}", of.why(of.candidate.under_way(), 0), of.in_zone());
            has[next] += 1;
            *by_zone.entry(&of.candidate.zone).or_default() += 1;
            Part { node: of.candidate.node, work, why: Some(why) }
        };
        (0..copies).map(part).collect()
    }

    /// Each of `works` pieces to the next of them in turn, of those in the preferred zone if there are any, whatever they carry.
    pub fn deal(&self, works: u32) -> Vec<Part> {
        let able = self.preferred();
        let nodes = able.iter().map(|able| able.candidate.node).cycle();
        let part = |(work, node): (u32, NodeId)| Part { node, work, why: Some("in turn".to_owned()) };
        (0..works).zip(nodes).map(part).collect()
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
