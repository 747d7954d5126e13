//! What a node tells of its Docker engine.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};

use super::{MembershipError, NodeRecord};

/// Most capabilities of one engine, and most bytes of one.
pub const CAPABILITIES_MAX: usize = 32;
pub const CAPABILITY_BYTES_MAX: usize = 64;

/// The Docker engine of a node, as the node itself last reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub enum EngineReport {
    #[default]
    Unknown,
    NotConfigured,
    Ready {
        version: String,
        api_version: String,
        facts: EngineFacts,
    },
    Unavailable {
        reason: String,
    },
}

/// What an engine has, and what it can do: what hardly changes while it is away.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EngineFacts {
    pub arch: String,
    /// Processors and bytes of memory of its host.
    pub cpus: u32,
    pub memory_bytes: u64,
    /// What it can do, such as `runtime:runc`; at most [`CAPABILITIES_MAX`].
    pub capabilities: BTreeSet<String>,
}

impl EngineReport {
    /// Whether it is within its limits.
    pub(super) fn check(&self) -> Result<(), MembershipError> {
        let Self::Ready { facts: EngineFacts { capabilities, .. }, .. } = self else { return Ok(()) };
        let is_long = |name: &&String| name.len() > CAPABILITY_BYTES_MAX;
        match (capabilities.len(), capabilities.iter().find(is_long)) {
            (..=CAPABILITIES_MAX, None) => Ok(()),
            (count, _) => Err(MembershipError::Update(format!(
                "an engine can have {CAPABILITIES_MAX} capabilities of {CAPABILITY_BYTES_MAX} bytes at most; {count} were given"
            ))),
        }
    }
}

impl NodeRecord {
    /// What its engine told of itself when it answered last, however long ago; `None` if it never did, or the node has none any more.
    pub fn engine_facts(&self) -> Option<&EngineFacts> {
        match &self.engine {
            EngineReport::Ready { facts, .. } => Some(facts),
            EngineReport::NotConfigured => None,
            EngineReport::Unknown | EngineReport::Unavailable { .. } => self.engine_before.as_ref(),
        }
    }

    pub(super) fn take_engine(&mut self, engine: EngineReport) {
        let before = std::mem::replace(&mut self.engine, engine);
        match (&self.engine, before) {
            (EngineReport::Ready { .. } | EngineReport::NotConfigured, _) => self.engine_before = None,
            (_, EngineReport::Ready { facts, .. }) => self.engine_before = Some(facts),
            (_, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::profile;
    use super::super::{Announcement, Membership, NodeId, NodeProfile};
    use super::*;

    fn say(m: &mut Membership, engine: EngineReport) -> Result<(), MembershipError> {
        let NodeProfile { address, zone, region, version, weight, .. } = profile("a");
        m.announce(NodeId(1), Announcement { address, zone, region, version, weight, engine })
    }

    fn ready(capabilities: BTreeSet<String>) -> EngineReport {
        let facts = EngineFacts { arch: "amd64".into(), cpus: 1, memory_bytes: 1, capabilities };
        EngineReport::Ready { version: "1".into(), api_version: "1.41".into(), facts }
    }

    #[test]
    fn an_engine_has_few_and_short_capabilities() {
        let mut m = Membership::default();
        m.admit([1; 32], profile("a"), 0).unwrap();
        let mut said = |capabilities: BTreeSet<String>| say(&mut m, ready(capabilities));
        let names = |count: usize| (0..count).map(|i| format!("runtime:{i}")).collect::<BTreeSet<_>>();
        assert_eq!(said(names(CAPABILITIES_MAX)), Ok(()));
        assert!(said(names(CAPABILITIES_MAX + 1)).unwrap_err().to_string().contains("33 were given"));
        assert!(said(["x".repeat(CAPABILITY_BYTES_MAX + 1)].into()).is_err());
    }

    #[test]
    fn what_an_engine_can_do_is_known_while_it_is_away() {
        let mut m = Membership::default();
        m.admit([1; 32], profile("a"), 0).unwrap();
        let mut known = |engine: EngineReport| {
            say(&mut m, engine).unwrap();
            m.get(NodeId(1)).unwrap().engine_facts().map(|facts| facts.capabilities.len())
        };
        let away = || EngineReport::Unavailable { reason: "no socket".into() };
        let one = || ready(["gpu".to_owned()].into());
        assert_eq!(known(away()), None, "it never told");
        assert_eq!(known(one()), Some(1));
        assert_eq!((known(away()), known(away())), (Some(1), Some(1)));
        assert_eq!(known(EngineReport::Unknown), Some(1));
        assert_eq!(known(ready(BTreeSet::new())), Some(0), "it is another one now");
        assert_eq!(known(away()), Some(0));
        assert_eq!(known(EngineReport::NotConfigured), None);
        assert_eq!(known(away()), None);
    }
}
