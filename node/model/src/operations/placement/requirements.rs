//! What a request asks of the nodes that it goes to.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use longshore_raft::NodeId;

use super::super::load::{Load, MEMORY_BYTES_MAX};
use super::Candidate;

/// Most requirements of one request, of each kind.
pub const REQUIREMENTS_MAX: usize = 64;

/// A label that a node must have: `KEY=VALUE`, or `KEY` with any value.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LabelRequirement {
    pub key: String,
    pub value: Option<String>,
}

impl LabelRequirement {
    pub(super) fn is_met_by(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        value.is_some_and(|value| self.value.as_ref().is_none_or(|wanted| wanted == value))
    }
}

impl FromStr for LabelRequirement {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        match key.is_empty() {
            true => Err(format!("{text:?} is not a label such as disk=ssd, or disk for any value")),
            false => Ok(Self { key: key.to_owned(), value }),
        }
    }
}

impl fmt::Display for LabelRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{}={value}", self.key),
            None => f.write_str(&self.key),
        }
    }
}

/// What a node must have to be chosen, and what speaks for it. The empty one is met by all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Requirements {
    /// All of these.
    pub labels: Vec<LabelRequirement>,
    /// One of these, if there are any.
    pub zones: Vec<String>,
    /// As many processors, and bytes of memory, as its host has at least.
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Bytes that are free on the disk of its engine at least.
    pub storage_bytes: u64,
    /// Of its engine, as Docker spells it: `amd64`, `arm64`.
    pub arch: Option<String>,
    /// All of these: what its engine can do, such as `runtime:runc`.
    pub capabilities: Vec<String>,
    /// Nodes in it are taken before all others, as far as they can do the work. Rules nobody out.
    pub preferred_zone: Option<String>,
}

impl Requirements {
    /// Whether it matters what engines told of their hosts and of themselves.
    pub fn ask_for_capacity(&self) -> bool {
        self.cpus > 0 || self.memory_bytes > 0 || self.arch.is_some() || !self.capabilities.is_empty()
    }
}

/// What a node's engine tells of its host and of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capacity {
    pub cpus: u32,
    pub memory_bytes: u64,
    pub arch: String,
    pub capabilities: BTreeSet<String>,
}

/// No host has more processors: whoever says so is mistaken.
const CPUS_MAX: u32 = 65_536;

impl Capacity {
    /// With nothing in it that can not be, whoever told it.
    pub fn bounded(self) -> Self {
        Self { cpus: self.cpus.min(CPUS_MAX), memory_bytes: self.memory_bytes.min(MEMORY_BYTES_MAX), ..self }
    }
}

/// Where work may go, later too: when its node dies, or is to be emptied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Places {
    /// Only to these, if there are any.
    pub on: Vec<NodeId>,
    pub requirements: Requirements,
}

/// Why a node is not among those that can do something, in words that follow its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// It lacks what is asked for, or is not meant to do it: it has no engine, or is paused.
    Unfit(String),
    /// It is not there just now: it is dead, or its engine does not answer.
    Away(String),
    /// It has not told yet whether it has what is asked for.
    Untold(String),
}

impl Miss {
    pub fn why(&self) -> &str {
        match self {
            Self::Unfit(why) | Self::Away(why) | Self::Untold(why) => why,
        }
    }

    /// Whether it may be over in a moment, though nobody changes anything.
    pub fn may_pass(&self) -> bool {
        !matches!(self, Self::Unfit(_))
    }
}

impl Candidate {
    /// What it lacks, if anything: what is known to be missing before what is not known.
    pub(super) fn misses(&self, wanted: &Requirements) -> Option<Miss> {
        let zone = || wanted.zones.is_empty() || self.zone.as_ref().is_some_and(|z| wanted.zones.contains(z));
        if let Some(label) = wanted.labels.iter().find(|label| !label.is_met_by(&self.labels)) {
            return Some(Miss::Unfit(match self.labels.get(&label.key) {
                Some(value) => format!("has {}={value}", label.key),
                None => format!("has no label {}", label.key),
            }));
        }
        if !zone() {
            return Some(Miss::Unfit(match &self.zone {
                Some(zone) => format!("is in zone {zone}"),
                None => "is in no zone".to_owned(),
            }));
        }
        let misses = [self.unable.clone(), self.is_too_small(wanted), self.is_too_full(wanted)];
        let known = misses.iter().flatten().find(|miss| matches!(miss, Miss::Unfit(_)));
        known.or_else(|| misses.iter().flatten().next()).cloned()
    }

    fn is_too_small(&self, wanted: &Requirements) -> Option<Miss> {
        let Requirements { cpus, memory_bytes, arch, capabilities, .. } = wanted;
        if !wanted.ask_for_capacity() {
            return None;
        }
        let Some(has) = &self.capacity else {
            return Some(Miss::Untold("has not told yet what its host has".to_owned()));
        };
        if has.cpus < *cpus {
            return Some(Miss::Unfit(format!("has {} processors", has.cpus)));
        }
        if has.memory_bytes < *memory_bytes {
            return Some(Miss::Unfit(format!("has {} MiB of memory", has.memory_bytes >> 20)));
        }
        if arch.as_ref().is_some_and(|arch| arch_of_go(arch) != arch_of_go(&has.arch)) {
            return Some(Miss::Unfit(format!("is {}", has.arch)));
        }
        let missing = capabilities.iter().find(|name| !has.capabilities.contains(*name))?;
        Some(Miss::Unfit(format!("lacks {missing}")))
    }

    fn is_too_full(&self, wanted: &Requirements) -> Option<Miss> {
        if wanted.storage_bytes == 0 {
            return None;
        }
        match self.load.as_ref().and_then(Load::disk_free) {
            None => Some(Miss::Untold("has not told yet how much of its disk is free".to_owned())),
            Some(free) if free < wanted.storage_bytes => {
                Some(Miss::Unfit(format!("has {} MiB of its disk free", free >> 20)))
            }
            Some(_) => None,
        }
    }
}

/// An architecture as Go spells it, and with it Docker's registries; engines tell theirs so, or as the kernel does.
pub fn arch_of_go(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        other => other,
    }
}
