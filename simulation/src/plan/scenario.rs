//! Scenarios: a fleet, its load, faults at times or by simple rules, and what must hold, in a TOML file.
//!
//! The keys are those of plans wherever a plan has them; `simulation/scenarios/` has examples of all of it. A seed decides what a rule
//! leaves open (which hosts are picked, when within a range), each `[[fault]]` from its own stream.

mod faults;
mod shipped;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::faults::{FaultRule, TIMING_KEYS};
pub use self::shipped::SHIPPED;
use super::expand::SETTLE_MS;
use super::hold::Hold;
use super::{
    DiskShape, EngineShape, FleetShape, HOSTS_MAX, HostId, HostShape, Latency, Load, NetworkShape, Plan,
    TransportKind,
};

/// A scenario that was read and makes sense.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub name: String,
    /// Why there is such a scenario.
    pub description: String,
    text: String,
    content: Content,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    description: String,
    fleet: Fleet,
    #[serde(default)]
    load: LoadRule,
    /// Read one by one: their keys depend on what they do.
    #[serde(default)]
    fault: Vec<toml::Table>,
    #[serde(default)]
    hold: Hold,
    #[serde(skip)]
    rules: Vec<FaultRule>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fleet {
    /// How many, late ones included.
    hosts: u32,
    /// Those that only a `start` starts.
    #[serde(default)]
    late: Vec<HostId>,
    /// One for each host.
    zones: Option<Vec<String>>,
    #[serde(default)]
    transport: TransportKind,
    fault_ms: u64,
    settle_ms: Option<u64>,
    #[serde(default)]
    unhealed: Vec<HostId>,
    segment_bytes: Option<u32>,
    snapshot_entries: Option<u64>,
    #[serde(default)]
    network: NetworkShape,
    /// Hosts that differ.
    #[serde(default)]
    host: Vec<HostRule>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostRule {
    host: HostId,
    #[serde(default)]
    drift_ppm: i32,
    #[serde(default)]
    wall_ahead_ms: i64,
    #[serde(default)]
    disk: DiskShape,
    #[serde(default)]
    engine: EngineShape,
}

/// [`Load`], each part with what is usual.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LoadRule {
    clients: u32,
    think: Latency,
    keys: u32,
    writes: u32,
    reads: u32,
    pulls: u32,
    runs: u32,
    others: u32,
    timeout_ms: u64,
}

impl Default for LoadRule {
    fn default() -> Self {
        let think = Latency::even(100_000, 300_000);
        Self {
            clients: 4,
            think,
            keys: 4,
            writes: 50,
            reads: 50,
            pulls: 0,
            runs: 0,
            others: 1,
            timeout_ms: 5_000,
        }
    }
}

/// A file that is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("cannot read {path}: {source}", path = .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{name}, {mistake}")]
    Wrong { name: String, mistake: Mistake },
}

/// What is wrong in a scenario, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// From 1; absent if it is not in one place.
    pub line: Option<usize>,
    pub what: String,
    /// What was probably meant.
    pub nearest: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.what)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => Ok(()),
        }
    }
}

impl Scenario {
    /// Reads a file, or a scenario that ships with this program, by its name.
    ///
    /// # Errors
    /// If there is neither, or it makes no sense.
    pub fn find(called: &str) -> Result<Self, ScenarioError> {
        if let Some((name, text)) = SHIPPED.iter().find(|(name, _)| *name == called) {
            return Self::parse(name, text);
        }
        let path = Path::new(called);
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Unreadable { path: path.to_owned(), source })?;
        let name =
            path.file_stem().map_or_else(|| called.to_owned(), |name| name.to_string_lossy().into_owned());
        let parsed = Self::parse(&name, &text);
        // Mistakes are looked for in the file, not under its name.
        parsed.map_err(|error| match error {
            ScenarioError::Wrong { mistake, .. } => ScenarioError::Wrong { name: called.to_owned(), mistake },
            other => other,
        })
    }

    /// # Errors
    /// With the first mistake: where it is, and what was probably meant.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let wrong = |mistake| ScenarioError::Wrong { name: name.to_owned(), mistake };
        let content = parse_content(text).map_err(wrong)?;
        let description = content.description.trim().replace('\n', " ");
        let scenario = Self { name: name.to_owned(), description, text: text.to_owned(), content };
        let check = scenario.plan(0).check();
        check.map_err(|what| wrong(Mistake { line: None, what, nearest: None }))?;
        Ok(scenario)
    }

    /// The plan for a seed.
    pub fn plan(&self, seed: u64) -> Plan {
        let (fleet, load) = (&self.content.fleet, &self.content.load);
        let host = |id: HostId| {
            let rule = fleet.host.iter().find(|rule| rule.host == id);
            let zone = fleet.zones.as_ref().and_then(|zones| zones.get(id as usize - 1).cloned());
            HostShape {
                zone,
                late: fleet.late.contains(&id),
                drift_ppm: rule.map_or(0, |rule| rule.drift_ppm),
                wall_ahead_ms: rule.map_or(0, |rule| rule.wall_ahead_ms),
                disk: rule.map(|rule| rule.disk.clone()).unwrap_or_default(),
                engine: rule.map(|rule| rule.engine.clone()).unwrap_or_default(),
                weight: None,
            }
        };
        let mut plan = Plan {
            seed,
            profile: self.name.clone(),
            transport: fleet.transport,
            fleet: FleetShape {
                hosts: (1..=fleet.hosts).map(host).collect(),
                network: fleet.network.clone(),
                segment_bytes: fleet.segment_bytes.unwrap_or(1 << 20),
                snapshot_entries: fleet.snapshot_entries.unwrap_or(500),
                ring: None,
            },
            load: Load {
                clients: load.clients,
                think: load.think,
                keys: load.keys,
                writes: load.writes,
                reads: load.reads,
                pulls: load.pulls,
                runs: load.runs,
                others: load.others,
                timeout_ms: load.timeout_ms,
                ring: None,
                calms: Vec::new(),
            },
            faults: Vec::new(),
            fault_ms: fleet.fault_ms,
            settle_ms: fleet.settle_ms.unwrap_or(SETTLE_MS),
            unhealed: fleet.unhealed.clone(),
            mutant: None,
            flip_payload: None,
            hold: self.content.hold.clone(),
        };
        let faults = (1..).zip(&self.content.rules).flat_map(|(number, rule)| rule.expand(number, &plan));
        plan.faults = faults.filter(|scheduled| scheduled.at_ms <= plan.fault_ms).collect();
        plan.faults.sort_by_key(|scheduled| scheduled.at_ms);
        plan
    }

    /// Of the file's content.
    pub fn digest(&self) -> String {
        crate::trace::digest(self.text.as_bytes())
    }
}

