//! Several peers that form one fleet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_node::api::types::{NodeRole, NodeState, StatusView};

use crate::address::Subnet;
use crate::peer::{Peer, PeerSpec, Start};
use crate::wait::eventually_value;

/// How long a fleet may take until all its peers agree on who is there, on a machine busy with other tests.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A folder and a network of a test's own. The folder stays when the test fails.
#[derive(Debug)]
pub struct Site {
    dir: Option<tempfile::TempDir>,
    net: Subnet,
}

impl Site {
    /// `label` ends up in the folder's name.
    pub fn new(label: &str) -> Self {
        // Short: a unix socket's path has at most 107 bytes (unix(7)).
        let dir = tempfile::Builder::new()
            .prefix(&format!("longshore-{label}-"))
            .tempdir()
            .expect("a temporary folder can be made");
        Self { dir: Some(dir), net: Subnet::lease() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("there until dropped").path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub fn net(&self) -> &Subnet {
        &self.net
    }

    /// Peer number `number` (from 1): `p<number>` on host `number` of the network.
    pub fn spec(&self, number: u8) -> PeerSpec {
        let name = format!("p{number}");
        let data_dir = self.path(&name);
        PeerSpec::new(name, self.net.host(number), data_dir)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(dir) = self.dir.take()
            && std::thread::panicking()
        {
            eprintln!("--- the test's files are kept in {}", dir.keep().display());
        }
    }
}

/// Peers of one fleet. `peers[i]` is peer number `i + 1`.
#[derive(Debug)]
pub struct Fleet {
    // Before the site: processes end before their folders go.
    pub peers: Vec<Peer>,
    pub site: Site,
    pub token: String,
}

impl Fleet {
    /// Starts `count` peers without engines and waits until the fleet has settled.
    #[track_caller]
    pub fn of(count: u8, label: &str) -> Self {
        Self::with(count, label, |spec| spec)
    }

    /// As [`Fleet::of`]; `change` may change what each peer is started with.
    #[track_caller]
    pub fn with(count: u8, label: &str, change: impl Fn(PeerSpec) -> PeerSpec) -> Self {
        Self::on(Site::new(label), count, change)
    }

    /// As [`Fleet::with`], on a site made before.
    #[track_caller]
    pub fn on(site: Site, count: u8, change: impl Fn(PeerSpec) -> PeerSpec) -> Self {
        assert!(count >= 1, "a fleet has at least one peer");
        let first = change(site.spec(1)).start(&Start::Init);
        let token = first.token();
        let mut fleet = Self { peers: vec![first], site, token };
        for number in 2..=count {
            let spec = change(fleet.site.spec(number));
            fleet.join(spec);
        }
        fleet.settle();
        fleet
    }

    /// Lets one more peer join through the first that runs.
    #[track_caller]
    pub fn join(&mut self, spec: PeerSpec) -> &mut Peer {
        let seeds: Vec<String> =
            self.peers.iter().filter(|peer| peer.is_running()).map(|peer| peer.spec.seed()).collect();
        let peer = spec.start(&Start::Join { token: self.token.clone(), seeds });
        self.peers.push(peer);
        self.peers.last_mut().expect("one was just added")
    }

    pub fn running(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.is_running())
    }

    /// Waits until every running peer sees the same leader and exactly the running peers alive, and as many voters as
    /// such a fleet has.
    #[track_caller]
    pub fn settle(&self) {
        let running = self.running().count();
        self.settle_as(running, Some(voters_of(running)));
    }

    /// As [`Fleet::settle`] with another expectation; voters are not looked at when `None`.
    #[track_caller]
    pub fn settle_as(&self, alive: usize, voters: Option<usize>) {
        let what = format!("all peers to see {alive} alive, one leader, and voters {voters:?}");
        eventually_value(&what, SETTLE_TIMEOUT, || {
            let mut leaders = Vec::new();
            for peer in self.running() {
                let status = peer.http().status().map_err(|error| format!("{}: {error}", peer.name()))?;
                check_settled(&status, alive, voters)?;
                leaders.push(status.leader);
            }
            leaders.dedup();
            if leaders.len() == 1 { Ok(()) } else { Err(format!("different leaders: {leaders:?}")) }
        });
    }

    /// Index of the peer that all running ones take for the leader and that says so itself.
    #[track_caller]
    pub fn leader(&self) -> usize {
        eventually_value("a leader", SETTLE_TIMEOUT, || {
            for (index, peer) in self.peers.iter().enumerate().filter(|(_, peer)| peer.is_running()) {
                let status = peer.http().status().map_err(|error| format!("{}: {error}", peer.name()))?;
                if status.role == NodeRole::Leader {
                    return Ok(index);
                }
            }
            Err("nobody leads".to_owned())
        })
    }

    /// Index of some running peer that does not lead.
    #[track_caller]
    pub fn follower(&self) -> usize {
        let leader = self.leader();
        self.peers
            .iter()
            .enumerate()
            .find(|(index, peer)| *index != leader && peer.is_running())
            .map(|(index, _)| index)
            .expect("the fleet has a running follower")
    }

    /// Waits until `observer` sees `node` in `state`.
    #[track_caller]
    pub fn sees(&self, observer: usize, node: &str, state: NodeState, timeout: Duration) {
        let observer = &self.peers[observer];
        let what = format!("{} to see {node} {state:?}", observer.name());
        eventually_value(&what, timeout, || {
            let seen = observer.http().node(node).map_err(|error| error.to_string())?.state;
            if seen == state { Ok(()) } else { Err(format!("{seen:?}")) }
        });
    }
}

/// Voters of a settled fleet: the largest of 1, 3, 5 that it has nodes for.
pub fn voters_of(nodes: usize) -> usize {
    match nodes {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => 5,
    }
}

fn check_settled(status: &StatusView, alive: usize, voters: Option<usize>) -> Result<(), String> {
    let good = status.nodes_alive as usize == alive
        && voters.is_none_or(|voters| status.voters as usize == voters)
        && status.leader.is_some();
    if good {
        return Ok(());
    }
    Err(format!(
        "{}: {} alive, {} voters, leader {:?}",
        status.name, status.nodes_alive, status.voters, status.leader
    ))
}
