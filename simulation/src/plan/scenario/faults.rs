//! `[[fault]]`: what happens, when, to whom, and for how long.

use serde::Deserialize;

use crate::plan::dice::Dice;
use crate::plan::{CallBehaviour, Fault, HostId, Hosts, Plan, PullBehaviour, Rule, Scheduled, Verdict};

/// Keys that say when and to whom; the others belong to what is done.
pub(super) const TIMING_KEYS: &[&str] = &[
    "at_ms",
    "every_ms",
    "from_ms",
    "to_ms",
    "between_ms",
    "times",
    "for_ms",
    "stagger_ms",
    "host",
    "hosts",
    "pick",
];

/// Most times that one rule strikes.
const TIMES_MAX: u64 = 10_000;

/// A rule by which faults come.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FaultRule {
    when: When,
    whom: Whom,
    what: What,
    /// After this time it ends.
    for_ms: Option<u64>,
    /// Each further host is struck this much later.
    stagger_ms: u64,
}

#[derive(Debug, Clone, PartialEq)]
enum When {
    At(u64),
    Every {
        every_ms: u64,
        from_ms: u64,
        to_ms: Option<u64>,
    },
    /// So many times, at random.
    Between {
        from_ms: u64,
        to_ms: u64,
        times: u64,
    },
}

#[derive(Debug, Clone, PartialEq)]
enum Whom {
    /// What is done is not done to a host.
    Nobody,
    Hosts(Vec<HostId>),
    /// So many at random, others each time.
    Pick(u32),
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    /// With a host's number in the place of its own.
    Fault(Fault),
    Link(Link),
}

/// `do = "link"`: a rule over the links between some hosts and others.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    /// The other end; all others if absent.
    to: Option<Vec<HostId>>,
    /// Only what the hosts send, or only what they are sent.
    one_way: Option<OneWay>,
    #[serde(default = "always")]
    chance_ppm: u32,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OneWay {
    Out,
    In,
}

fn always() -> u32 {
    1_000_000
}

/// The keys of [`TIMING_KEYS`].
#[derive(Debug, Default, Deserialize)]
struct Timing {
    at_ms: Option<u64>,
    every_ms: Option<u64>,
    from_ms: Option<u64>,
    to_ms: Option<u64>,
    between_ms: Option<[u64; 2]>,
    times: Option<u64>,
    for_ms: Option<u64>,
    stagger_ms: Option<u64>,
    host: Option<HostId>,
    hosts: Option<Vec<HostId>>,
    pick: Option<u32>,
}

impl FaultRule {
    /// Of a table; `hosts` is how many the fleet has.
    pub(super) fn read(mut fields: toml::Table, hosts: u32) -> Result<Self, String> {
        let timing: toml::Table = TIMING_KEYS.iter().filter_map(|key| fields.remove_entry(*key)).collect();
        let timing: Timing =
            timing.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
        let what = what(fields)?;
        let rule = Self {
            when: when(&timing)?,
            whom: whom(&timing, &what, hosts)?,
            for_ms: timing.for_ms,
            stagger_ms: timing.stagger_ms.unwrap_or(0),
            what,
        };
        if let What::Fault(fault) = &rule.what
            && rule.for_ms.is_some()
            && !has_end(fault)
        {
            return Err(format!("`for_ms`: {} has no end", fault.name()));
        }
        Ok(rule)
    }

    /// Everything that comes of this rule in a plan whose fleet is known.
    pub(super) fn expand(&self, number: usize, plan: &Plan) -> Vec<Scheduled> {
        let dice = &mut Dice::new(plan.seed, &format!("scenario/{number}"));
        let all: Vec<HostId> = (1..=plan.fleet.hosts.len() as HostId).collect();
        let mut faults = Vec::new();
        for (time, at_ms) in self.when.times(dice, plan.fault_ms).into_iter().enumerate() {
            let mut add = |at_ms, fault| faults.push(Scheduled { at_ms, fault });
            let whom = match &self.whom {
                Whom::Nobody => Vec::new(),
                Whom::Hosts(hosts) => hosts.clone(),
                Whom::Pick(count) => dice.some_of(&all, *count as usize),
            };
            let end_ms = |begin_ms| self.for_ms.map(|for_ms| begin_ms + for_ms);
            match &self.what {
                What::Link(link) => {
                    let name = format!("link-{number}-{}", time + 1);
                    link.rules(&name, whom).into_iter().for_each(|rule| add(at_ms, Fault::AddRule { rule }));
                    if let Some(end_ms) = end_ms(at_ms) {
                        add(end_ms, Fault::RemoveRule { name });
                    }
                }
                What::Fault(fault) if whom.is_empty() => {
                    add(at_ms, fault.clone());
                    if let Some(end_ms) = end_ms(at_ms) {
                        ends(fault, plan).into_iter().for_each(|end| add(end_ms, end));
                    }
                }
                What::Fault(fault) => {
                    for (turn, host) in (0..).zip(whom) {
                        let (fault, at_ms) = (of_host(fault, host), at_ms + turn * self.stagger_ms);
                        if let Some(end_ms) = end_ms(at_ms) {
                            ends(&fault, plan).into_iter().for_each(|end| add(end_ms, end));
                        }
                        add(at_ms, fault);
                    }
                }
            }
        }
        faults
    }
}