fn parse_content(text: &str) -> Result<Content, Mistake> {
    let at = |span: Option<std::ops::Range<usize>>| span.map(|span| line_of(text, span.start));
    let mut content: Content =
        toml::from_str(text).map_err(|error| mistake(at(error.span()), error.message(), &[]))?;
    let hosts = content.fleet.hosts;
    let whole = |what: String| Mistake { line: None, what, nearest: None };
    if hosts == 0 || hosts as usize > HOSTS_MAX {
        return Err(whole(format!("fleet.hosts is {hosts}: from 1 to {HOSTS_MAX}")));
    }
    if let Some(zones) = content.fleet.zones.as_ref().filter(|zones| zones.len() != hosts as usize) {
        return Err(whole(format!("fleet.zones has {} zones for {hosts} hosts", zones.len())));
    }
    for host in content.fleet.late.iter().chain(content.fleet.host.iter().map(|rule| &rule.host)) {
        if *host == 0 || *host > hosts {
            return Err(whole(format!("fleet: there is no host {host}: hosts are numbered 1 to {hosts}")));
        }
    }
    let document = DeTable::parse(text).expect("it was parsed before");
    let tables = document.get_ref().get("fault").and_then(|faults| faults.get_ref().as_array());
    let tables = tables.into_iter().flatten();
    for (fields, table) in std::mem::take(&mut content.fault).into_iter().zip(tables) {
        let rule = FaultRule::read(fields, hosts).map_err(|what| fault_mistake(text, table, &what))?;
        content.rules.push(rule);
    }
    Ok(content)
}

/// A mistake in one `[[fault]]`: at the key that it is about, if that is there, else where the table begins.
fn fault_mistake(text: &str, table: &Spanned<DeValue<'_>>, what: &str) -> Mistake {
    let mut mistake = mistake(Some(line_of(text, table.span().start)), what, TIMING_KEYS);
    let key = mistake.what.split('`').nth(1).unwrap_or_default();
    let fields = table.get_ref().as_table();
    if let Some((key, _)) = fields.and_then(|fields| fields.get_key_value(key)) {
        mistake.line = Some(line_of(text, key.span().start));
    }
    mistake
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// Makes serde's "unknown field `x`, expected one of `a`, `b`" shorter: the nearest of them (or of `more`) is what helps.
fn mistake(line: Option<usize>, message: &str, more: &[&str]) -> Mistake {
    let quoted =
        |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    for (kind, word) in [("unknown field `", "key"), ("unknown variant `", "value")] {
        let Some(at) = message.find(kind) else { continue };
        let mut names = quoted(&message[at..]).into_iter();
        let unknown = names.next().unwrap_or_default();
        let more = more.iter().filter(|_| word == "key").map(|name| (*name).to_owned());
        let known: Vec<String> = names.chain(more).collect();
        let nearest = longshore_node::config::keys::nearest(&unknown, known.iter().map(String::as_str));
        let nearest = nearest.map(str::to_owned);
        let mut what = format!("unknown {word} `{unknown}`");
        if nearest.is_none() && !known.is_empty() {
            what.push_str(&format!("; known are {}", known.join(", ")));
        }
        return Mistake { line, what, nearest };
    }
    Mistake { line, what: message.trim().to_owned(), nearest: None }
}

#[cfg(test)]
mod tests;
