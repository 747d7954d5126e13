//! A storm: one of five hosts dies at once, with all the replicas that it led.
//!
//! In half of the plans nobody asks for anything from some seconds before until some seconds after, so that all groups rest; in the others
//! all are busy. The dead host comes back soon, or late, or never; or it is a second one that dies while the first is down, which is
//! back before anybody asks: what it lacks must not be forgotten by groups that went to rest without it.

use super::dice::Dice;
use super::{Calm, Fault, HostId, Plan, Scheduled};

/// From the last call until all groups rest: twice the time that a leader waits, and something.
const TO_REST_MS: u64 = 9_000;

/// Nothing happens later: whoever comes back has done so.
const STORM_MS: u64 = 75_000;

/// Replaces the faults and calms of a plan.
pub(super) fn draw(plan: &mut Plan) {
    plan.fault_ms = plan.fault_ms.min(STORM_MS);
    let dice = &mut Dice::new(plan.seed, "storm");
    let hosts: Vec<HostId> = (1..=plan.fleet.hosts.len() as HostId).collect();
    let asleep = dice.percent(50);
    let dies = dice.pick(&hosts);
    let at_ms = dice.within(5_000 + TO_REST_MS..=25_000);
    let mut faults = Vec::new();
    let mut add = |at_ms: u64, fault: Fault| faults.push(Scheduled { at_ms, fault });
    let calm_ms = at_ms + dice.within(4_000..=12_000);
    let again_ms = match dice.within(0..=3) {
        // In the middle of the calm, if there is one.
        0 => Some(at_ms + dice.magnitude(100..=3_000)),
        1 => Some(at_ms + dice.within(5_000..=15_000)),
        2 => Some(at_ms + dice.within(25_000..=45_000)),
        _ => None,
    };
    let absent = dice.pick(&hosts);
    if absent != dies && dice.percent(40) {
        add(at_ms - TO_REST_MS - dice.within(500..=4_000), Fault::Kill { host: absent });
        add(at_ms + dice.within(0..=3_000), Fault::Start { host: absent });
    }
    add(
        at_ms,
        if dice.percent(50) {
            Fault::Kill { host: dies }
        } else {
            Fault::PowerLoss { host: dies, at_call: 0 }
        },
    );
    match again_ms {
        Some(again_ms) => add(again_ms, Fault::Start { host: dies }),
        None if hosts.len() >= 3 && at_ms <= plan.fault_ms => plan.unhealed = vec![dies],
        None => {}
    }
    faults.retain(|scheduled| scheduled.at_ms <= plan.fault_ms);
    faults.sort_by_key(|scheduled| scheduled.at_ms);
    plan.faults = faults;
    plan.load.calms =
        if asleep { vec![Calm { from_ms: at_ms - TO_REST_MS, to_ms: calm_ms }] } else { Vec::new() };
}