impl When {
    fn times(&self, dice: &mut Dice, fault_ms: u64) -> Vec<u64> {
        match *self {
            Self::At(at_ms) => vec![at_ms],
            Self::Every { every_ms, from_ms, to_ms } => {
                let to_ms = to_ms.unwrap_or(fault_ms).min(fault_ms);
                (0..TIMES_MAX)
                    .map(|time| from_ms + time * every_ms)
                    .take_while(|at_ms| *at_ms <= to_ms)
                    .collect()
            }
            Self::Between { from_ms, to_ms, times } => {
                (0..times).map(|_| dice.within(from_ms..=to_ms)).collect()
            }
        }
    }
}

impl Link {
    fn rules(&self, name: &str, hosts: Vec<HostId>) -> Vec<Rule> {
        let near = Hosts::Only(hosts.clone());
        let far = self.to.clone().map_or(Hosts::Except(hosts), Hosts::Only);
        let rule = |from: &Hosts, to: &Hosts| Rule {
            name: name.to_owned(),
            from: from.clone(),
            to: to.clone(),
            chance_ppm: self.chance_ppm,
            verdict: self.verdict,
        };
        match self.one_way {
            Some(OneWay::Out) => vec![rule(&near, &far)],
            Some(OneWay::In) => vec![rule(&far, &near)],
            None => vec![rule(&near, &far), rule(&far, &near)],
        }
    }
}

fn when(timing: &Timing) -> Result<When, String> {
    let only_with = |key: &str, other: &str, given: bool| {
        if given { Err(format!("`{key}` goes with {other} only")) } else { Ok(()) }
    };
    let ways = [timing.at_ms.is_some(), timing.every_ms.is_some(), timing.between_ms.is_some()];
    match ways.into_iter().filter(|way| *way).count() {
        0 => return Err("it must say when: at_ms, every_ms or between_ms".to_owned()),
        1 => {}
        _ => {
            return Err(
                "it says more than once when: at_ms, every_ms and between_ms exclude each other".to_owned()
            );
        }
    }
    if timing.every_ms.is_none() {
        only_with("from_ms", "every_ms", timing.from_ms.is_some())?;
        only_with("to_ms", "every_ms", timing.to_ms.is_some())?;
    }
    if timing.between_ms.is_none() {
        only_with("times", "between_ms", timing.times.is_some())?;
    }
    if let Some(every_ms) = timing.every_ms {
        if every_ms == 0 {
            return Err("`every_ms` is 0".to_owned());
        }
        let from_ms = timing.from_ms.unwrap_or(every_ms);
        return Ok(When::Every { every_ms, from_ms, to_ms: timing.to_ms });
    }
    if let Some([from_ms, to_ms]) = timing.between_ms {
        if from_ms > to_ms {
            return Err(format!("`between_ms` begins at {from_ms}, after its end at {to_ms}"));
        }
        let times = timing.times.unwrap_or(1);
        if times > TIMES_MAX {
            return Err(format!("`times` is {times}: at most {TIMES_MAX}"));
        }
        return Ok(When::Between { from_ms, to_ms, times });
    }
    Ok(When::At(timing.at_ms.expect("it is the only one of three that is left")))
}

fn whom(timing: &Timing, what: &What, hosts: u32) -> Result<Whom, String> {
    let needs = match what {
        What::Link(_) => true,
        What::Fault(fault) => fault.host().is_some(),
    };
    let exists = |host: HostId| {
        if (1..=hosts).contains(&host) {
            Ok(())
        } else {
            Err(format!("there is no host {host}: hosts are numbered 1 to {hosts}"))
        }
    };
    if let What::Link(Link { to: Some(to), .. }) = what {
        to.iter().try_for_each(|host| exists(*host))?;
    }
    match (timing.host, &timing.hosts, timing.pick) {
        (None, None, None) if needs => Err("it must say whom: host, hosts or pick".to_owned()),
        (None, None, None) => Ok(Whom::Nobody),
        _ if !needs => Err("it happens to no host: leave out host, hosts and pick".to_owned()),
        (Some(host), None, None) => exists(host).map(|()| Whom::Hosts(vec![host])),
        (None, Some(list), None) => {
            list.iter().try_for_each(|host| exists(*host))?;
            if list.is_empty() { Err("`hosts` is empty".to_owned()) } else { Ok(Whom::Hosts(list.clone())) }
        }
        (None, None, Some(count)) if (1..=hosts).contains(&count) => Ok(Whom::Pick(count)),
        (None, None, Some(count)) => Err(format!("`pick` is {count}: from 1 to {hosts}")),
        _ => Err("it says more than once whom: host, hosts and pick exclude each other".to_owned()),
    }
}

