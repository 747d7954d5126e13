//! A fleet's ring, as its users see it.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_node::api::types::{GroupView, NodeState, ReplicaRole, RingView};

use crate::Fleet;
use crate::fleet::Site;
use crate::http::Http;
use crate::peer::{Peer, PeerSpec, Start};
use crate::wait::eventually_value;

/// How long groups may take to be where they should be, on a machine busy with other tests.
pub const MOVE_TIMEOUT: Duration = Duration::from_secs(90);
/// How long after the last request groups may take to come to rest.
const REST_TIMEOUT: Duration = Duration::from_secs(30);

impl Fleet {
    /// Starts a fleet whose ring has so many groups and replicas of each, and waits until every replica is in place.
    #[track_caller]
    pub fn with_ring(count: u8, label: &str, groups: u32, replication: u32) -> Self {
        let site = Site::new(label);
        let (groups, replication) = (groups.to_string(), replication.to_string());
        let spec = site.spec(1).with(["--groups", &groups, "--replication", &replication]);
        let mut first = spec.start(&Start::Init);
        // It runs again without what only `init` takes.
        first.spec.extra.clear();
        let token = first.token();
        let mut fleet = Self { peers: vec![first], site, token };
        for number in 2..=count {
            let spec = fleet.site.spec(number);
            fleet.join(spec);
        }
        fleet.settle();
        fleet.ring_settles();
        fleet
    }

    /// One client a running peer.
    pub fn clients(&self) -> Vec<Http> {
        self.running().map(Peer::http).collect()
    }

    /// Index of a running peer by name.
    #[track_caller]
    pub fn index_of(&self, name: &str) -> usize {
        let found = self.peers.iter().position(|peer| peer.is_running() && peer.name() == name);
        found.unwrap_or_else(|| panic!("{name} is not running"))
    }

    /// Lets peer number `number` join with `args`.
    #[track_caller]
    pub fn join_number(&mut self, number: u8, args: &[&str]) {
        let spec: PeerSpec = self.site.spec(number).with(args.iter().copied());
        self.join(spec);
    }

    /// The ring as some running peer shows it.
    pub fn ring(&self) -> Result<RingView, String> {
        let peer = self.running().next().ok_or("nobody runs")?;
        peer.http().ring().map_err(|error| format!("{}: {error}", peer.name()))
    }

    /// Waits until the ring is settled for exactly the running peers: every group has its replicas on as many of them, none is left to
    /// destroy, and each of them is open.
    #[track_caller]
    pub fn ring_settles(&self) -> RingView {
        let running: BTreeSet<String> = self.running().map(|peer| peer.name().to_owned()).collect();
        let what = format!("the ring to settle on {running:?}");
        let ring = eventually_value(&what, MOVE_TIMEOUT, || {
            let ring = self.ring()?;
            check_settled(&ring, &running)?;
            Ok(ring)
        });
        self.replicas_open();
        ring
    }

    /// Waits until every running peer has its replica of every group open and knows who leads it.
    #[track_caller]
    pub fn replicas_open(&self) {
        for peer in self.running() {
            let what = format!("the replicas of {} to be open", peer.name());
            eventually_value(&what, MOVE_TIMEOUT, || {
                let groups = peer.http().groups().map_err(|error| error.to_string())?.groups;
                let mine = groups.iter().filter(|group| is_member(group, peer.name()));
                let shut: Vec<&str> = mine
                    .filter(|group| !is_open(group))
                    .map(|group| group.placement.group.as_str())
                    .collect();
                if shut.is_empty() { Ok(()) } else { Err(format!("not open: {shut:?}")) }
            });
        }
    }

    /// Waits until every group has a leader and no node leads more than one more than another.
    #[track_caller]
    pub fn leaders_spread(&self) -> RingView {
        eventually_value("leaders to be spread", MOVE_TIMEOUT, || {
            let ring = self.ring()?;
            let leaders = ring.balance.leaders;
            let led: u32 = ring.nodes.iter().map(|node| node.leaders).sum();
            if led == ring.group_count && leaders.max - leaders.min <= 1 {
                return Ok(ring);
            }
            Err(format!("{led} of {} led, {} to {} per node", ring.group_count, leaders.min, leaders.max))
        })
    }

    /// Waits until nothing happens in any group any more, at every running peer.
    #[track_caller]
    pub fn groups_rest(&self) {
        for peer in self.running() {
            let what = format!("the groups of {} to rest", peer.name());
            eventually_value(&what, REST_TIMEOUT, || {
                let groups = peer.http().groups().map_err(|error| error.to_string())?.groups;
                let awake = |group: &&GroupView| group.replica.as_ref().is_some_and(|r| !r.at_rest);
                let awake: Vec<&str> =
                    groups.iter().filter(awake).map(|group| group.placement.group.as_str()).collect();
                if awake.is_empty() { Ok(()) } else { Err(format!("awake: {awake:?}")) }
            });
        }
    }

    /// The terms of the groups at a peer, summed: it goes up with every election.
    pub fn terms(&self, index: usize) -> u64 {
        let groups = self.peers[index].http().groups().expect("a running peer lists its groups").groups;
        groups.iter().filter_map(|group| group.replica.as_ref()).map(|replica| replica.term).sum()
    }
}

fn is_member(group: &GroupView, name: &str) -> bool {
    group.placement.members.iter().any(|member| member == name)
}

fn is_open(group: &GroupView) -> bool {
    let takes_part = |role| matches!(role, ReplicaRole::Leader | ReplicaRole::Follower);
    group.replica.as_ref().is_some_and(|replica| takes_part(replica.role) && replica.fatal.is_none())
}

fn check_settled(ring: &RingView, running: &BTreeSet<String>) -> Result<(), String> {
    if ring.stale || !ring.settled {
        let left = ring.movement.copies_left;
        let changes: Vec<String> = ring
            .groups
            .iter()
            .filter_map(|group| group.change.as_ref().map(|change| format!("{}: {change:?}", group.group)))
            .collect();
        return Err(format!("settled {}, stale {}, {left} to copy: {changes:?}", ring.settled, ring.stale));
    }
    let holders: BTreeSet<String> = ring
        .nodes
        .iter()
        .filter(|node| node.state == NodeState::Alive && node.target > 0)
        .map(|node| node.name.clone())
        .collect();
    if holders != *running {
        return Err(format!("it is spread over {holders:?}"));
    }
    for group in &ring.groups {
        let members: BTreeSet<&String> = group.members.iter().collect();
        if members.len() != ring.replicas as usize || !members.iter().all(|name| running.contains(*name)) {
            return Err(format!("{} is on {:?}", group.group, group.members));
        }
    }
    match ring.nodes.iter().find(|node| node.tombstones > 0) {
        Some(node) => Err(format!("{} has {} replicas to destroy", node.name, node.tombstones)),
        None => Ok(()),
    }
}
