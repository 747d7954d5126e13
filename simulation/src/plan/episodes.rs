//! Kinds of faults as they come in plans: each with its end, as an *episode*.

use super::dice::Dice;
use super::{
    CallBehaviour, Fault, FleetShape, HostId, Hosts, Latency, PullBehaviour, Rule, Scheduled, Verdict,
    WEIGHT, shape,
};

/// A fault with its end, or several that belong together; in order of time, at least one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Episode {
    pub(super) faults: Vec<Scheduled>,
    /// Something stays different after its end: a member less, a copy of the log less.
    pub(super) lasts: bool,
    /// It may stop an election, or a majority from being reached.
    pub(super) disrupts: bool,
}

impl Episode {
    pub(super) fn begin_ms(&self) -> u64 {
        self.faults.first().expect("an episode has a fault").at_ms
    }

    pub(super) fn end_ms(&self) -> u64 {
        self.faults.last().expect("an episode has a fault").at_ms
    }

    /// A fault of one host that does not end.
    pub(super) fn for_good(dice: &mut Dice, host: HostId, at_ms: u64, number: u64) -> Self {
        let name = format!("for-good-{number}");
        let (it, rest) = (Hosts::Only(vec![host]), Hosts::Except(vec![host]));
        let faults = match dice.within(0..=6) {
            0 => vec![Fault::Kill { host }],
            1 => vec![Fault::Pause { host }],
            2 => vec![drop_rule(&name, it.clone(), rest.clone()), drop_rule(&name, rest, it)],
            // It hears nobody; it is heard by nobody.
            3 => vec![drop_rule(&name, rest, it)],
            4 => vec![drop_rule(&name, it, rest)],
            5 => vec![Fault::FullDisk { host, full: true }],
            _ => vec![Fault::SlowDisk { host, sync: Latency::even(1_500_000, 5_000_000) }],
        };
        let faults = faults.into_iter().map(|fault| Scheduled { at_ms, fault }).collect();
        Self { faults, lasts: true, disrupts: true }
    }
}

/// What episodes are drawn for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    pub(super) fleet: &'a FleetShape,
    pub(super) fault_ms: u64,
    /// Which of its kind it is; names of rules carry it.
    pub(super) number: u64,
}

impl Ground<'_> {
    fn hosts(&self) -> Vec<HostId> {
        (1..=self.fleet.hosts.len() as HostId).collect()
    }

    /// Some hosts, not all of them if there are two.
    fn side(&self, dice: &mut Dice) -> Vec<HostId> {
        let hosts = self.hosts();
        let most = (hosts.len() as u64 - 1).max(1);
        let count = dice.within(1..=most);
        dice.some_of(&hosts, count as usize)
    }

    fn usual_sync(&self, host: HostId) -> Latency {
        self.fleet.hosts[host as usize - 1].disk.sync
    }
}

/// A kind of episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    // Processes.
    Kill,
    CrashLoop,
    Restart,
    RollingRestart,
    Pause,
    PowerLoss,
    PowerLossSeveral,
    PowerLossAll,
    // Network.
    Split,
    Isolate,
    OneWay,
    Bridge,
    Flap,
    Loss,
    Delay,
    Jitter,
    Duplicate,
    HoldBack,
    // Disks.
    SlowDisk,
    FullDisk,
    FailSync,
    FailRead,
    Rot,
    // Members.
    Leave,
    Remove,
    Wipe,
    Drain,
    // Clocks.
    StepWall,
    Drift,
    // Engines.
    EngineDown,
    EngineTrouble,
    EngineForgets,
    EngineCalls,
    // The ring; not in a swarm, whose fleets ask nothing of it.
    Weigh,
    RingHands,
    LongDeath,
}

impl Kind {
    /// Those that a swarm draws from.
    pub(super) const ALL: [Self; 33] = [
        Self::Kill,
        Self::CrashLoop,
        Self::Restart,
        Self::RollingRestart,
        Self::Pause,
        Self::PowerLoss,
        Self::PowerLossSeveral,
        Self::PowerLossAll,
        Self::Split,
        Self::Isolate,
        Self::OneWay,
        Self::Bridge,
        Self::Flap,
        Self::Loss,
        Self::Delay,
        Self::Jitter,
        Self::Duplicate,
        Self::HoldBack,
        Self::SlowDisk,
        Self::FullDisk,
        Self::FailSync,
        Self::FailRead,
        Self::Rot,
        Self::Leave,
        Self::Remove,
        Self::Wipe,
        Self::Drain,
        Self::StepWall,
        Self::Drift,
        Self::EngineDown,
        Self::EngineTrouble,
        Self::EngineForgets,
        Self::EngineCalls,
    ];

