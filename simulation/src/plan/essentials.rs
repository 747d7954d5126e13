//! What every swarm plan has: a crash, and a partition that forces an election.
//!
//! Which host leads is not known to a plan. A partition forces an election if it cuts off the leader, alone, while the others are
//! well: as the first fault of all against the founder, which leads then; or against each host in turn.

use super::dice::Dice;
use super::episodes::{Episode, isolate};
use super::{Fault, HostId, Scheduled};

/// The leader's silence is noticed after 0.4 s, and an election takes less than a second.
const ISOLATION_MIN_MS: u64 = 2_500;
const ISOLATION_MAX_MS: u64 = 8_000;

/// Between the isolation of one host and of the next, so that all of them know each other again.
const BETWEEN_MS: u64 = 3_000;

/// A host that was down or cut off just before may not be well yet.
const CALM_BEFORE_MS: u64 = 5_000;

/// Before its crash, a host that had stopped by itself (its disk was full, a read failed) is started again.
const START_BEFORE_MS: u64 = 3_000;

/// The fewest hosts of which one can be cut off and the others still have a majority.
const HOSTS_MIN: usize = 3;

/// What other episodes have to leave alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Essentials {
    /// When nothing else may stop an election.
    window: Option<Window>,
    crash: Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from_ms: u64,
    to_ms: u64,
}

/// A crash that has to meet a running process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crash {
    host: HostId,
    at_ms: u64,
}

impl Essentials {
    pub(super) fn admits(&self, episode: &Episode) -> bool {
        self.window.is_none_or(|window| window.admits(episode)) && self.crash.admits(episode)
    }
}

impl Window {
    fn admits(&self, episode: &Episode) -> bool {
        !episode.disrupts
            || episode.begin_ms() > self.to_ms
            || (!episode.lasts && episode.end_ms() + CALM_BEFORE_MS < self.from_ms)
    }
}

impl Crash {
    fn admits(&self, episode: &Episode) -> bool {
        let strikes = |fault: &Fault| fault.host() == Some(self.host) && may_end_process(fault);
        !episode.faults.iter().any(|scheduled| strikes(&scheduled.fault))
            || episode.begin_ms() > self.at_ms
            || (!episode.lasts && episode.end_ms() + CALM_BEFORE_MS < self.at_ms)
    }
}

/// Whether the process of the host that it happens to may not run after this; a loss of power of all hosts is a crash itself.
fn may_end_process(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Kill { .. }
            | Fault::PowerLoss { .. }
            | Fault::Stop { .. }
            | Fault::Wipe { .. }
            | Fault::Leave { .. }
            | Fault::Remove { .. }
            | Fault::FullDisk { .. }
            | Fault::FailSync { .. }
            | Fault::FailRead { .. }
            | Fault::Rot { .. }
    )
}

/// The crash and the partition, and what they need for themselves; `hosts` are those there from the beginning.
pub(super) fn draw(seed: u64, hosts: &[HostId], fault_ms: u64) -> (Vec<Episode>, Essentials) {
    let dice = &mut Dice::new(seed, "essentials");
    let mut episodes = Vec::new();
    let mut window = None;
    if hosts.len() >= HOSTS_MIN {
        let each_ms = dice.within(ISOLATION_MIN_MS..=ISOLATION_MAX_MS).min(fault_ms / 3);
        let all_ms = (each_ms + BETWEEN_MS) * hosts.len() as u64;
        // All of them in turn: only if half of the time is left for the rest.
        let in_turn = dice.percent(50) && all_ms * 2 <= fault_ms;
        let order = if in_turn { dice.shuffled(hosts) } else { vec![hosts[0]] };
        let from_ms = if in_turn {
            dice.within(1_000..=fault_ms - all_ms - fault_ms / 10)
        } else {
            dice.within(1_000..=8_000).min(fault_ms / 4)
        };
        let mut faults = Vec::new();
        for (turn, host) in order.iter().enumerate() {
            let at_ms = from_ms + turn as u64 * (each_ms + BETWEEN_MS);
            faults.extend(isolate(&format!("leader-{}", turn + 1), *host, at_ms, at_ms + each_ms));
        }
        let to_ms = faults.last().map_or(from_ms, |last: &Scheduled| last.at_ms);
        // Nothing comes before the only one: it has to meet the founder while that leads.
        window = Some(Window { from_ms: if in_turn { from_ms } else { 0 }, to_ms });
        episodes.push(Episode { faults, lasts: false, disrupts: true });
    }
    let host = dice.pick(hosts);
    let earliest_ms = window.map_or(fault_ms / 10, |window| window.to_ms + 1);
    let at_ms = dice.within(earliest_ms..=earliest_ms.max(fault_ms * 9 / 10));
    let crash = if dice.percent(50) { Fault::Kill { host } } else { Fault::PowerLoss { host, at_call: 0 } };
    let again_ms = at_ms + dice.magnitude(200..=10_000);
    let faults = [
        (at_ms.saturating_sub(START_BEFORE_MS), Fault::Start { host }),
        (at_ms, crash),
        (again_ms, Fault::Start { host }),
    ];
    let faults = faults.map(|(at_ms, fault)| Scheduled { at_ms, fault }).into();
    episodes.push(Episode { faults, lasts: false, disrupts: true });
    (episodes, Essentials { window, crash: Crash { host, at_ms } })
}
