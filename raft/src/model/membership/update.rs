//! What operators change about a node: its labels, its weight and place whatever it announces, its availability.
//!
//! Invariant: a change is made whole or not at all.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::{Availability, AvailabilityOrder, Membership, MembershipError, NodeRecord, check_labels};
use crate::model::ids::NodeId;

/// Most of a node's weight: it is MiB of memory by default, and more would be a mistake.
pub const WEIGHT_MAX: u32 = 1 << 30;
/// Most bytes of a zone's name, and of a region's.
pub const PLACE_BYTES_MAX: usize = 63;

/// What an operator wants instead of what a node announces of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Override<T> {
    Set(T),
    /// What the node announces counts again.
    Announced,
}

/// What counts instead of what the node announces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Overrides {
    pub weight: Option<u32>,
    pub zone: Option<String>,
    pub region: Option<String>,
}

/// A change of one node, by an operator. `None`: stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct NodeChange {
    /// Added after the others were removed.
    pub label_add: BTreeMap<String, String>,
    pub label_rm: Vec<String>,
    pub weight: Option<Override<u32>>,
    pub zone: Option<Override<String>>,
    pub region: Option<Override<String>>,
    pub availability: Option<AvailabilityOrder>,
}

impl NodeRecord {
    /// Its share of the ring: the operator's word, or its own.
    pub fn weight(&self) -> u32 {
        self.overrides.weight.unwrap_or(self.profile.weight)
    }

    /// What fails together with it: the operator's word, or its own.
    pub fn zone(&self) -> Option<&str> {
        self.overrides.zone.as_deref().or(self.profile.zone.as_deref())
    }

    /// Where it is: the operator's word, or its own.
    pub fn region(&self) -> Option<&str> {
        self.overrides.region.as_deref().or(self.profile.region.as_deref())
    }
}

fn check_place(what: &str, place: Option<&Override<String>>) -> Result<(), MembershipError> {
    match place {
        Some(Override::Set(place)) if place.is_empty() || place.len() > PLACE_BYTES_MAX => {
            Err(MembershipError::Update(format!("a {what} has 1 to {PLACE_BYTES_MAX} bytes")))
        }
        _ => Ok(()),
    }
}

fn put<T>(kept: &mut Option<T>, wanted: Option<Override<T>>) {
    match wanted {
        Some(Override::Set(value)) => *kept = Some(value),
        Some(Override::Announced) => *kept = None,
        None => {}
    }
}

impl Membership {
    /// Changes a member.
    ///
    /// # Errors
    /// [`MembershipError::UnknownNode`], [`MembershipError::NotAMember`], [`MembershipError::Labels`], [`MembershipError::Update`], and
    /// [`MembershipError::LastAvailable`] if nobody would be left to take new work.
    pub fn update(&mut self, id: NodeId, change: NodeChange) -> Result<&NodeRecord, MembershipError> {
        let NodeChange { label_add, label_rm, weight, zone, region, availability } = change;
        let mut labels = self.member_mut(id)?.profile.labels.clone();
        labels.retain(|key, _| !label_rm.contains(key));
        labels.extend(label_add);
        check_labels(&labels)?;
        check_place("zone", zone.as_ref())?;
        check_place("region", region.as_ref())?;
        if matches!(weight, Some(Override::Set(weight)) if weight > WEIGHT_MAX) {
            return Err(MembershipError::Update(format!("a weight is at most {WEIGHT_MAX}")));
        }
        if let Some(order) = &availability {
            order.check()?;
            if order.availability != Availability::Active {
                self.check_spared(id)?;
            }
        }
        let node = self.member_mut(id)?;
        node.profile.labels = labels;
        put(&mut node.overrides.weight, weight);
        put(&mut node.overrides.zone, zone);
        put(&mut node.overrides.region, region);
        if let Some(order) = availability {
            order.carry_out(node);
        }
        Ok(&self.nodes[&id])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::profile;
    use super::super::{Announcement, EngineReport, LABEL_BYTES_MAX, LABELS_MAX};
    use super::*;

    fn one() -> (Membership, NodeId) {
        let mut m = Membership::default();
        let id = m.admit([1; 32], profile("a"), 0).unwrap().id;
        (m, id)
    }

    #[test]
    fn labels_are_bounded() {
        let (mut m, id) = one();
        let add = |label_add: BTreeMap<String, String>| NodeChange { label_add, ..NodeChange::default() };
        let many: BTreeMap<_, _> = (0..=LABELS_MAX).map(|i| (format!("k{i}"), String::new())).collect();
        assert!(matches!(m.update(id, add(many)), Err(MembershipError::Labels(_))));
        let long = BTreeMap::from([("k".to_owned(), "v".repeat(LABEL_BYTES_MAX + 1))]);
        assert!(matches!(m.update(id, add(long)), Err(MembershipError::Labels(_))));
        let ok = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        assert_eq!(m.update(id, add(ok)).unwrap().profile.labels["k"], "v");
        let gone = NodeChange { label_rm: vec!["k".into()], ..NodeChange::default() };
        assert!(m.update(id, gone).unwrap().profile.labels.is_empty());
    }

    #[test]
    fn an_operators_word_wins_over_what_the_node_announces_until_it_is_taken_back() {
        let (mut m, id) = one();
        let set = |text: &str| Some(Override::Set(text.to_owned()));
        let change = NodeChange {
            weight: Some(Override::Set(7)),
            zone: set("z1"),
            region: set("north"),
            ..NodeChange::default()
        };
        m.update(id, change).unwrap();
        let here = ([127, 0, 0, 1], 7400).into();
        let (zone, region) = (Some("own".to_owned()), Some("south".to_owned()));
        let (version, engine) = ("0.1.0".into(), EngineReport::Unknown);
        m.announce(id, Announcement { address: here, zone, region, version, weight: 2048, engine }).unwrap();
        let seen = |m: &Membership| {
            let node = m.get(id).unwrap();
            (node.weight(), node.zone().map(str::to_owned), node.region().map(str::to_owned))
        };
        assert_eq!(seen(&m), (7, Some("z1".into()), Some("north".into())));
        let back = NodeChange {
            weight: Some(Override::Announced),
            zone: Some(Override::Announced),
            region: Some(Override::Announced),
            ..NodeChange::default()
        };
        m.update(id, back).unwrap();
        assert_eq!(seen(&m), (2048, Some("own".into()), Some("south".into())));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let (mut m, id) = one();
        let long = "z".repeat(PLACE_BYTES_MAX + 1);
        let set = |text: &str| Some(Override::Set(text.to_owned()));
        for (change, why) in [
            (NodeChange { zone: set(""), ..NodeChange::default() }, "a zone has"),
            (NodeChange { region: set(&long), ..NodeChange::default() }, "a region has"),
            (
                NodeChange { weight: Some(Override::Set(WEIGHT_MAX + 1)), ..NodeChange::default() },
                "a weight is",
            ),
        ] {
            let refused = m.update(id, change).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
        assert!(matches!(m.update(NodeId(9), NodeChange::default()), Err(MembershipError::UnknownNode(_))));
    }
}
