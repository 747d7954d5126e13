//! The failure detector: one verdict a node pair, from heartbeats alone. Pure: time comes in as milliseconds.
//!
//! A peer is suspected when nothing was heard from it for a while, or when it says that it has not heard from us for as
//! long (a link that works one way only is as bad as none: bug class 9 of others). After longer silence it has failed.
//! Invariants: verdicts change only in [`Detector::heard`] and [`Detector::tick`], which report every change once; time
//! that goes back is treated as time that stands still; what happened while *we* were not running is not held against
//! peers: neither their silence, nor that they did not hear us then, which the heartbeats that waited for us still say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::ids::NodeId;

/// Clock samples of which the median is taken: at ten heartbeats a second, a second and a half.
const SKEW_SAMPLES: usize = 15;

/// When silence turns into a verdict; milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DetectorConfig {
    pub suspect_ms: u64,
    pub failed_ms: u64,
    /// A node whose oldest unsynced write is older has a slow disk.
    pub slow_disk_ms: u64,
    /// A gap between two looks at the clock above this is a pause of our own: nobody could be heard.
    pub own_pause_ms: u64,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        Self { suspect_ms: 400, failed_ms: 10_000, slow_disk_ms: 1000, own_pause_ms: 250 }
    }
}

/// How a peer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    Alive,
    Suspect,
    Failed,
}

/// What one heartbeat, or the answer to one, tells of its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// Random for each start of its process.
    pub incarnation: u64,
    /// Age of its oldest write that is not durable.
    pub unsynced_ms: u64,
    /// How long it had not heard from us when it said so.
    pub deaf_ms: u64,
    /// How far its wall clock is ahead of ours; `None` if this was no measurement.
    pub skew_ms: Option<i64>,
}

/// A change of verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    pub node: NodeId,
    pub from: PeerState,
    pub to: PeerState,
}

/// What a sign of life brought to light.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct News {
    pub transition: Option<Transition>,
    /// The process is another than the one last heard.
    pub restarted: bool,
}

#[derive(Debug, Clone)]
struct Peer {
    state: PeerState,
    /// When it was last heard, or first known.
    last_ms: u64,
    /// `None` until it was heard.
    incarnation: Option<u64>,
    /// It told that it had not heard from us for long.
    deaf: bool,
    slow_disk: bool,
    skews: VecDeque<i64>,
}

/// The verdicts of one node about all its peers.
#[derive(Debug, Clone)]
pub struct Detector {
    config: DetectorConfig,
    peers: BTreeMap<NodeId, Peer>,
    /// Latest time seen; never goes back.
    now_ms: u64,
    /// Since when we run without a pause.
    awake_since_ms: u64,
}

impl Detector {
    pub fn new(config: DetectorConfig, now_ms: u64) -> Self {
        assert!(config.suspect_ms < config.failed_ms, "a peer is suspected before it is declared failed");
        Self { config, peers: BTreeMap::new(), now_ms, awake_since_ms: now_ms }
    }

    /// Replaces the peers that are watched. A new one counts as heard now, so that it gets its time.
    pub fn set_peers(&mut self, now_ms: u64, peers: &BTreeSet<NodeId>) {
        let now = self.advance(now_ms);
        self.peers.retain(|node, _| peers.contains(node));
        for &node in peers {
            self.peers.entry(node).or_insert_with(|| Peer {
                state: PeerState::Alive,
                last_ms: now,
                incarnation: None,
                deaf: false,
                slow_disk: false,
                skews: VecDeque::new(),
            });
        }
    }

    /// A heartbeat or an answer came from `node`. Ignored from nodes that are not watched.
    pub fn heard(&mut self, now_ms: u64, node: NodeId, heard: Heard) -> News {
        let now = self.advance(now_ms);
        let (config, awake_ms) = (self.config, now - self.awake_since_ms);
        let Some(peer) = self.peers.get_mut(&node) else { return News::default() };
        peer.last_ms = now;
        let before = peer.incarnation.replace(heard.incarnation);
        // Nobody can have listened in vain for longer than there was something to hear.
        peer.deaf = heard.deaf_ms.min(awake_ms) >= config.suspect_ms;
        peer.slow_disk = heard.unsynced_ms > config.slow_disk_ms;
        if let Some(skew) = heard.skew_ms {
            peer.skews.push_back(skew);
            if peer.skews.len() > SKEW_SAMPLES {
                peer.skews.pop_front();
            }
        }
        let restarted = before.is_some_and(|before| before != heard.incarnation);
        News { transition: peer.judge(node, now, &config), restarted }
    }

