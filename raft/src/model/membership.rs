//! Who is in the fleet: node records, their names, addresses and standing. Part of the control group's state.
//!
//! Invariants: a node id and a replica id are given out once and never again; names of nodes that have not left are unique;
//! a node that was removed stays on record (as a tombstone), so that its certificate is refused for ever. Must never:
//! judge who is alive, which no two nodes see alike (that is the detector's business and is not replicated).

mod availability;
mod engine;
mod update;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bincode::{Decode, Encode};

use super::ids::{NodeId, ReplicaId};
pub use availability::{Availability, AvailabilityNote, AvailabilityOrder, MESSAGE_BYTES_MAX};
pub use engine::{CAPABILITIES_MAX, CAPABILITY_BYTES_MAX, EngineFacts, EngineReport};
pub use update::{NodeChange, Override, Overrides, PLACE_BYTES_MAX, WEIGHT_MAX};

/// Most nodes on record, removed ones included. A record is about 300 bytes, and the whole table is in every snapshot.
pub const NODES_MAX: usize = 10_000;
/// Most labels of one node.
pub const LABELS_MAX: usize = 64;
/// Most bytes of a label's key, and of its value.
pub const LABEL_BYTES_MAX: usize = 253;
/// Most bytes of a node's name: a DNS label (RFC 1035, section 2.3.1).
pub const NAME_BYTES_MAX: usize = 63;

/// Whether a node takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Standing {
    /// A full member.
    Active,
    /// Has asked to leave: gets no new work and no vote; still replicates.
    Leaving,
    /// Gone for ever, by its own wish.
    Left,
    /// Gone for ever, removed by an operator.
    Removed,
}

impl Standing {
    pub fn is_member(self) -> bool {
        matches!(self, Self::Active | Self::Leaving)
    }
}

/// What a node says of itself when it joins, and again when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NodeProfile {
    pub name: String,
    /// Where peers reach it: a hint, never an identity.
    pub address: SocketAddr,
    /// What fails together with it.
    pub zone: Option<String>,
    /// Where it is; told to people.
    pub region: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Version of the `longshore` it runs.
    pub version: String,
    /// Its share of the ring relative to the others', usually MiB of memory; 0: it holds no group.
    pub weight: u32,
}

/// What a node says of itself again and again; see [`NodeProfile`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Announcement {
    pub address: SocketAddr,
    pub zone: Option<String>,
    pub region: Option<String>,
    pub version: String,
    pub weight: u32,
    pub engine: EngineReport,
}

/// One node, for ever on record.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NodeRecord {
    pub id: NodeId,
    /// Its copy of the control group.
    pub replica: ReplicaId,
    /// blake3 of its public key; a retried join with the same key is the same node.
    pub key_hash: [u8; 32],
    /// Its own word; see [`NodeRecord::weight`], [`NodeRecord::zone`] and [`NodeRecord::region`] for what counts.
    pub profile: NodeProfile,
    pub overrides: Overrides,
    pub engine: EngineReport,
    /// What an engine told that is away now; see [`NodeRecord::engine_facts`].
    pub engine_before: Option<EngineFacts>,
    pub standing: Standing,
    pub availability: Availability,
    /// Of the last order about its availability.
    pub availability_note: Option<AvailabilityNote>,
    /// Wall clock of the node that took the join, for people only.
    pub joined_unix_ms: u64,
}

/// Why a change of membership was refused. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum MembershipError {
    #[error("the name {0:?} is taken by another node of the fleet")]
    NameTaken(String),
    #[error(
        "{0:?} is not a valid name: 1 to 63 of a-z, 0-9 and '-', starting and ending with a letter or digit"
    )]
    NameInvalid(String),
    #[error("there is no node {0:?}")]
    UnknownNode(String),
    #[error("node {0} is no longer in the fleet")]
    NotAMember(String),
    #[error("this key belongs to node {0}, which is no longer in the fleet")]
    KeyRetired(String),
    #[error("the fleet has {0} nodes on record, the most it can have")]
    Full(usize),
    #[error("a node can have {LABELS_MAX} labels of {LABEL_BYTES_MAX} bytes at most; {0}")]
    Labels(String),
    /// A value that is out of bounds.
    #[error("{0}")]
    Update(String),
    /// Nobody would be left to take new work. Says who there is besides, and what to do.
    #[error("{0}")]
    LastAvailable(String),
}

