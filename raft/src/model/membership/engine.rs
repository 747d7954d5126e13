//! What a node tells of its Docker engine.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};

use super::MembershipError;

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
        arch: String,
        /// Processors and bytes of memory of its host.
        cpus: u32,
        memory_bytes: u64,
        /// What it can do, such as `runtime:runc`; at most [`CAPABILITIES_MAX`].
        capabilities: BTreeSet<String>,
    },
    Unavailable {
        reason: String,
    },
}

impl EngineReport {
    /// Whether it is within its limits.
    pub(super) fn check(&self) -> Result<(), MembershipError> {
        let Self::Ready { capabilities, .. } = self else { return Ok(()) };
        let is_long = |name: &&String| name.len() > CAPABILITY_BYTES_MAX;
        match (capabilities.len(), capabilities.iter().find(is_long)) {
            (..=CAPABILITIES_MAX, None) => Ok(()),
            (count, _) => Err(MembershipError::Update(format!(
                "an engine can have {CAPABILITIES_MAX} capabilities of {CAPABILITY_BYTES_MAX} bytes at most; {count} were given"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::profile;
    use super::super::{Announcement, Membership, NodeProfile};
    use super::*;

    #[test]
    fn an_engine_has_few_and_short_capabilities() {
        let mut m = Membership::default();
        let id = m.admit([1; 32], profile("a"), 0).unwrap().id;
        let mut said = |capabilities: BTreeSet<String>| {
            let engine = EngineReport::Ready {
                version: "1".into(),
                api_version: "1.41".into(),
                arch: "amd64".into(),
                cpus: 1,
                memory_bytes: 1,
                capabilities,
            };
            let NodeProfile { address, zone, region, version, weight, .. } = profile("a");
            m.announce(id, Announcement { address, zone, region, version, weight, engine })
        };
        let names = |count: usize| (0..count).map(|i| format!("runtime:{i}")).collect::<BTreeSet<_>>();
        assert_eq!(said(names(CAPABILITIES_MAX)), Ok(()));
        assert!(said(names(CAPABILITIES_MAX + 1)).unwrap_err().to_string().contains("33 were given"));
        assert!(said(["x".repeat(CAPABILITY_BYTES_MAX + 1)].into()).is_err());
    }
}
