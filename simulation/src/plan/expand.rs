//! From a seed to a plan.
//!
//! Each aspect (shape, network, disk, clocks, engines, workload, and every kind of fault) draws from its own stream, so that one with
//! less of one has the same of the others.

use super::dice::Dice;
use super::episodes::{Episode, Ground, Kind};
use super::essentials::{self, Essentials};
use super::fair::{is_fair, tolerated};
use super::hold::Hold;
use super::profile::Profile;
use super::{HostId, Plan, Scheduled, TransportKind, shape, storm};

/// How long faults happen if nothing else is said.
pub const FAULT_MS: u64 = 120_000;

/// The least time for faults: below, a swarm's crash and partition do not fit.
pub const FAULT_MIN_MS: u64 = 10_000;

/// How long the fleet may take to work again.
pub const SETTLE_MS: u64 = 60_000;

/// With groups that have to move until all are where they should be, a few at a time.
pub const RING_SETTLE_MS: u64 = 180_000;

/// What a seed does not decide.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    pub profile: Profile,
    /// Hosts in all; drawn if absent.
    pub nodes: Option<u32>,
    /// [`FAULT_MS`] if absent; at least [`FAULT_MIN_MS`].
    pub fault_ms: Option<u64>,
    pub transport: TransportKind,
}

/// The plan of a seed: always the same one, and a fair one.
pub fn expand(seed: u64, options: &Options) -> Plan {
    let profile = options.profile;
    let fault_ms = options.fault_ms.unwrap_or(FAULT_MS).max(FAULT_MIN_MS);
    let nodes = options.nodes.map(|nodes| nodes.clamp(1, super::check::HOSTS_MAX as u32));
    let mut plan = Plan {
        seed,
        profile: profile.name().to_owned(),
        transport: options.transport,
        fleet: shape::fleet(seed, profile, nodes),
        load: shape::load(seed, profile),
        faults: Vec::new(),
        fault_ms,
        settle_ms: if profile.uses_ring() { RING_SETTLE_MS } else { SETTLE_MS },
        unhealed: Vec::new(),
        mutant: None,
        flip_payload: None,
        hold: Hold::default(),
    };
    let mut essentials = None;
    if profile == Profile::Swarm {
        let founders: Vec<HostId> = numbered(&plan, |late| !late);
        let (episodes, needs) = essentials::draw(seed, &founders, fault_ms);
        essentials = Some(needs);
        episodes.into_iter().for_each(|episode| add(&mut plan, episode));
    }
    for host in numbered(&plan, |late| late) {
        let at_ms = Dice::new(seed, &format!("late/{host}")).within(fault_ms / 20..=fault_ms * 3 / 5);
        let fault = super::Fault::Start { host };
        add(&mut plan, Episode { faults: vec![Scheduled { at_ms, fault }], lasts: false, disrupts: false });
    }
    for (kind, often) in kinds(seed, profile) {
        episodes_of(&mut plan, kind, often, essentials);
    }
    if profile == Profile::Storm {
        storm::draw(&mut plan);
    } else if !matches!(profile, Profile::Calm | Profile::Ring | Profile::Runs) {
        leave_unhealed(&mut plan, essentials);
    }
    debug_assert_eq!(is_fair(&plan), Ok(()));
    plan
}

fn numbered(plan: &Plan, is: impl Fn(bool) -> bool) -> Vec<HostId> {
    plan.fleet.hosts.iter().zip(1..).filter(|(host, _)| is(host.late)).map(|(_, id)| id).collect()
}

/// Swarm testing (Groce et al., 2012): leaving whole kinds out makes runs more unlike each other than having a little of each.
fn kinds(seed: u64, profile: Profile) -> Vec<(Kind, u64)> {
    if profile != Profile::Swarm {
        return profile.kinds().to_vec();
    }
    let dice = &mut Dice::new(seed, "swarm");
    let drawn: Vec<_> =
        Kind::ALL.into_iter().map(|kind| (kind, dice.percent(50), dice.magnitude(300..=3_000))).collect();
    drawn.into_iter().filter(|(_, is_in, _)| *is_in).map(|(kind, _, often)| (kind, often)).collect()
}

/// Adds what of a kind comes within the plan: as far as it is fair and leaves the essentials alone.
fn episodes_of(plan: &mut Plan, kind: Kind, often: u64, essentials: Option<Essentials>) {
    let dice = &mut Dice::new(plan.seed, &format!("faults/{kind:?}"));
    let thousandths = often * plan.fault_ms / FAULT_MS * dice.within(50..=150) / 100;
    let count = thousandths / 1000 + u64::from(dice.within(0..=999) < thousandths % 1000);
    for number in 1..=count {
        let ground = Ground { fleet: &plan.fleet, fault_ms: plan.fault_ms, number };
        let episode = kind.draw(dice, &ground);
        try_to_add(plan, episode, essentials);
    }
}

fn try_to_add(plan: &mut Plan, episode: Episode, essentials: Option<Essentials>) -> bool {
    if essentials.is_some_and(|essentials| !essentials.admits(&episode)) {
        return false;
    }
    let before = plan.faults.clone();
    add(plan, episode);
    let fair = is_fair(plan).is_ok();
    if !fair {
        plan.faults = before;
    }
    fair
}

/// What would come after the end of the faults is left to the healing.
fn add(plan: &mut Plan, episode: Episode) {
    let fault_ms = plan.fault_ms;
    plan.faults.extend(episode.faults.into_iter().filter(|scheduled| scheduled.at_ms <= fault_ms));
    plan.faults.sort_by_key(|scheduled| scheduled.at_ms);
}

/// In some plans a minority stays broken for good.
fn leave_unhealed(plan: &mut Plan, essentials: Option<Essentials>) {
    let dice = &mut Dice::new(plan.seed, "unhealed");
    let founders = numbered(plan, |late| !late);
    let most = tolerated(founders.len()) as u64;
    if most == 0 || !dice.percent(50) {
        return;
    }
    for (number, host) in (1..).zip(dice.some_of(&founders, most as usize)) {
        let at_ms = dice.within(plan.fault_ms / 2..=plan.fault_ms * 19 / 20);
        let episode = Episode::for_good(dice, host, at_ms, number);
        if number > 1 && dice.percent(50) {
            break;
        }
        let before = (plan.faults.clone(), plan.unhealed.clone());
        plan.unhealed.push(host);
        if !try_to_add(plan, episode, essentials) {
            (plan.faults, plan.unhealed) = before;
        }
    }
}

#[cfg(test)]
mod tests;
