//! What a fleet can be asked to survive. A plan is *fair* if a correct fleet loses nothing that it acknowledged, and works again
//! after the faults.
//!
//! The rule: **at any time, at most a minority of the voters is damaged.** A host is damaged from a fault after which its
//! copy of the log may be gone or given up (it is wiped, its log rots, a sync fails) until it has been repaired and *everything* was calm for
//! [`REPAIR_MS`]: in that time the fleet replaces the failed voter, and the new one catches up. Rot is repaired by wiping the host and starting
//! it, the others by starting it. Being down, paused, cut off, full or slow is no damage, however many hosts it
//! happens to, but it is not calm either. For the groups of the ring a host that is wiped again before that counts once more: it comes back as
//! another node and may have been given a second replica of a group by then, beside the one that was lost.
//!
//! Who votes is not known to a plan, nor whether a leave or a join succeeds. So the rule counts in the way that allows less: hosts that
//! left make the fleet smaller at once, hosts that joined make it larger only after a calm time.

use std::collections::BTreeSet;

use longshore_raft::model::voters::voters_wanted;

use super::{Fault, HostId, Plan, UNUSED_RING};

/// Calm time after which a repaired host counts as whole: a failed voter is replaced after 10 s, and its substitute joins and catches up
/// before that.
pub const REPAIR_MS: u64 = 30_000;

/// A voter that is down for longer is replaced. When others then leave, fewer may vote than there are members, down to one.
const REPLACED_MS: u64 = 10_000;

/// A disk with slower syncs makes a node step aside and lag behind: not calm.
const SLOW_SYNC_US: u64 = 50_000;

/// Whether a correct fleet keeps all promises under this plan.
///
/// # Errors
/// With the rule that is broken, when and by what.
pub fn is_fair(plan: &Plan) -> Result<(), String> {
    let mut fleet = Fleet::new(plan);
    for scheduled in &plan.faults {
        fleet.pass_to(scheduled.at_ms);
        let broken = fleet.apply(&scheduled.fault).and_then(|()| fleet.check());
        broken.map_err(|what| format!("at {} ms, {}: {what}", scheduled.at_ms, scheduled.fault.name()))?;
    }
    fleet.pass_to(plan.fault_ms);
    fleet.check_end(&plan.unhealed).map_err(|what| format!("at the end of the faults: {what}"))
}