fn what(mut fields: toml::Table) -> Result<What, String> {
    let message = |error: toml::de::Error| error.message().to_owned();
    let Some(toml::Value::String(name)) = fields.get("do").cloned() else {
        return Err("it must say what happens: do = \"...\"".to_owned());
    };
    if name == "link" {
        fields.remove("do");
        return fields.try_into().map(What::Link).map_err(message);
    }
    if name == "full_disk" {
        fields.entry("full").or_insert(true.into());
    }
    // Faults of a host are read with a number that `of_host` replaces; those of none do not know the field.
    let without_host = fields.clone();
    fields.insert("host".to_owned(), 1.into());
    let fault: Result<Fault, _> = fields.try_into();
    let fault = match fault {
        Err(error) if error.message().contains("unknown field `host`") => without_host.try_into(),
        other => other,
    };
    fault.map(What::Fault).map_err(|error| {
        let message = message(error);
        // `link` is no fault of a plan.
        if message.starts_with("unknown variant") { format!("{message}, `link`") } else { message }
    })
}

fn of_host(fault: &Fault, host: HostId) -> Fault {
    let mut fault = fault.clone();
    match &mut fault {
        Fault::Kill { host: of }
        | Fault::PowerLoss { host: of, .. }
        | Fault::Stop { host: of }
        | Fault::Start { host: of }
        | Fault::Pause { host: of }
        | Fault::Resume { host: of }
        | Fault::Wipe { host: of }
        | Fault::Leave { host: of }
        | Fault::Remove { host: of }
        | Fault::StepWallClock { host: of, .. }
        | Fault::SetDrift { host: of, .. }
        | Fault::SlowDisk { host: of, .. }
        | Fault::FullDisk { host: of, .. }
        | Fault::FailSync { host: of }
        | Fault::FailRead { host: of }
        | Fault::Rot { host: of }
        | Fault::Weigh { host: of, .. }
        | Fault::Drain { host: of }
        | Fault::Undrain { host: of }
        | Fault::EngineDown { host: of }
        | Fault::EngineUp { host: of }
        | Fault::EnginePulls { host: of, .. }
        | Fault::EngineCalls { host: of, .. }
        | Fault::EngineForgets { host: of } => *of = host,
        Fault::PowerLossAll
        | Fault::AddRule { .. }
        | Fault::RemoveRule { .. }
        | Fault::HealNetwork
        | Fault::PauseRing
        | Fault::ResumeRing
        | Fault::RebalanceRing => {}
    }
    fault
}

fn has_end(fault: &Fault) -> bool {
    matches!(
        fault,
        Fault::Kill { .. }
            | Fault::PowerLoss { .. }
            | Fault::PowerLossAll
            | Fault::Stop { .. }
            | Fault::Wipe { .. }
            | Fault::Pause { .. }
            | Fault::AddRule { .. }
            | Fault::StepWallClock { .. }
            | Fault::SetDrift { .. }
            | Fault::SlowDisk { .. }
            | Fault::FullDisk { .. }
            | Fault::EngineDown { .. }
            | Fault::EnginePulls { .. }
            | Fault::EngineCalls { .. }
    )
}

/// What ends a fault; see [`has_end`].
fn ends(fault: &Fault, plan: &Plan) -> Vec<Fault> {
    let shape = |host: HostId| &plan.fleet.hosts[host as usize - 1];
    match fault {
        Fault::Kill { host }
        | Fault::PowerLoss { host, .. }
        | Fault::Stop { host }
        | Fault::Wipe { host } => {
            vec![Fault::Start { host: *host }]
        }
        Fault::PowerLossAll => {
            let all = plan.fleet.hosts.iter().zip(1..);
            all.filter(|(shape, _)| !shape.late).map(|(_, host)| Fault::Start { host }).collect()
        }
        Fault::Pause { host } => vec![Fault::Resume { host: *host }],
        Fault::AddRule { rule } => vec![Fault::RemoveRule { name: rule.name.clone() }],
        Fault::StepWallClock { host, by_ms } => {
            vec![Fault::StepWallClock { host: *host, by_ms: by_ms.saturating_neg() }]
        }
        Fault::SetDrift { host, .. } => {
            vec![Fault::SetDrift { host: *host, drift_ppm: shape(*host).drift_ppm }]
        }
        Fault::SlowDisk { host, .. } => vec![Fault::SlowDisk { host: *host, sync: shape(*host).disk.sync }],
        Fault::FullDisk { host, full } => vec![Fault::FullDisk { host: *host, full: !full }],
        Fault::EngineDown { host } => vec![Fault::EngineUp { host: *host }],
        Fault::EnginePulls { host, .. } => vec![
            Fault::EnginePulls { host: *host, pulls: PullBehaviour::Works },
            Fault::EngineUp { host: *host },
        ],
        Fault::EngineCalls { host, .. } => vec![
            Fault::EngineCalls { host: *host, calls: CallBehaviour::Works, percent: 0 },
            Fault::EngineUp { host: *host },
        ],
        _ => Vec::new(),
    }
}
