//! What a run is asked for, apart from its seed: as arguments of `run`, and as a plan.

use std::fmt;
use std::str::FromStr;

use crate::plan::expand::{FAULT_MIN_MS, Options, expand};
use crate::plan::profile::Profile;
use crate::plan::scenario::Scenario;
use crate::plan::{HOSTS_MAX, Plan, TransportKind};

/// How long faults happen, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minutes {
    text: String,
    ms: u64,
}

/// Longest time for faults that the command line takes: a day.
const MINUTES_MAX: f64 = 1440.0;

impl FromStr for Minutes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let minutes: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of minutes"))?;
        let ms = (minutes * 60_000.0).round();
        if !(minutes.is_finite() && ms >= FAULT_MIN_MS as f64 && minutes <= MINUTES_MAX) {
            let least = FAULT_MIN_MS as f64 / 60_000.0;
            return Err(format!("{text} is not from {least:.2} to {MINUTES_MAX} minutes"));
        }
        Ok(Self { text: text.to_owned(), ms: ms as u64 })
    }
}

impl fmt::Display for Minutes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where plans come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Profile(Profile),
    /// A scenario, and what it was called on the command line.
    Scenario(Box<Scenario>, String),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub source: Source,
    /// Hosts in all, for profiles.
    pub nodes: Option<u32>,
    pub minutes: Option<Minutes>,
    /// Of a scenario, unless it is given: its own.
    pub transport: Option<TransportKind>,
    pub mutant: Option<String>,
    pub flip_payload: Option<u64>,
}

impl Request {
    pub fn profile(profile: Profile) -> Self {
        Self {
            source: Source::Profile(profile),
            nodes: None,
            minutes: None,
            transport: None,
            mutant: None,
            flip_payload: None,
        }
    }

    /// The arguments of `run` that ask for the same.
    pub fn args(&self) -> Vec<String> {
        let mut args = Vec::new();
        let mut option = |name: &str, value: String| args.extend([format!("--{name}"), value]);
        match &self.source {
            Source::Profile(profile) => option("profile", profile.name().to_owned()),
            Source::Scenario(_, called) => option("scenario", called.clone()),
        }
        if let Some(nodes) = self.nodes {
            option("nodes", nodes.to_string());
        }
        if let Some(minutes) = &self.minutes {
            option("minutes", minutes.to_string());
        }
        if let Some(transport) = self.transport {
            option("transport", transport.name().to_owned());
        }
        if let Some(mutant) = &self.mutant {
            option("mutant", mutant.clone());
        }
        if let Some(write) = self.flip_payload {
            option("flip-payload", write.to_string());
        }
        args
    }

    /// The arguments of `run` for one seed.
    pub fn args_for(&self, seed: u64) -> Vec<String> {
        let mut args = vec!["--seed".to_owned(), seed.to_string()];
        args.extend(self.args());
        args
    }

    /// A name by which results are found again. Scenario files change: their content counts.
    pub fn what(&self) -> String {
        let args = self.args().join(" ");
        match &self.source {
            Source::Profile(_) => args,
            Source::Scenario(scenario, _) => format!("{args} ({})", scenario.digest()),
        }
    }

    /// The command line that does it again.
    pub fn reproduce(&self, seed: u64) -> String {
        format!("longshore-sim run {}", self.args_for(seed).join(" "))
    }

    pub fn plan(&self, seed: u64) -> Plan {
        let fault_ms = self.minutes.as_ref().map(|minutes| minutes.ms);
        let mut plan = match &self.source {
            Source::Profile(profile) => {
                assert!(
                    self.nodes.is_none_or(|nodes| nodes as usize <= HOSTS_MAX),
                    "arguments are in bounds"
                );
                let transport = self.transport.unwrap_or_default();
                expand(seed, &Options { profile: *profile, nodes: self.nodes, fault_ms, transport })
            }
            Source::Scenario(scenario, _) => scenario.plan(seed),
        };
        if let Some(transport) = self.transport {
            plan.transport = transport;
        }
        plan.mutant.clone_from(&self.mutant);
        plan.flip_payload = self.flip_payload;
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes() {
        let ms = |text: &str| text.parse::<Minutes>().map(|minutes| minutes.ms);
        assert_eq!((ms("2"), ms("0.5"), ms("0.17")), (Ok(120_000), Ok(30_000), Ok(10_200)));
        for (text, expected) in [
            ("0.1", "0.1 is not from 0.17 to 1440 minutes"),
            ("-3", "is not from"),
            ("NaN", "is not from"),
            ("1e9", "is not from"),
            ("two", "`two` is not a number of minutes"),
        ] {
            assert!(ms(text).unwrap_err().contains(expected), "{text}");
        }
    }

    #[test]
    fn arguments_say_it_all() {
        let mut request = Request::profile(Profile::Disk);
        assert_eq!(request.reproduce(7), "longshore-sim run --seed 7 --profile disk");
        request.nodes = Some(4);
        request.minutes = Some("0.5".parse().unwrap());
        request.transport = Some(TransportKind::Quic);
        request.mutant = Some("early-callbacks".into());
        request.flip_payload = Some(3);
        let args = "--profile disk --nodes 4 --minutes 0.5 --transport quic --mutant early-callbacks --flip-payload 3";
        assert_eq!(request.what(), args);
        let plan = request.plan(7);
        assert_eq!((plan.fleet.hosts.len(), plan.fault_ms, plan.seed), (4, 30_000, 7));
        assert_eq!((plan.transport, plan.flip_payload), (TransportKind::Quic, Some(3)));
        assert_eq!((plan.profile.as_str(), plan.mutant.as_deref()), ("disk", Some("early-callbacks")));
    }
}