/// How many hosts of a fleet may be broken for good without stopping it.
pub fn tolerated(members: usize) -> usize {
    voters_wanted(members).saturating_sub(1) / 2
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Down {
    /// It was asked to stop, and so the end of its log is marked.
    Stopped,
    Killed,
    Wiped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// Only wiping helps.
    Rotten,
    /// Starting it helps.
    Broken,
    /// It runs again; what it lost is not replaced yet.
    Repaired,
}

#[derive(Debug, Clone, Default)]
struct Host {
    /// Counts as a member: it was there from the beginning, or its join has certainly succeeded.
    member: bool,
    /// A late one that has not been started.
    waits: bool,
    down: Option<Down>,
    /// When it went down.
    down_ms: u64,
    /// It was down for so long that it may have no vote, and there was no calm time since.
    absent: bool,
    paused: bool,
    disk_full: bool,
    disk_slow: bool,
    /// Left or was removed, and was not wiped and started since.
    out: bool,
    damage: Option<Damage>,
    /// How often it was wiped since it was whole, or rotted after it was.
    wiped: usize,
    /// It holds nothing of the ring, or has not got anything back for certain.
    weightless: bool,
    weight_zero: bool,
}

impl Host {
    fn is_calm(&self) -> bool {
        self.waits || self.out || (self.down.is_none() && !self.paused && !self.disk_full && !self.disk_slow)
    }
}

/// Replicas of a group of the ring, if clients use it: for keys, or for operations, whose records are there too.
fn replication(plan: &Plan) -> Option<usize> {
    let replication = plan.fleet.ring.map_or(UNUSED_RING.replication, |ring| ring.replication);
    (plan.fleet.ring.is_some() || plan.load.pulls > 0).then_some(usize::from(replication))
}

struct Fleet {
    hosts: Vec<Host>,
    rules: BTreeSet<String>,
    /// See [`replication`].
    replication: Option<usize>,
    /// Since when nothing has been wrong.
    calm_since_ms: Option<u64>,
    now_ms: u64,
}

impl Fleet {
    fn new(plan: &Plan) -> Self {
        let host = |late: bool| Host { member: !late, waits: late, ..Host::default() };
        Self {
            hosts: plan.fleet.hosts.iter().map(|shape| host(shape.late)).collect(),
            rules: BTreeSet::new(),
            replication: replication(plan),
            calm_since_ms: Some(0),
            now_ms: 0,
        }
    }

    fn pass_to(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for host in &mut self.hosts {
            host.absent |= host.down.is_some() && now_ms - host.down_ms > REPLACED_MS;
        }
        if self.calm_since_ms.is_some_and(|since| now_ms - since >= REPAIR_MS) {
            for host in self.hosts.iter_mut().filter(|host| !host.waits && !host.out) {
                host.member = true;
                host.absent = false;
                host.weightless = host.weight_zero;
                if host.damage == Some(Damage::Repaired) {
                    (host.damage, host.wiped) = (None, 0);
                }
            }
        }
    }

    fn apply(&mut self, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::PowerLossAll => {
                let at_ms = self.now_ms;
                self.hosts.iter_mut().for_each(|host| end(host, Down::Killed, at_ms));
            }
            Fault::AddRule { rule } => drop(self.rules.insert(rule.name.clone())),
            Fault::RemoveRule { name } => drop(self.rules.remove(name)),
            Fault::HealNetwork => self.rules.clear(),
            Fault::PauseRing | Fault::ResumeRing | Fault::RebalanceRing => return Ok(()),
            _ => {
                let id = fault.host().expect("the others happen to one host");
                self.apply_to(id, fault)?;
            }
        }
        let calm = self.rules.is_empty() && self.hosts.iter().all(Host::is_calm);
        self.calm_since_ms = calm.then_some(self.now_ms);
        Ok(())
    }

    fn apply_to(&mut self, id: HostId, fault: &Fault) -> Result<(), String> {
        let at_ms = self.now_ms;
        let host = &mut self.hosts[id as usize - 1];
        match fault {
            Fault::Kill { .. } | Fault::PowerLoss { .. } => end(host, Down::Killed, at_ms),
            // A paused process stops when it is resumed, and whether that comes before its death is not known.
            Fault::Stop { .. } => end(host, if host.paused { Down::Killed } else { Down::Stopped }, at_ms),
            Fault::Start { .. } => start(host),
            Fault::Pause { .. } => host.paused = host.down.is_none() && !host.waits,
            Fault::Resume { .. } => host.paused = false,
            Fault::Wipe { .. } => {
                host.wiped += usize::from(host.down != Some(Down::Wiped));
                end(host, Down::Wiped, at_ms);
                host.down = Some(Down::Wiped);
                host.damage = Some(Damage::Broken);
            }
            Fault::Weigh { weight, .. } => {
                host.weight_zero = *weight == 0;
                host.weightless |= host.weight_zero;
            }
            Fault::Leave { .. } | Fault::Remove { .. } => host.out = host.out || !host.waits,
            Fault::SlowDisk { sync, .. } => host.disk_slow = sync.max_us > SLOW_SYNC_US,
            Fault::FullDisk { full, .. } => host.disk_full = *full,
            Fault::FailSync { .. } if host.damage != Some(Damage::Rotten) => {
                host.damage = Some(Damage::Broken)
            }
            Fault::Rot { .. } => {
                // Until the end of the log is marked, rot in its last batch cannot be told from a torn write (ARCHITECTURE.md,
                // "Storage"), and an acknowledged entry would be cut off unnoticed.
                if host.down != Some(Down::Stopped) {
                    return Err(format!(
                        "the log of host {id} rots although the host was not stopped before"
                    ));
                }
                host.wiped += usize::from(host.damage == Some(Damage::Repaired));
                host.damage = Some(Damage::Rotten);
            }
            _ => {}
        }
        Ok(())
    }

    /// A host that left and is damaged counts as a damaged member: it may not have left.
    fn members(&self) -> usize {
        self.hosts.iter().filter(|host| host.member && (!host.out || host.damage.is_some())).count()
    }

    fn check(&self) -> Result<(), String> {
        let out = self.hosts.iter().filter(|host| host.member && host.out).count();
        let all = self.hosts.iter().filter(|host| host.member).count();
        if out * 2 > all {
            return Err(format!("{out} of {all} hosts have left: more than half"));
        }
        let damaged: Vec<HostId> = self.numbered(|host| host.damage.is_some()).collect();
        let absent =
            self.hosts.iter().filter(|h| h.member && h.absent && !h.out && h.damage.is_none()).count();
        // Only together with departures.
        let members = self.members() - if out > 0 { absent } else { 0 };
        self.check_minority(members, &damaged, "damaged")
    }

    fn check_end(&self, unhealed: &[HostId]) -> Result<(), String> {
        if let Some(rotten) = self.numbered(|host| host.damage == Some(Damage::Rotten)).next()
            && !unhealed.contains(&rotten)
        {
            return Err(format!("host {rotten} has rot and is neither wiped nor left unhealed"));
        }
        let damaged = self.numbered(|host| host.damage.is_some());
        let broken: BTreeSet<HostId> = damaged.chain(unhealed.iter().copied()).collect();
        self.check_minority(
            self.members(),
            &broken.into_iter().collect::<Vec<_>>(),
            "damaged or left unhealed",
        )
    }

    fn numbered(&self, is: impl Fn(&Host) -> bool) -> impl Iterator<Item = HostId> {
        self.hosts.iter().zip(1..).filter(move |(host, _)| is(host)).map(|(_, id)| id)
    }

    /// How many of the hosts that hold the replicas of one group it can do without.
    fn tolerated_by_groups(&self) -> usize {
        let Some(replication) = self.replication else { return usize::MAX };
        let holders = self.hosts.iter().filter(|host| host.member && !host.out && !host.weightless).count();
        // With fewer nodes than that, groups have one replica.
        if holders < replication { 0 } else { replication / 2 }
    }

    fn check_minority(&self, members: usize, broken: &[HostId], how: &str) -> Result<(), String> {
        let groups = self.tolerated_by_groups();
        let most = tolerated(members).min(groups);
        if broken.len() > most {
            return Err(format!(
                "hosts {broken:?} are {how}, and a fleet of {members} stands {most} of those at a time"
            ));
        }
        let nodes: usize = broken.iter().map(|id| self.hosts[*id as usize - 1].wiped.max(1)).sum();
        if nodes > groups {
            return Err(format!(
                "hosts {broken:?} are {how}, wiped again before they were whole, and a group stands the loss of {groups}"
            ));
        }
        Ok(())
    }
}