    const fn lasts(self) -> bool {
        matches!(self, Self::FailSync | Self::Rot | Self::Leave | Self::Remove | Self::Wipe)
    }

    const fn disrupts(self) -> bool {
        !matches!(
            self,
            Self::StepWall
                | Self::Drift
                | Self::EngineDown
                | Self::EngineTrouble
                | Self::EngineForgets
                | Self::EngineCalls
                | Self::RingHands
        )
    }

    /// One episode.
    pub(super) fn draw(self, dice: &mut Dice, ground: &Ground<'_>) -> Episode {
        let mut script = Script { at_ms: dice.within(0..=ground.fault_ms * 19 / 20), faults: Vec::new() };
        match self {
            Self::Kill
            | Self::CrashLoop
            | Self::Restart
            | Self::RollingRestart
            | Self::Pause
            | Self::PowerLoss
            | Self::PowerLossSeveral
            | Self::PowerLossAll => self.process(dice, ground, &mut script),
            Self::Split
            | Self::Isolate
            | Self::OneWay
            | Self::Bridge
            | Self::Flap
            | Self::Loss
            | Self::Delay
            | Self::Jitter
            | Self::Duplicate
            | Self::HoldBack => self.network(dice, ground, &mut script),
            Self::SlowDisk | Self::FullDisk | Self::FailSync | Self::FailRead | Self::Rot => {
                self.disk(dice, ground, &mut script);
            }
            Self::Leave | Self::Remove | Self::Wipe => self.members(dice, ground, &mut script),
            // Two at a time now and then: of the last two one is refused.
            Self::Drain => {
                let count = if dice.percent(30) { 2 } else { 1 };
                let hosts = dice.some_of(&ground.hosts(), count);
                for &host in &hosts {
                    script.add(Fault::Drain { host });
                    script.after(dice.magnitude(1..=1_000));
                }
                script.after(dice.within(3_000..=30_000));
                for host in hosts {
                    script.add(Fault::Undrain { host });
                }
            }
            Self::StepWall | Self::Drift => self.clock(dice, ground, &mut script),
            Self::EngineDown | Self::EngineTrouble | Self::EngineForgets | Self::EngineCalls => {
                self.engine(dice, ground, &mut script);
            }
            Self::Weigh | Self::RingHands | Self::LongDeath => self.ring(dice, ground, &mut script),
        }
        let mut faults = script.faults;
        faults.sort_by_key(|scheduled| scheduled.at_ms);
        Episode { faults, lasts: self.lasts(), disrupts: self.disrupts() }
    }

    fn process(self, dice: &mut Dice, ground: &Ground<'_>, script: &mut Script) {
        let (hosts, host) = (ground.hosts(), dice.pick(&ground.hosts()));
        match self {
            Self::Kill | Self::PowerLoss => {
                script.add(if self == Self::Kill { Fault::Kill { host } } else { power_loss(dice, host) });
                script.after(dice.magnitude(100..=20_000)).add(Fault::Start { host });
            }
            Self::CrashLoop => {
                for _ in 0..dice.within(3..=8) {
                    script.add(if dice.percent(50) { Fault::Kill { host } } else { power_loss(dice, host) });
                    script.after(dice.magnitude(50..=1_000)).add(Fault::Start { host });
                    script.after(dice.magnitude(50..=3_000));
                }
            }
            Self::Restart => {
                script.add(Fault::Stop { host });
                script.after(dice.magnitude(100..=10_000)).add(Fault::Start { host });
            }
            Self::RollingRestart => {
                for host in dice.shuffled(&hosts) {
                    script.add(Fault::Stop { host });
                    script.after(dice.magnitude(500..=3_000)).add(Fault::Start { host });
                    script.after(dice.magnitude(500..=4_000));
                }
            }
            Self::Pause => {
                let paused = if dice.percent(20) { ground.side(dice) } else { vec![host] };
                script.each(&paused, |host| Fault::Pause { host });
                script.after(dice.magnitude(100..=20_000)).each(&paused, |host| Fault::Resume { host });
            }
            Self::PowerLossSeveral => {
                let several = ground.side(dice);
                script.each(&several, |host| Fault::PowerLoss { host, at_call: 0 });
                script.start_each(dice, &several);
            }
            _ => {
                script.add(Fault::PowerLossAll);
                script.start_each(dice, &hosts);
            }
        }
    }