    /// Looks at the clock; to be called at [`Detector::next_deadline_ms`] or earlier.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Transition> {
        let now = self.advance(now_ms);
        let config = self.config;
        self.peers.iter_mut().filter_map(|(&node, peer)| peer.judge(node, now, &config)).collect()
    }

    /// When a verdict changes at the earliest, if nothing is heard until then.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.peers.values().filter_map(|peer| peer.next_change_ms(&self.config)).min()
    }

    /// The verdict; nodes that are not watched have failed.
    pub fn state(&self, node: NodeId) -> PeerState {
        self.peers.get(&node).map_or(PeerState::Failed, |peer| peer.state)
    }

    /// Milliseconds since `node` was last heard; `None` if it never was.
    pub fn heard_ms_ago(&self, now_ms: u64, node: NodeId) -> Option<u64> {
        let peer = self.peers.get(&node).filter(|peer| peer.incarnation.is_some())?;
        Some(now_ms.saturating_sub(peer.last_ms))
    }

    /// Milliseconds since `node` was last heard, or first watched: what it is told as our deafness.
    pub fn deaf_to_ms(&self, now_ms: u64, node: NodeId) -> u64 {
        self.peers.get(&node).map_or(0, |peer| now_ms.saturating_sub(peer.last_ms))
    }

    pub fn has_slow_disk(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.slow_disk)
    }

    /// How far `node`'s wall clock is ahead of ours: the median of recent samples.
    pub fn skew_ms(&self, node: NodeId) -> Option<i64> {
        let mut sorted: Vec<i64> = self.peers.get(&node)?.skews.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.keys().copied()
    }

    /// Takes a look at the clock; a gap that no look fell into is a pause of our own, and shifts what was heard.
    fn advance(&mut self, now_ms: u64) -> u64 {
        let now = self.now_ms.max(now_ms);
        let gap = now - self.now_ms;
        if gap > self.config.own_pause_ms {
            for peer in self.peers.values_mut() {
                peer.last_ms = (peer.last_ms + gap).min(now);
            }
            self.awake_since_ms = now;
        }
        self.now_ms = now;
        now
    }
}

impl Peer {
    fn judge(&mut self, node: NodeId, now: u64, config: &DetectorConfig) -> Option<Transition> {
        let silent_ms = now.saturating_sub(self.last_ms);
        let to = if silent_ms >= config.failed_ms {
            PeerState::Failed
        } else if silent_ms >= config.suspect_ms || self.deaf {
            PeerState::Suspect
        } else {
            PeerState::Alive
        };
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then_some(Transition { node, from, to })
    }