/// All nodes, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Membership {
    nodes: BTreeMap<NodeId, NodeRecord>,
    /// Highest ids given out so far.
    last_node: u64,
    last_replica: u64,
}

/// Checks a node name by the rule of [`MembershipError::NameInvalid`].
pub fn is_valid_name(name: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (name.bytes().next(), name.bytes().last()) else { return false };
    let shape = name.len() <= NAME_BYTES_MAX
        && alnum(first)
        && alnum(last)
        && name.bytes().all(|b| alnum(b) || b == b'-');
    // Commands take these for the node itself and for ids.
    let digits = name.strip_prefix('n').unwrap_or(name);
    shape && name != "self" && (digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), MembershipError> {
    if labels.len() > LABELS_MAX {
        return Err(MembershipError::Labels(format!("{} were given", labels.len())));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL_BYTES_MAX || value.len() > LABEL_BYTES_MAX {
            return Err(MembershipError::Labels(format!("{key:?} is empty or too long")));
        }
    }
    Ok(())
}

impl Membership {
    /// Admits a node, or finds the one that was admitted with this key before (so that a join can be retried).
    pub fn admit(
        &mut self,
        key_hash: [u8; 32],
        profile: NodeProfile,
        joined_unix_ms: u64,
    ) -> Result<&NodeRecord, MembershipError> {
        if let Some(known) = self.nodes.values().find(|n| n.key_hash == key_hash) {
            let id = known.id;
            if !known.standing.is_member() {
                return Err(MembershipError::KeyRetired(known.profile.name.clone()));
            }
            return Ok(&self.nodes[&id]);
        }
        self.check_name_free(&profile.name)?;
        check_labels(&profile.labels)?;
        if self.nodes.len() >= NODES_MAX {
            return Err(MembershipError::Full(NODES_MAX));
        }
        self.last_node += 1;
        let id = NodeId(self.last_node);
        let record = NodeRecord {
            id,
            replica: self.allocate_replica(),
            key_hash,
            profile,
            overrides: Overrides::default(),
            engine: EngineReport::Unknown,
            engine_before: None,
            standing: Standing::Active,
            availability: Availability::Active,
            availability_note: None,
            joined_unix_ms,
        };
        let previous = self.nodes.insert(id, record);
        assert!(previous.is_none(), "node id {id} was given out twice");
        Ok(&self.nodes[&id])
    }

    /// Gives out a replica id, for a group of the ring. Never given out before, never again.
    pub fn allocate_replica(&mut self) -> ReplicaId {
        self.last_replica += 1;
        ReplicaId(self.last_replica)
    }

    /// Whether a join under this name could succeed.
    pub fn check_name_free(&self, name: &str) -> Result<(), MembershipError> {
        if !is_valid_name(name) {
            return Err(MembershipError::NameInvalid(name.to_owned()));
        }
        match self.members().find(|n| n.profile.name == name) {
            Some(_) => Err(MembershipError::NameTaken(name.to_owned())),
            None => Ok(()),
        }
    }

    /// Takes a node's own word on where it is and what it runs. Name and labels stay what the log made them.
    pub fn announce(&mut self, id: NodeId, said: Announcement) -> Result<(), MembershipError> {
        let Announcement { address, zone, region, version, weight, engine } = said;
        engine.check()?;
        let node = self.member_mut(id)?;
        node.profile.address = address;
        node.profile.zone = zone;
        node.profile.region = region;
        node.profile.version = version;
        node.profile.weight = weight;
        node.take_engine(engine);
        Ok(())
    }

    /// Moves a member's standing on. A node that is gone can not come back.
    pub fn set_standing(&mut self, id: NodeId, standing: Standing) -> Result<(), MembershipError> {
        self.member_mut(id)?.standing = standing;
        Ok(())
    }

    fn member_mut(&mut self, id: NodeId) -> Result<&mut NodeRecord, MembershipError> {
        match self.nodes.get_mut(&id) {
            None => Err(MembershipError::UnknownNode(id.to_string())),
            Some(node) if !node.standing.is_member() => {
                Err(MembershipError::NotAMember(node.profile.name.clone()))
            }
            Some(node) => Ok(node),
        }
    }

    pub fn get(&self, id: NodeId) -> Option<&NodeRecord> {
        self.nodes.get(&id)
    }

    /// The node that holds this replica of the control group.
    pub fn by_replica(&self, replica: ReplicaId) -> Option<&NodeRecord> {
        self.nodes.values().find(|n| n.replica == replica)
    }

    /// Finds a node by name, or by id written `n3` or `3`. Names win; members win over nodes that left.
    pub fn resolve(&self, text: &str) -> Result<&NodeRecord, MembershipError> {
        let by_name = |members: bool| {
            self.nodes.values().rev().find(|n| n.profile.name == text && n.standing.is_member() == members)
        };
        let by_id =
            || text.strip_prefix('n').unwrap_or(text).parse().ok().and_then(|id| self.get(NodeId(id)));
        by_name(true)
            .or_else(by_id)
            .or_else(|| by_name(false))
            .ok_or_else(|| MembershipError::UnknownNode(text.to_owned()))
    }

    /// Every node on record, in order of id.
    pub fn all(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values()
    }

    /// Nodes that have not left.
    pub fn members(&self) -> impl Iterator<Item = &NodeRecord> {
        self.nodes.values().filter(|n| n.standing.is_member())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(super) fn profile(name: &str) -> NodeProfile {
        NodeProfile {
            name: name.into(),
            address: ([127, 0, 0, 1], 7400).into(),
            zone: None,
            region: None,
            labels: BTreeMap::new(),
            version: "0.1.0".into(),
            weight: 1024,
        }
    }

    #[test]
    fn names() {
        for good in ["a", "n", "7a", "node-1", "a--b", "n7-x", &"x".repeat(63)] {
            assert!(is_valid_name(good), "{good:?}");
        }
        for bad in ["", "self", "7", "n7", "-", "-a", "a-", "A", "a.b", "a_b", "é", "a b", &"x".repeat(64)] {
            assert!(!is_valid_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_retried_join_is_the_same_node_and_a_retired_key_is_refused() {
        let mut m = Membership::default();
        let first = m.admit([1; 32], profile("a"), 0).unwrap().id;
        assert_eq!(m.admit([1; 32], profile("a"), 9).unwrap().id, first);
        assert_eq!(m.admit([2; 32], profile("a"), 0), Err(MembershipError::NameTaken("a".into())));
        m.set_standing(first, Standing::Left).unwrap();
        assert_eq!(m.admit([1; 32], profile("a"), 0), Err(MembershipError::KeyRetired("a".into())));
        assert_eq!(m.set_standing(first, Standing::Active), Err(MembershipError::NotAMember("a".into())));
        let again = m.admit([3; 32], profile("a"), 0).unwrap().id;
        assert_ne!(again, first, "a node that comes back is another node");
        assert_eq!(m.resolve("a").unwrap().id, again, "members win over nodes that left");
        assert_eq!(m.resolve("n1").unwrap().id, first);
    }

    #[test]
    fn replicas_of_the_ring_and_of_the_control_group_share_one_sequence() {
        let mut m = Membership::default();
        let first = m.admit([1; 32], profile("a"), 0).unwrap().replica;
        let (second, third) = (m.allocate_replica(), m.allocate_replica());
        let fourth = m.admit([2; 32], profile("b"), 0).unwrap().replica;
        assert_eq!([first, second, third, fourth], [1, 2, 3, 4].map(ReplicaId));
    }

    proptest! {
        /// Whatever joins and leaves happen, ids are never given out twice and living names are unique.
        #[test]
        fn ids_are_never_reused(steps in prop::collection::vec((any::<bool>(), 0u8..8, 0u8..12), 1..80)) {
            let mut m = Membership::default();
            let mut seen = std::collections::BTreeSet::new();
            for (join, name, key) in steps {
                if join {
                    let before = m.all().count();
                    if let Ok(node) = m.admit([key; 32], profile(&format!("host{name}")), 0).cloned()
                        && m.all().count() > before
                    {
                        prop_assert!(seen.insert(node.id), "node id {} reused", node.id);
                    }
                } else if let Ok(id) = m.resolve(&format!("host{name}")).map(|n| n.id) {
                    let _ = m.set_standing(id, Standing::Removed);
                }
                let names: Vec<_> = m.members().map(|n| n.profile.name.clone()).collect();
                let unique: std::collections::BTreeSet<_> = names.iter().collect();
                prop_assert_eq!(unique.len(), names.len());
                let replicas: std::collections::BTreeSet<_> = m.all().map(|n| n.replica).collect();
                prop_assert_eq!(replicas.len(), m.all().count());
            }
        }
    }
}
