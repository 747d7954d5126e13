//! Credentials of registries as the fleet keeps them: sealed, so that neither this state nor what prints it shows them.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use longshore_raft::NodeId;

use super::command::{Refusal, RefusalKind};

/// Most registries with credentials.
pub const CREDENTIALS_MAX: usize = 256;
/// Most bytes of sealed credentials; identity tokens of some registries are long.
pub const SEALED_BYTES_MAX: usize = 16 << 10;
/// Longest name of a registry: a host name and a port.
pub const REGISTRY_BYTES_MAX: usize = 262;

/// How somebody is known to a registry.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct CredentialRecord {
    pub username: String,
    /// Only nodes of the fleet can open it.
    pub sealed: Vec<u8>,
    /// The node that took it, and when by its wall clock: for people.
    pub by: NodeId,
    pub unix_ms: u64,
}

/// By registry, spelled as images spell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Credentials(BTreeMap<String, CredentialRecord>);

impl Credentials {
    /// Sets or replaces those of a registry.
    pub fn set(&mut self, registry: String, record: CredentialRecord) -> Result<(), Refusal> {
        let long = registry.is_empty()
            || registry.len() > REGISTRY_BYTES_MAX
            || record.sealed.len() + record.username.len() > SEALED_BYTES_MAX;
        if long {
            return Err(Refusal::new(
                RefusalKind::Invalid,
                "the registry's name or the credentials are too long",
            ));
        }
        if self.0.len() >= CREDENTIALS_MAX && !self.0.contains_key(&registry) {
            let message =
                format!("the fleet has credentials for {CREDENTIALS_MAX} registries, the most there can be");
            return Err(Refusal::new(RefusalKind::Busy, message));
        }
        self.0.insert(registry, record);
        Ok(())
    }

    pub fn remove(&mut self, registry: &str) -> Result<(), Refusal> {
        match self.0.remove(registry) {
            Some(_) => Ok(()),
            None => {
                let message = format!("the fleet has no credentials for {registry}");
                Err(Refusal::new(RefusalKind::NotFound, message))
            }
        }
    }

    pub fn get(&self, registry: &str) -> Option<&CredentialRecord> {
        self.0.get(registry)
    }

    pub fn all(&self) -> impl Iterator<Item = (&String, &CredentialRecord)> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(sealed: usize) -> CredentialRecord {
        CredentialRecord { username: "ci".into(), sealed: vec![7; sealed], by: NodeId(1), unix_ms: 5 }
    }

    #[test]
    fn they_are_set_replaced_and_removed_within_limits() {
        let mut all = Credentials::default();
        all.set("r.example".into(), record(10)).unwrap();
        all.set("r.example".into(), record(20)).unwrap();
        assert_eq!(all.get("r.example").unwrap().sealed.len(), 20);
        for (registry, sealed) in [("", 1), ("r", SEALED_BYTES_MAX), (&"x".repeat(REGISTRY_BYTES_MAX + 1), 1)]
        {
            assert_eq!(all.set(registry.into(), record(sealed)).unwrap_err().kind, RefusalKind::Invalid);
        }
        for n in 1..CREDENTIALS_MAX {
            all.set(format!("r{n}"), record(1)).unwrap();
        }
        assert_eq!(all.set("one-more".into(), record(1)).unwrap_err().kind, RefusalKind::Busy);
        all.set("r1".into(), record(2)).unwrap();
        all.remove("r1").unwrap();
        assert_eq!(all.remove("r1").unwrap_err().kind, RefusalKind::NotFound);
    }
}