    fn next_change_ms(&self, config: &DetectorConfig) -> Option<u64> {
        match self.state {
            PeerState::Alive => Some(self.last_ms.saturating_add(config.suspect_ms)),
            PeerState::Suspect => Some(self.last_ms.saturating_add(config.failed_ms)),
            PeerState::Failed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn watching(peers: &[NodeId]) -> Detector {
        let mut detector = Detector::new(DetectorConfig::default(), 1000);
        detector.set_peers(1000, &peers.iter().copied().collect());
        detector
    }

    /// Ticks every 100 ms from (exclusive) to (inclusive), as the monitor does.
    fn run(detector: &mut Detector, from_ms: u64, to_ms: u64) -> Vec<(u64, NodeId, PeerState)> {
        let ticks = (from_ms..=to_ms).step_by(100).skip(1);
        ticks.flat_map(|now| detector.tick(now).into_iter().map(move |t| (now, t.node, t.to))).collect()
    }

    #[test]
    fn silence_is_suspected_then_failed_and_a_sign_of_life_ends_both() {
        let mut d = watching(&[A, B]);
        d.heard(1100, A, Heard::default());
        assert_eq!(d.next_deadline_ms(), Some(1400), "B was never heard");
        assert_eq!(run(&mut d, 1100, 1600), [(1400, B, PeerState::Suspect), (1500, A, PeerState::Suspect)]);
        let back = d.heard(1650, A, Heard::default());
        let alive = Transition { node: A, from: PeerState::Suspect, to: PeerState::Alive };
        assert_eq!(back, News { transition: Some(alive), restarted: false });
        assert_eq!(run(&mut d, 1600, 2000), []);
        for now in (2000..12_000).step_by(100) {
            d.heard(now, A, Heard::default());
        }
        assert_eq!(d.state(A), PeerState::Alive);
        assert_eq!(run(&mut d, 11_900, 12_000), [(12_000, B, PeerState::Failed)], "silent for 11 s");
        assert_eq!(d.heard_ms_ago(12_000, A), Some(100));
        assert_eq!(d.heard_ms_ago(12_000, B), None);
        assert_eq!(d.state(NodeId(9)), PeerState::Failed, "not watched");
    }

    #[test]
    fn a_peer_that_does_not_hear_us_is_suspected() {
        let mut d = watching(&[A]);
        let mut told = |now, deaf_ms| d.heard(now, A, Heard { deaf_ms, ..Heard::default() }).transition;
        for now in (1100..2000).step_by(100) {
            assert_eq!(told(now, 399), None);
        }
        assert_eq!(told(2000, 400).map(|t| t.to), Some(PeerState::Suspect));
        assert_eq!(told(2100, 20).map(|t| t.to), Some(PeerState::Alive));
    }

    #[test]
    fn heartbeats_that_waited_while_we_slept_do_not_make_their_sender_suspect() {
        let mut d = watching(&[A]);
        for now in (1100..=2000).step_by(100) {
            d.heard(now, A, Heard::default());
        }
        // SIGSTOP for two seconds; then what lay in the socket, and what was on its way. Its sender has not heard us for long.
        for (now, deaf_ms) in [(4000, 400), (4000, 900), (4001, 1900), (4200, 2200), (4399, 2399)] {
            let told = d.heard(now, A, Heard { deaf_ms, ..Heard::default() });
            assert_eq!(told, News::default(), "at {now}, not heard for {deaf_ms}");
        }
        // It goes on, though we are awake: now it is the link.
        let told = d.heard(4400, A, Heard { deaf_ms: 2400, ..Heard::default() });
        assert_eq!(told.transition.map(|t| t.to), Some(PeerState::Suspect));
    }

    #[test]
    fn a_process_that_starts_is_not_told_of_its_predecessors_silence() {
        let mut d = watching(&[A]);
        assert_eq!(d.heard(1100, A, Heard { deaf_ms: 5000, ..Heard::default() }), News::default());
        assert_eq!(d.heard(1200, A, Heard { deaf_ms: 60, ..Heard::default() }), News::default());
    }

    #[test]
    fn a_restart_is_noticed_once() {
        let mut d = watching(&[A]);
        let mut restarted =
            |now, incarnation| d.heard(now, A, Heard { incarnation, ..Heard::default() }).restarted;
        assert!(!restarted(1100, 5), "the first one known");
        assert!(!restarted(1200, 5));
        assert!(restarted(1300, 6));
        assert!(!restarted(1400, 6));
    }

    #[test]
    fn a_pause_of_our_own_is_not_held_against_peers() {
        let mut d = watching(&[A]);
        d.heard(1100, A, Heard::default());
        // SIGSTOP for a minute.
        assert_eq!(d.tick(61_100), []);
        assert_eq!(run(&mut d, 61_100, 61_600), [(61_500, A, PeerState::Suspect)]);
    }

    #[test]
    fn time_that_goes_back_stands_still() {
        let mut d = watching(&[A]);
        d.heard(1200, A, Heard::default());
        assert_eq!(d.tick(500), []);
        assert_eq!(d.heard(600, A, Heard::default()), News::default());
        assert_eq!(d.heard_ms_ago(0, A), Some(0));
        assert_eq!(run(&mut d, 1200, 1600), [(1600, A, PeerState::Suspect)]);
    }

    #[test]
    fn disk_and_clock() {
        let mut d = watching(&[A]);
        for skew in [5, 3_600_000, 7, -4, 6] {
            d.heard(1100, A, Heard { unsynced_ms: 1001, skew_ms: Some(skew), ..Heard::default() });
        }
        assert_eq!(d.skew_ms(A), Some(6), "the outlier does not count");
        assert!(d.has_slow_disk(A));
        d.heard(1200, A, Heard { unsynced_ms: 1000, ..Heard::default() });
        assert!(!d.has_slow_disk(A));
        assert_eq!(d.skew_ms(B), None);
    }

    #[test]
    fn a_peer_that_left_is_forgotten() {
        let mut d = watching(&[A, B]);
        d.set_peers(1100, &BTreeSet::from([B]));
        assert_eq!(d.heard(1200, A, Heard::default()), News::default());
        assert_eq!(run(&mut d, 1200, 1500), [(1400, B, PeerState::Suspect)]);
    }

    proptest! {
        /// Whatever happens, no panic, no verdict without its silence, and every change is reported.
        #[test]
        fn verdicts_follow_reports(steps in proptest::collection::vec((any::<bool>(), 0u64..2000, 0u64..3, any::<i64>()), 1..200)) {
            let mut d = watching(&[A, B]);
            let mut known = BTreeMap::from([(A, PeerState::Alive), (B, PeerState::Alive)]);
            for (hear, now, node, odd) in steps {
                let heard = Heard { incarnation: 1, unsynced_ms: odd as u64, deaf_ms: odd as u64 % 1000, skew_ms: Some(odd) };
                let changes = if hear { d.heard(now, NodeId(node), heard).transition.into_iter().collect() } else { d.tick(now) };
                for change in changes {
                    prop_assert_eq!(known.insert(change.node, change.to), Some(change.from));
                }
                for (&node, &state) in &known {
                    prop_assert_eq!(d.state(node), state);
                }
            }
        }
    }
}
