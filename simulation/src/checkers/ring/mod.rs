//! The ring: where groups are, how they move, and that they serve wherever they are.
//!
//! From the ring's record as each node has applied it, from what replicas say of themselves, and from what clients were told. The
//! first four watch every run; the others only those whose clients use keys of the ring.
//!
//! | Checker | Promise |
//! |---|---|
//! | [`Placement`] | an odd number of replicas of each group on as many nodes, none fewer for a death |
//! | [`Moves`] | one replica of a group is replaced at a time |
//! | [`Epochs`] | one owner in each epoch of a group; epochs only grow |
//! | [`Identities`] | a replica id is given out once, and gone when it is gone |
//! | [`Served`] | nobody serves under a superseded epoch |
//! | [`Rest`] | the ring settles; groups at rest lack nothing |
//! | [`Service`] | every group serves after healing, also one that was at rest |
//! | [`Expiry`] | keys with a time to live are gone in time, not early, and for good |
//! | [`Deposed`] | a host that comes back takes no group from a leader that is well |

mod deposed;
mod epochs;
mod expiry;
mod identities;
mod moves;
mod placement;
mod rest;
mod served;
mod service;
#[cfg(test)]
mod tests;

pub use deposed::Deposed;
pub use epochs::Epochs;
pub use expiry::Expiry;
pub use identities::Identities;
pub use moves::Moves;
pub use placement::Placement;
pub use rest::Rest;
pub use served::Served;
pub use service::Service;

use longshore_raft::model::ring::{GroupCount, partition_of};

use crate::observation::{Checker, Key, PlacementView};
use crate::plan::Plan;

/// All that have something to watch under this plan.
pub fn all(plan: &Plan) -> Vec<Box<dyn Checker>> {
    let mut all: Vec<Box<dyn Checker>> = vec![
        Box::new(Placement::new()),
        Box::new(Moves::new()),
        Box::new(Epochs::new()),
        Box::new(Identities::new()),
    ];
    if let Some(groups) = groups_of(plan) {
        all.push(Box::new(Served::new(groups)));
        all.push(Box::new(Rest::new(plan)));
        all.push(Box::new(Service::new(plan, groups)));
        all.push(Box::new(Expiry::new()));
        all.push(Box::new(Deposed::new(plan)));
    }
    all
}

fn groups_of(plan: &Plan) -> Option<GroupCount> {
    plan.fleet.ring.map(|ring| GroupCount::new(ring.groups).expect("plans are checked before they are run"))
}

/// The group that carries a key; none of a label.
fn group_of(groups: GroupCount, key: &Key) -> Option<u32> {
    match key {
        Key::Label { .. } => None,
        Key::Ring { key, .. } => Some(groups.group_of(partition_of(key.as_bytes())).0),
    }
}

/// What the members are when the change under way is over.
fn members_after(placement: &PlacementView) -> std::collections::BTreeMap<u64, u64> {
    let mut after = placement.members.clone();
    after.retain(|replica, _| !placement.removed.contains_key(replica));
    after.extend(&placement.added);
    after
}
