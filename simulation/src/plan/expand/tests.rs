//! What is promised of every plan, over thousands of seeds, and that plans do not change unnoticed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::plan::{Fault, Hosts, Verdict};

fn options(profile: Profile) -> Options {
    Options { profile, ..Options::default() }
}

fn digest(plan: &Plan) -> String {
    crate::trace::digest(serde_json::to_string(plan).unwrap().as_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn every_plan_makes_sense_and_is_fair(
        seed: u64,
        profile in prop::sample::select(&Profile::ALL[..]),
        nodes in prop::option::of(1u32..=12),
        fault_ms in prop::option::of(FAULT_MIN_MS..=300_000),
    ) {
        let options = Options { profile, nodes, fault_ms, transport: TransportKind::Memory };
        let plan = expand(seed, &options);
        prop_assert_eq!(plan.check(), Ok(()));
        prop_assert_eq!(is_fair(&plan), Ok(()));
        prop_assert_eq!(&expand(seed, &options), &plan);
        if let Some(nodes) = nodes {
            prop_assert_eq!(plan.fleet.hosts.len(), nodes as usize);
        }
        if profile == Profile::Swarm {
            prop_assert_eq!(has_essentials(&plan), Ok(()));
        }
        let text = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}

/// Every host loses power between the start before the crash and the crash: that is a crash too.
#[test]
fn a_loss_of_power_of_all_hosts_is_a_crash() {
    let plans = (0..300).map(|seed| expand(seed, &options(Profile::Swarm)));
    let all_lose = |plan: &Plan| plan.faults.iter().any(|scheduled| scheduled.fault == Fault::PowerLossAll);
    let plans: Vec<Plan> = plans.filter(all_lose).collect();
    assert!(plans.len() > 15, "{}", plans.len());
    for plan in plans {
        assert_eq!(has_essentials(&plan), Ok(()), "seed {}", plan.seed);
    }
}

/// The same in every process and on every machine; a change of what a seed means is a change of this table.
#[test]
fn expansion_is_stable() {
    let found: Vec<String> = Profile::ALL
        .into_iter()
        .map(|profile| format!("{} {}", profile.name(), digest(&expand(42, &options(profile)))))
        .collect();
    let expected = include_str!("golden.txt");
    assert_eq!(found.join("\n"), expected.trim_end());
}

#[test]
fn swarm_runs_are_unlike_each_other() {
    let plans: Vec<Plan> = (0..300).map(|seed| expand(seed, &options(Profile::Swarm))).collect();
    let kinds =
        |plan: &Plan| -> BTreeSet<&'static str> { plan.faults.iter().map(|s| s.fault.name()).collect() };
    let sets: BTreeSet<_> = plans.iter().map(kinds).collect();
    assert!(sets.len() > 250, "{} different sets of faults among 300", sets.len());
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    plans.iter().flat_map(kinds).for_each(|kind| *seen.entry(kind).or_default() += 1);
    // Every kind there is (`heal_network` is for scenarios), and none in every plan but what swarm must have.
    assert_eq!(seen.len(), 26, "{seen:?}");
    for (kind, count) in seen {
        let in_most = ["start", "add_rule", "remove_rule"].contains(&kind);
        assert!(count > 15 && (in_most || count < 290), "{kind}: {count} of 300");
    }
    let unhealed = plans.iter().filter(|plan| !plan.unhealed.is_empty()).count();
    assert!((30..120).contains(&unhealed), "{unhealed} of 300 leave hosts broken");
    let faults: usize = plans.iter().map(|plan| plan.faults.len()).sum();
    assert!((20..80).contains(&(faults / 300)), "{} faults a plan", faults / 300);
    let sizes: BTreeSet<usize> = plans.iter().map(|plan| plan.fleet.hosts.len()).collect();
    assert_eq!(sizes, BTreeSet::from([3, 4, 5, 6, 7]));
}

#[test]
fn aspects_have_streams_of_their_own() {
    let base = Options { nodes: Some(5), ..options(Profile::Swarm) };
    for seed in 0..50 {
        let (short, long) =
            (expand(seed, &base), expand(seed, &Options { fault_ms: Some(240_000), ..base.clone() }));
        assert_eq!((&short.fleet, &short.load), (&long.fleet, &long.load));
        let quic = expand(seed, &Options { transport: TransportKind::Quic, ..base.clone() });
        assert_eq!(quic.faults, short.faults);
    }
}

#[test]
fn profiles_do_what_they_say() {
    for seed in 0..200 {
        let plan = expand(seed, &options(Profile::Calm));
        assert_eq!((plan.faults.len(), plan.unhealed.len(), plan.fleet.hosts.len()), (0, 0, 3));
    }
    let sizes: BTreeSet<usize> =
        (0..200).map(|seed| expand(seed, &options(Profile::Membership)).fleet.hosts.len()).collect();
    assert_eq!(sizes, (1..=7).collect());
    for (profile, faults) in [
        (Profile::Network, &["add_rule", "remove_rule"][..]),
        (Profile::Disk, &["slow_disk", "full_disk", "fail_sync", "fail_read", "rot", "power_loss_all"]),
        (Profile::Membership, &["leave", "remove", "wipe", "stop"]),
        (Profile::Clock, &["step_wall_clock", "set_drift", "pause"]),
        (
            Profile::Ring,
            &["weigh", "pause_ring", "resume_ring", "rebalance_ring", "leave", "wipe", "kill", "add_rule"],
        ),
        (
            Profile::Containers,
            &["engine_down", "engine_up", "engine_pulls", "engine_calls", "engine_forgets"],
        ),
        (Profile::Runs, &["add_rule", "remove_rule", "pause", "kill", "start"]),
    ] {
        let plans: Vec<Plan> = (0..100).map(|seed| expand(seed, &options(profile))).collect();
        for fault in faults {
            let count =
                plans.iter().flat_map(|plan| &plan.faults).filter(|s| s.fault.name() == *fault).count();
            assert!(count > 10, "{}: {fault} came {count} times in 100 seeds", profile.name());
        }
    }
}

#[test]
fn storms_and_moves_are_of_few_groups_that_rest_in_half_of_the_plans() {
    let storms: Vec<Plan> = (0..400).map(|seed| expand(seed, &options(Profile::Storm))).collect();
    assert!(storms.iter().all(|plan| plan.fleet.hosts.len() == 5 && !plan.faults.is_empty()));
    let asleep = storms.iter().filter(|plan| !plan.load.calms.is_empty()).count();
    assert!((150..250).contains(&asleep), "{asleep} of 400 are asleep");
    let for_good = storms.iter().filter(|plan| !plan.unhealed.is_empty()).count();
    assert!((50..150).contains(&for_good), "{for_good} of 400 stay down");
    // When a host dies in its sleep, so do all groups: nothing was asked for longer than it takes them to go to rest.
    for plan in storms.iter().filter(|plan| !plan.load.calms.is_empty()) {
        let calm = plan.load.calms[0];
        let dies = |scheduled: &&Scheduled| {
            let died = matches!(scheduled.fault, Fault::Kill { .. } | Fault::PowerLoss { .. });
            died && (calm.from_ms + 6_000..calm.to_ms).contains(&scheduled.at_ms)
        };
        assert_eq!(plan.faults.iter().filter(dies).count(), 1, "seed {}", plan.seed);
    }
    let moves: Vec<Plan> = (0..400).map(|seed| expand(seed, &options(Profile::Ring))).collect();
    let many = storms.iter().chain(&moves).filter(|plan| plan.fleet.ring.unwrap().groups >= 32).count();
    assert!((1..=40).contains(&many), "{many} of 800 have as many groups as a real fleet");
}

/// A crash, and a partition that surely meets the leader: found out from the faults alone.
fn has_essentials(plan: &Plan) -> Result<(), String> {
    let founders = numbered(plan, |late| !late);
    let is_crash = |at: usize| {
        let runs = |host: &HostId| surely_runs(&plan.faults[..at], *host);
        match &plan.faults[at].fault {
            Fault::Kill { host } | Fault::PowerLoss { host, at_call: 0 } => runs(host),
            Fault::PowerLossAll => founders.iter().any(runs),
            _ => false,
        }
    };
    if !(0..plan.faults.len()).any(is_crash) {
        return Err("no crash of a process that surely runs".into());
    }
    if founders.len() < 3 {
        return Ok(());
    }
    let mut met = BTreeSet::new();
    for host in &founders {
        for (begin, scheduled) in plan.faults.iter().enumerate() {
            let Fault::AddRule { rule } = &scheduled.fault else { continue };
            let cuts = rule.verdict == Verdict::Drop && rule.chance_ppm == 1_000_000;
            if !cuts || rule.from != Hosts::Only(vec![*host]) || rule.to != Hosts::Except(vec![*host]) {
                continue;
            }
            let removal =
                |s: &&Scheduled| matches!(&s.fault, Fault::RemoveRule { name } if *name == rule.name);
            let until_ms = plan.faults[begin..].iter().find(removal).map_or(plan.fault_ms, |s| s.at_ms);
            // Of what may have happened before, this test looks at the strictest case only: nothing at all.
            let first = plan.faults[..begin].iter().all(|s| harmless(&s.fault));
            let alone = plan.faults[begin..].iter().take_while(|s| s.at_ms < until_ms).all(|s| {
                harmless(&s.fault) || matches!(&s.fault, Fault::AddRule { rule: r } if r.name == rule.name)
            });
            if until_ms - scheduled.at_ms >= 2_500 && alone {
                met.insert(*host);
                if first && *host == 1 {
                    return Ok(());
                }
            }
        }
    }
    if met.len() == founders.len() {
        Ok(())
    } else {
        Err(format!("only {met:?} of {founders:?} are cut off"))
    }
}

/// Whether nothing that came before can have left the host without a process.
fn surely_runs(before: &[Scheduled], host: HostId) -> bool {
    let mut runs = true;
    for Scheduled { fault, .. } in before {
        let is_its = fault.host() == Some(host);
        match fault {
            Fault::PowerLossAll => runs = false,
            _ if !is_its => {}
            // After these, a start may not be enough.
            Fault::Leave { .. } | Fault::Remove { .. } | Fault::FailSync { .. } | Fault::Rot { .. } => {
                return false;
            }
            Fault::Start { .. } => runs = true,
            Fault::Stop { .. }
            | Fault::Kill { .. }
            | Fault::PowerLoss { .. }
            | Fault::Wipe { .. }
            | Fault::FullDisk { .. }
            | Fault::FailRead { .. } => runs = false,
            _ => {}
        }
    }
    runs
}

fn harmless(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::StepWallClock { .. }
            | Fault::SetDrift { .. }
            | Fault::Start { .. }
            | Fault::EngineDown { .. }
            | Fault::EngineUp { .. }
            | Fault::EnginePulls { .. }
            | Fault::EngineCalls { .. }
            | Fault::EngineForgets { .. }
    )
}