    fn network(self, dice: &mut Dice, ground: &Ground<'_>, script: &mut Script) {
        let (hosts, host) = (ground.hosts(), dice.pick(&ground.hosts()));
        let name = format!("{self:?}-{}", ground.number).to_lowercase();
        let (it, rest) = (Hosts::Only(vec![host]), Hosts::Except(vec![host]));
        let length_ms = dice.magnitude(200..=20_000);
        let rule = |from: Hosts, to: Hosts, chance_ppm: u64, verdict: Verdict| Fault::AddRule {
            rule: Rule { name: name.clone(), from, to, chance_ppm: chance_ppm as u32, verdict },
        };
        let mut rules = Vec::new();
        match self {
            Self::Split => rules = cut(&name, &ground.side(dice), None),
            Self::Isolate => rules = cut(&name, &[host], None),
            Self::OneWay => {
                let (from, to) = if dice.percent(50) { (it, rest) } else { (rest, it) };
                rules.push(drop_rule(&name, from, to));
            }
            // Two sides that both reach one host, and not each other: none of them has the same view of who is alive.
            Self::Bridge => {
                let others: Vec<HostId> = hosts.iter().copied().filter(|other| *other != host).collect();
                let count = (others.len() / 2).max(1);
                let side = dice.some_of(&others, count);
                rules = cut(&name, &side, Some(host));
            }
            Self::Flap => {
                let side = ground.side(dice);
                for _ in 0..dice.within(3..=12) {
                    cut(&name, &side, None).into_iter().for_each(|fault| script.add(fault));
                    script.after(dice.magnitude(100..=2_000)).add(Fault::RemoveRule { name: name.clone() });
                    script.after(dice.magnitude(100..=2_000));
                }
                return;
            }
            Self::Loss => {
                let (from, to) = if dice.percent(50) { (Hosts::All, Hosts::All) } else { (it, rest) };
                rules.push(rule(from, to, dice.magnitude(10_000..=400_000), Verdict::Drop));
            }
            Self::Delay => {
                let (from, to) = if dice.percent(50) { (Hosts::All, Hosts::All) } else { (it, rest) };
                let min_us = dice.magnitude(1_000..=100_000);
                let latency = Latency::even(min_us, dice.magnitude(min_us..=300_000));
                rules.push(rule(from, to, 1_000_000, Verdict::Delay { latency }));
            }
            // Some are late, and so behind others.
            Self::Jitter => {
                let latency = Latency::even(0, dice.magnitude(1_000..=200_000));
                let chance = dice.magnitude(10_000..=500_000);
                rules.push(rule(Hosts::All, Hosts::All, chance, Verdict::Delay { latency }));
            }
            Self::Duplicate => {
                rules.push(rule(
                    Hosts::All,
                    Hosts::All,
                    dice.magnitude(10_000..=500_000),
                    Verdict::Duplicate,
                ));
            }
            _ => {
                if dice.percent(50) {
                    rules.push(rule(rest.clone(), it.clone(), 1_000_000, Verdict::Hold));
                }
                rules.push(rule(it, rest, 1_000_000, Verdict::Hold));
            }
        }
        rules.into_iter().for_each(|fault| script.add(fault));
        script.after(length_ms).add(Fault::RemoveRule { name });
    }

    fn disk(self, dice: &mut Dice, ground: &Ground<'_>, script: &mut Script) {
        let host = dice.pick(&ground.hosts());
        let length_ms = dice.magnitude(500..=20_000);
        match self {
            Self::SlowDisk => {
                let slow = if dice.percent(30) { ground.side(dice) } else { vec![host] };
                let min_us = dice.magnitude(2_000..=1_000_000);
                let sync = Latency::even(min_us, min_us * dice.within(1..=3));
                script.each(&slow, |host| Fault::SlowDisk { host, sync });
                script.after(length_ms);
                script.each(&slow, |host| Fault::SlowDisk { host, sync: ground.usual_sync(host) });
            }
            Self::FullDisk => {
                script.add(Fault::FullDisk { host, full: true });
                script.after(length_ms).add(Fault::FullDisk { host, full: false });
                if dice.percent(50) {
                    script.after(1_000).add(Fault::Start { host });
                }
            }
            Self::FailSync => {
                script.add(Fault::FailSync { host });
                script.after(length_ms).add(Fault::Kill { host });
                script.after(dice.magnitude(100..=2_000)).add(Fault::Start { host });
            }
            Self::FailRead => {
                script.add(Fault::FailRead { host });
                // Most reads are those of a start.
                if dice.percent(70) {
                    script.after(100).add(Fault::Kill { host });
                    script.after(dice.magnitude(100..=1_000)).add(Fault::Start { host });
                    script.after(dice.magnitude(500..=3_000)).add(Fault::Start { host });
                } else {
                    script.after(length_ms).add(Fault::Start { host });
                }
            }
            _ => {
                script.add(Fault::Stop { host });
                script.after(dice.within(2_000..=4_000)).add(Fault::Rot { host });
                // It gives its replica up, or does not notice; an operator finds out and makes it anew.
                script.after(dice.magnitude(100..=1_000)).add(Fault::Start { host });
                script.after(dice.magnitude(1_000..=8_000));
                replace(dice, host, script);
            }
        }
    }

