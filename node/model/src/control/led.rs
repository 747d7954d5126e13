//! Which node leads which group, as the leaders themselves last said.
//!
//! For listings, for requests that look for the leader, and for evening leadership out. Never more than a hint: an election is over before
//! it is heard of here. Invariant: a later term is never overwritten by an earlier one.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use longshore_raft::{GroupId, NodeId};

/// A node's word that it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Led {
    pub node: NodeId,
    pub term: u64,
    /// Commands a second, roughly.
    pub load: u64,
}

/// What a node says of a group that it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Office {
    pub term: u64,
    /// As in [`Led`].
    pub load: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct LedGroups(BTreeMap<GroupId, Led>);

impl LedGroups {
    /// Takes a node's word for groups that it leads.
    pub fn say(&mut self, node: NodeId, offices: BTreeMap<GroupId, Office>) {
        for (group, Office { term, load }) in offices {
            if self.0.get(&group).is_none_or(|led| led.term <= term) {
                self.0.insert(group, Led { node, term, load });
            }
        }
    }

    pub fn by_group(&self) -> &BTreeMap<GroupId, Led> {
        &self.0
    }

    pub fn leaders(&self) -> BTreeMap<GroupId, NodeId> {
        self.0.iter().map(|(group, led)| (*group, led.node)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_term_stays() {
        let mut led = LedGroups::default();
        let one = |term| BTreeMap::from([(GroupId(1), Office { term, load: 10 * term })]);
        led.say(NodeId(1), one(3));
        led.say(NodeId(2), one(2));
        assert_eq!(led.by_group()[&GroupId(1)], Led { node: NodeId(1), term: 3, load: 30 });
        led.say(NodeId(2), one(4));
        assert_eq!(led.leaders(), BTreeMap::from([(GroupId(1), NodeId(2))]));
    }
}