fn end(host: &mut Host, how: Down, at_ms: u64) {
    if !host.waits {
        if host.down.is_none() {
            (host.down, host.down_ms) = (Some(how), at_ms);
        }
        host.paused = false;
    }
}

fn start(host: &mut Host) {
    let wiped = host.down == Some(Down::Wiped);
    if host.out && !wiped {
        // Who left stays out until its folder is emptied.
        return;
    }
    (host.out, host.waits, host.down) = (false, false, None);
    if host.damage == Some(Damage::Broken) {
        host.damage = Some(Damage::Repaired);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::expand::{Options, expand};
    use crate::plan::profile::Profile;
    use crate::plan::{Hosts, Latency, RingPlan, Rule, Scheduled, Verdict};

    const FULL_MS: u64 = 600_000;

    /// A fleet of `hosts` (and `late` more) with faults, each `(at_s, name, host)`.
    fn plan(hosts: usize, late: usize, faults: &[(u64, &str, HostId)]) -> Plan {
        let options =
            Options { profile: Profile::Calm, nodes: Some((hosts + late) as u32), ..Options::default() };
        let mut plan = expand(1, &options);
        plan.fleet.hosts.iter_mut().skip(hosts).for_each(|host| host.late = true);
        plan.fault_ms = FULL_MS;
        // Nothing but the control group.
        plan.load.pulls = 0;
        plan.faults = faults
            .iter()
            .map(|(at_s, name, host)| Scheduled { at_ms: at_s * 1000, fault: fault(name, *host) })
            .collect();
        plan
    }

    fn fault(name: &str, host: HostId) -> Fault {
        let cut = || Rule {
            name: "cut".into(),
            from: Hosts::All,
            to: Hosts::All,
            chance_ppm: 1,
            verdict: Verdict::Drop,
        };
        match name {
            "cut" => Fault::AddRule { rule: cut() },
            "heal" => Fault::HealNetwork,
            "slow" => Fault::SlowDisk { host, sync: Latency::even(1, 100_000) },
            "power" => Fault::PowerLossAll,
            _ => serde_json::from_value(serde_json::json!({ "do": name, "host": host })).unwrap(),
        }
    }

    /// Hosts, late hosts, faults, and what is unfair about it.
    type Case<'a> = (usize, usize, &'a [(u64, &'a str, HostId)], &'a str);

    #[test]
    fn fair_and_unfair() {
        let cases: &[Case<'_>] = &[
            // Without damage anything goes.
            (3, 0, &[(1, "kill", 1), (1, "kill", 2), (1, "kill", 3), (9, "power", 0), (20, "pause", 2)], ""),
            (1, 0, &[(1, "power_loss", 1), (5, "start", 1)], ""),
            // A minority may be damaged.
            (3, 0, &[(1, "wipe", 1), (5, "start", 1)], ""),
            (3, 0, &[(1, "wipe", 1), (5, "fail_sync", 2)], "hosts [1, 2] are damaged"),
            (4, 0, &[(1, "wipe", 1), (5, "wipe", 4)], "hosts [1, 4] are damaged"),
            (5, 0, &[(1, "wipe", 1), (5, "wipe", 4)], ""),
            (5, 0, &[(1, "wipe", 1), (5, "wipe", 4), (6, "fail_sync", 2)], "a fleet of 5 stands 2"),
            (2, 0, &[(1, "wipe", 2)], "a fleet of 2 stands 0"),
            (1, 0, &[(1, "fail_sync", 1)], "a fleet of 1 stands 0"),
            // One after the other, with calm in between.
            (3, 0, &[(1, "wipe", 1), (5, "start", 1), (35, "wipe", 2)], ""),
            (3, 0, &[(1, "wipe", 1), (5, "start", 1), (34, "wipe", 2)], "hosts [1, 2]"),
            (3, 0, &[(1, "wipe", 1), (90, "wipe", 2)], "hosts [1, 2]"),
            (3, 0, &[(1, "fail_sync", 1), (5, "start", 1), (35, "wipe", 2)], ""),
            (3, 0, &[(1, "fail_sync", 1), (90, "wipe", 2)], "hosts [1, 2]"),
            (3, 0, &[(1, "wipe", 1), (5, "start", 1), (30, "pause", 3), (90, "wipe", 2)], "hosts [1, 2]"),
            (3, 0, &[(1, "wipe", 1), (5, "start", 1), (9, "slow", 3), (90, "wipe", 2)], "hosts [1, 2]"),
            (3, 0, &[(1, "wipe", 1), (5, "start", 1), (9, "cut", 0), (90, "wipe", 2)], "hosts [1, 2]"),
            (3, 0, &[(1, "wipe", 1), (5, "start", 1), (9, "cut", 0), (10, "heal", 0), (40, "wipe", 2)], ""),
            // Rot: only a stopped host, and only wiping repairs.
            (3, 0, &[(1, "rot", 1)], "was not stopped"),
            (3, 0, &[(1, "kill", 1), (2, "rot", 1)], "was not stopped"),
            (3, 0, &[(1, "pause", 1), (2, "stop", 1), (3, "rot", 1)], "was not stopped"),
            (3, 0, &[(1, "kill", 1), (2, "stop", 1), (3, "rot", 1)], "was not stopped"),
            (3, 0, &[(1, "stop", 1), (2, "rot", 1), (3, "wipe", 1)], ""),
            (3, 0, &[(1, "stop", 1), (2, "rot", 1), (3, "start", 1)], "neither wiped nor left unhealed"),
            (3, 0, &[(1, "stop", 1), (2, "rot", 1), (3, "start", 1), (90, "wipe", 2)], "hosts [1, 2]"),
            // Who leaves makes the fleet smaller; a damaged one may not have left.
            (3, 0, &[(1, "leave", 1), (50, "wipe", 2)], "a fleet of 2 stands 0"),
            (3, 0, &[(1, "leave", 1), (50, "wipe", 1), (51, "start", 1)], ""),
            (3, 0, &[(1, "leave", 1), (50, "wipe", 1), (51, "start", 1), (60, "wipe", 2)], "hosts [1, 2]"),
            (3, 0, &[(1, "leave", 1), (50, "wipe", 1), (51, "start", 1), (90, "wipe", 2)], ""),
            (3, 0, &[(1, "leave", 1), (50, "start", 1), (90, "wipe", 2)], "a fleet of 2 stands 0"),
            (3, 0, &[(1, "leave", 1), (2, "remove", 2)], "2 of 3 hosts have left"),
            // Who joins makes it larger, when it is certain.
            (2, 1, &[(1, "start", 3), (2, "wipe", 2)], "a fleet of 2 stands 0"),
            (2, 1, &[(1, "start", 3), (31, "wipe", 2)], ""),
            (2, 1, &[(1, "kill", 3), (2, "leave", 3), (40, "wipe", 2)], "a fleet of 2 stands 0"),
        ];
        for (hosts, late, faults, expected) in cases {
            let verdict = is_fair(&plan(*hosts, *late, faults));
            match verdict {
                Ok(()) => assert_eq!(*expected, "", "{faults:?}"),
                Err(what) => {
                    assert!(!expected.is_empty() && what.contains(expected), "{faults:?}: {what}");
                }
            }
        }
    }

    #[test]
    fn groups_of_the_ring_stand_one_damaged_host_and_none_without_three_that_hold_them() {
        let weigh =
            |at_s: u64, host, weight| Scheduled { at_ms: at_s * 1000, fault: Fault::Weigh { host, weight } };
        let with_ring = |hosts, faults: &[(u64, &str, HostId)], weights: &[Scheduled]| {
            let mut plan = plan(hosts, 0, faults);
            plan.fleet.ring = Some(RingPlan { groups: 4, replication: 3 });
            plan.faults.extend(weights.iter().cloned());
            plan.faults.sort_by_key(|scheduled| scheduled.at_ms);
            is_fair(&plan)
        };
        let two = &[(1, "wipe", 1), (5, "wipe", 4)];
        assert!(with_ring(5, two, &[]).unwrap_err().contains("a fleet of 5 stands 1"));
        assert_eq!(with_ring(5, &two[..1], &[]), Ok(()));
        let mut pulls = plan(5, 0, two);
        assert_eq!(is_fair(&pulls), Ok(()));
        pulls.load.pulls = 1;
        assert!(is_fair(&pulls).unwrap_err().contains("a fleet of 5 stands 1"), "records of operations");
        let again = [(1, "wipe", 1), (5, "start", 1), (30, "wipe", 1), (31, "start", 1), (36, "wipe", 1)];
        assert!(with_ring(5, &again[..3], &[]).unwrap_err().contains("wiped again"));
        assert_eq!(is_fair(&plan(5, 0, &again)), Ok(()), "a fleet's voters are replaced, not added to");
        assert_eq!(with_ring(5, &[again[0], again[1], again[4]], &[]), Ok(()));
        let one = &[(60, "wipe", 1)];
        assert_eq!(with_ring(4, one, &[weigh(1, 2, 0)]), Ok(()));
        assert!(with_ring(3, one, &[weigh(1, 2, 0)]).unwrap_err().contains("stands 0"));
        assert!(with_ring(3, one, &[weigh(1, 2, 0), weigh(50, 2, 9)]).unwrap_err().contains("stands 0"));
        let later = &[(60, "pause", 3), (61, "resume", 3), (92, "wipe", 1)];
        assert_eq!(with_ring(3, later, &[weigh(1, 2, 0), weigh(50, 2, 9)]), Ok(()));
    }

    /// Of four hosts one is down for long, so that another has its vote, and leaves with it: what is left to vote is one of two.
    #[test]
    fn whoever_is_down_for_long_does_not_vote_when_others_have_left() {
        let faults = [(1, "kill", 2), (20, "leave", 4), (30, "wipe", 1)];
        let verdict = |faults: &[(u64, &str, HostId)]| is_fair(&plan(4, 0, faults));
        assert!(verdict(&faults).unwrap_err().contains("a fleet of 2 stands 0"));
        assert_eq!(verdict(&[faults[0], faults[2]]), Ok(()));
        assert_eq!(verdict(&faults[1..]), Ok(()));
        assert_eq!(verdict(&[(1, "kill", 2), (5, "start", 2), faults[1], faults[2]]), Ok(()));
    }

    #[test]
    fn the_unhealed_count_as_broken() {
        let mut fair = plan(3, 0, &[(1, "kill", 3)]);
        fair.unhealed = vec![3];
        assert_eq!(is_fair(&fair), Ok(()));
        fair.unhealed = vec![2, 3];
        assert!(is_fair(&fair).unwrap_err().contains("hosts [2, 3] are damaged or left unhealed"));
        let mut wiped = plan(3, 0, &[(580, "wipe", 1), (590, "start", 1)]);
        wiped.unhealed = vec![1];
        assert_eq!(is_fair(&wiped), Ok(()));
        wiped.unhealed = vec![2];
        assert!(is_fair(&wiped).is_err(), "the wiped one may not vote yet");
        let mut rotten = plan(3, 0, &[(1, "stop", 1), (2, "rot", 1)]);
        rotten.unhealed = vec![1];
        assert_eq!(is_fair(&rotten), Ok(()));
    }

    #[test]
    fn minorities() {
        assert_eq!([1, 2, 3, 4, 5, 6, 9].map(tolerated), [0, 0, 1, 1, 2, 2, 2]);
    }
}