    fn members(self, dice: &mut Dice, ground: &Ground<'_>, script: &mut Script) {
        let host = dice.pick(&ground.hosts());
        match self {
            Self::Leave => script.add(Fault::Leave { host }),
            Self::Remove => {
                if dice.percent(50) {
                    script.add(Fault::Kill { host });
                    script.after(dice.magnitude(500..=12_000));
                }
                script.add(Fault::Remove { host });
            }
            _ => {
                script.add(Fault::Wipe { host });
                script.after(dice.magnitude(100..=15_000)).add(Fault::Start { host });
                return;
            }
        }
        if dice.percent(60) {
            script.after(dice.magnitude(2_000..=15_000)).add(Fault::Wipe { host });
            script.after(dice.magnitude(100..=2_000)).add(Fault::Start { host });
        }
    }

    fn clock(self, dice: &mut Dice, ground: &Ground<'_>, script: &mut Script) {
        let host = dice.pick(&ground.hosts());
        if self == Self::StepWall {
            let by_ms = shape::wall_off_ms(dice);
            script.add(Fault::StepWallClock { host, by_ms });
            if dice.percent(50) {
                script.after(dice.magnitude(200..=30_000));
                script.add(Fault::StepWallClock { host, by_ms: -by_ms });
            }
        } else {
            script.add(Fault::SetDrift { host, drift_ppm: shape::drift_ppm(dice) });
            let drift_ppm = ground.fleet.hosts[host as usize - 1].drift_ppm;
            script.after(dice.magnitude(1_000..=40_000)).add(Fault::SetDrift { host, drift_ppm });
        }
    }

    fn ring(self, dice: &mut Dice, ground: &Ground<'_>, script: &mut Script) {
        let host = dice.pick(&ground.hosts());
        match self {
            // It gives its replicas up, or some of them, and gets them back; or two do, one just after the other, so that groups are to be
            // on two other hosts.
            Self::Weigh => {
                let pair = dice.percent(40);
                let hosts = if pair { dice.some_of(&ground.hosts(), 2) } else { vec![host] };
                let weight = if pair || dice.percent(60) { 0 } else { dice.pick(&[WEIGHT / 4, WEIGHT * 4]) };
                let down_ms = if pair { 100..=300 } else { 100..=2_000 };
                for weight in [weight, WEIGHT] {
                    for &host in &hosts {
                        script.add(Fault::Weigh { host, weight });
                        script.add(Fault::Stop { host });
                        script.after(dice.magnitude(down_ms.clone())).add(Fault::Start { host });
                    }
                    script.after(dice.within(8_000..=30_000));
                }
            }
            Self::RingHands => {
                script.add(Fault::RebalanceRing);
                script.after(dice.magnitude(100..=5_000)).add(Fault::PauseRing);
                script.after(dice.magnitude(500..=10_000)).add(Fault::ResumeRing);
            }
            // Longer than the pause after which its replicas are made anew elsewhere.
            _ => {
                script.add(Fault::Kill { host });
                script.after(dice.within(21_000..=45_000)).add(Fault::Start { host });
            }
        }
    }

    fn engine(self, dice: &mut Dice, ground: &Ground<'_>, script: &mut Script) {
        let host = dice.pick(&ground.hosts());
        match self {
            Self::EngineDown => {
                script.add(Fault::EngineDown { host });
                script.after(dice.magnitude(200..=30_000)).add(Fault::EngineUp { host });
            }
            Self::EngineTrouble => {
                let after_steps = dice.within(0..=12) as u32;
                let pulls = match dice.within(0..=3) {
                    0 => {
                        let min_us = dice.magnitude(10_000..=500_000);
                        PullBehaviour::Slow { step: Latency::even(min_us, min_us * 4) }
                    }
                    1 => PullBehaviour::Hangs { after_steps },
                    2 => PullBehaviour::Fails { after_steps },
                    _ => PullBehaviour::Crashes { after_steps },
                };
                script.add(Fault::EnginePulls { host, pulls });
                script.after(dice.magnitude(1_000..=30_000));
                script.add(Fault::EnginePulls { host, pulls: PullBehaviour::Works });
                script.add(Fault::EngineUp { host });
            }
            Self::EngineCalls => {
                let effect = dice.percent(50);
                let calls = match dice.within(0..=5) {
                    0 | 1 => {
                        let min_us = dice.magnitude(10_000..=1_000_000);
                        CallBehaviour::Slow { each: Latency::even(min_us, min_us * 3) }
                    }
                    2 => CallBehaviour::Hangs { effect },
                    3 => CallBehaviour::Fails { effect },
                    4 => CallBehaviour::LosesReply,
                    _ => CallBehaviour::Crashes { effect },
                };
                let percent = dice.pick(&[20, 50, 100]);
                script.add(Fault::EngineCalls { host, calls, percent });
                script.after(dice.magnitude(1_000..=30_000));
                script.add(Fault::EngineCalls { host, calls: CallBehaviour::Works, percent: 0 });
                script.add(Fault::EngineUp { host });
            }
            _ => script.add(Fault::EngineForgets { host }),
        }
    }
}

/// Builds an episode in order of time.
struct Script {
    at_ms: u64,
    faults: Vec<Scheduled>,
}

impl Script {
    fn add(&mut self, fault: Fault) {
        self.faults.push(Scheduled { at_ms: self.at_ms, fault });
    }

    fn after(&mut self, ms: u64) -> &mut Self {
        self.at_ms += ms;
        self
    }

    fn each(&mut self, hosts: &[HostId], fault: impl Fn(HostId) -> Fault) {
        hosts.iter().for_each(|host| self.add(fault(*host)));
    }

    /// Starts hosts again, each after a time of its own.
    fn start_each(&mut self, dice: &mut Dice, hosts: &[HostId]) {
        for host in hosts {
            let at_ms = self.at_ms + dice.magnitude(100..=10_000);
            self.faults.push(Scheduled { at_ms, fault: Fault::Start { host: *host } });
        }
    }
}

/// What an operator does with a host whose copy is lost: its old node is removed, it is emptied, it joins as a new one.
fn replace(dice: &mut Dice, host: HostId, script: &mut Script) {
    script.add(Fault::Remove { host });
    script.after(dice.magnitude(500..=2_000)).add(Fault::Wipe { host });
    script.after(dice.magnitude(100..=2_000)).add(Fault::Start { host });
}

fn drop_rule(name: &str, from: Hosts, to: Hosts) -> Fault {
    let rule = Rule { name: name.to_owned(), from, to, chance_ppm: 1_000_000, verdict: Verdict::Drop };
    Fault::AddRule { rule }
}

/// Cuts one side off the others, both ways; a bridge is on neither side.
fn cut(name: &str, side: &[HostId], bridge: Option<HostId>) -> Vec<Fault> {
    let mut near = side.to_vec();
    let side = Hosts::Only(side.to_vec());
    near.extend(bridge);
    near.sort_unstable();
    let rest = Hosts::Except(near);
    vec![drop_rule(name, side.clone(), rest.clone()), drop_rule(name, rest, side)]
}

/// Cuts one host off all others for a while.
pub(super) fn isolate(name: &str, host: HostId, from_ms: u64, to_ms: u64) -> Vec<Scheduled> {
    let mut faults: Vec<Scheduled> =
        cut(name, &[host], None).into_iter().map(|fault| Scheduled { at_ms: from_ms, fault }).collect();
    faults.push(Scheduled { at_ms: to_ms, fault: Fault::RemoveRule { name: name.to_owned() } });
    faults
}

/// Of one host: at once, or in the middle of what its disk does next.
fn power_loss(dice: &mut Dice, host: HostId) -> Fault {
    let at_call = if dice.percent(50) { dice.within(1..=40) as u32 } else { 0 };
    Fault::PowerLoss { host, at_call }
}
