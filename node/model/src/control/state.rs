//! The state itself and `apply`.

use bincode::{Decode, Encode};
use longshore_raft::FleetId;
use longshore_raft::consensus::machine::{ApplyContext, LogTime, StateMachine};
use longshore_raft::model::membership::{Membership, Standing};
use longshore_raft::model::ring::{Ring, RingError};

use super::command::*;
use super::credentials::Credentials;
use super::led::LedGroups;
use super::ring;
use super::token::Tokens;
use crate::codec;

/// Version of the encoded state and of commands. A node refuses a snapshot of a version it does not know.
pub const STATE_VERSION: u16 = 8;

#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct ControlState {
    /// None until `Init` is applied.
    pub fleet: Option<FleetRecord>,
    pub membership: Membership,
    pub tokens: Tokens,
    pub credentials: Credentials,
    /// None until `Init` is applied.
    pub ring: Option<Ring>,
    /// Hints.
    pub led: LedGroups,
    /// Log time of the last command.
    pub time: LogTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FleetRecord {
    pub id: FleetId,
    pub authority: AuthorityRecord,
}

impl ControlState {
    fn decide(&mut self, at: ApplyContext, command: Command) -> Result<Reply, Refusal> {
        let now = at.time;
        match command {
            Command::Init { fleet, authority, key_hash, profile, ring, unix_ms } => {
                if self.fleet.is_some() {
                    return Err(Refusal::new(
                        RefusalKind::Conflict,
                        "the fleet has been initialised already",
                    ));
                }
                let mut made = Ring::new(ring.groups, ring.replication)?;
                let node = self.membership.admit(key_hash, profile, unix_ms)?;
                let (id, replica) = (node.id, node.replica);
                let reply = Reply::Admitted { node: id, replica };
                ring::found(&mut made, id, &mut self.membership);
                self.ring = Some(made);
                self.fleet = Some(FleetRecord { id: fleet, authority });
                Ok(reply)
            }
            Command::Join { token, secret_hash, key_hash, profile, unix_ms } => {
                let known = self.membership.all().any(|n| n.key_hash == key_hash);
                if !known {
                    self.tokens.check(&token, &secret_hash, now)?;
                }
                let node = self.membership.admit(key_hash, profile, unix_ms)?;
                let reply = Reply::Admitted { node: node.id, replica: node.replica };
                if !known {
                    self.tokens.count_use(&token);
                }
                Ok(reply)
            }
            Command::Announce { node, said } => {
                self.membership.announce(node, said)?;
                Ok(Reply::Done)
            }
            Command::UpdateNode { node, change } => {
                self.membership.update(node, *change)?;
                Ok(Reply::Done)
            }
            Command::StartLeaving { node } => {
                self.membership.check_spared(node)?;
                self.membership.set_standing(node, Standing::Leaving)?;
                Ok(Reply::Done)
            }
            Command::Remove { node, left } => {
                self.membership.check_spared(node)?;
                let standing = if left { Standing::Left } else { Standing::Removed };
                self.membership.set_standing(node, standing)?;
                if let Some(ring) = &mut self.ring {
                    ring.forget_node(node);
                }
                Ok(Reply::Done)
            }
            Command::CreateToken { id, secret_hash, ttl_ms, uses_max } => {
                self.tokens.create(id, secret_hash, ttl_ms, uses_max, now)?;
                Ok(Reply::Done)
            }
            Command::RevokeToken { id } => {
                self.tokens.revoke(&id)?;
                Ok(Reply::Done)
            }
            Command::SetCredential { registry, record } => {
                self.credentials.set(registry, record)?;
                Ok(Reply::Done)
            }
            Command::RemoveCredential { registry } => {
                self.credentials.remove(&registry)?;
                Ok(Reply::Done)
            }
            Command::Ring(command) => {
                let Some(ring) = &mut self.ring else { return Err(RingError::NotFounded.into()) };
                ring::apply(ring, &mut self.membership, command)
            }
            Command::Lead { node, mut offices } => {
                // Groups that the ring has, and so no more than it has.
                offices.retain(|group, _| {
                    self.ring.as_ref().is_some_and(|ring| ring.placement(*group).is_some())
                });
                self.led.say(node, offices);
                Ok(Reply::Done)
            }
        }
    }
}

impl StateMachine for ControlState {
    type Command = Command;
    type Reply = Reply;

    fn apply(&mut self, at: ApplyContext, command: Command) -> Reply {
        assert!(at.time >= self.time, "log time went back from {:?} to {:?}", self.time, at.time);
        self.time = at.time;
        self.decide(at, command).into()
    }

    fn snapshot(&self) -> Vec<u8> {
        let mut bytes = STATE_VERSION.to_le_bytes().to_vec();
        let state =
            codec::encode(self).expect("the limits of its parts keep the state below the codec's limit");
        bytes.extend(state);
        bytes
    }

    fn restore(bytes: &[u8]) -> Result<Self, String> {
        let Some((version, state)) = bytes.split_first_chunk::<2>() else {
            return Err("the state is cut short".into());
        };
        match u16::from_le_bytes(*version) {
            STATE_VERSION => codec::decode(state).map_err(|e| e.to_string()),
            other => Err(format!(
                "the state has version {other}, this longshore knows {STATE_VERSION}: run the newer longshore"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use longshore_raft::NodeId;
    use longshore_raft::model::membership::{
        Availability, AvailabilityNote, AvailabilityOrder, NodeChange, NodeProfile, NodeRecord,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::control::RingShape;
    use crate::control::token::TokenState;

    /// A fleet of one whose log is written by the test: each command a new index, `ms` later than the last.
    struct Log {
        state: ControlState,
        at: ApplyContext,
    }

    impl Log {
        fn new() -> Self {
            let at = ApplyContext { index: 0, position: 0, time: LogTime(0) };
            let mut log = Self { state: ControlState::default(), at };
            let authority = AuthorityRecord { certificate_pem: vec![1], key_pem: vec![2] };
            let init = Command::Init {
                fleet: FleetId([7; 16]),
                authority,
                key_hash: [1; 32],
                profile: profile("a"),
                ring: RingShape::default(),
                unix_ms: 0,
            };
            assert!(matches!(log.apply(1, init), Reply::Admitted { node: NodeId(1), .. }));
            log
        }

        fn apply(&mut self, ms: u64, command: Command) -> Reply {
            self.at.index += 1;
            self.at.time.0 += ms;
            self.state.apply(self.at, command)
        }

        fn join(&mut self, token: &str, secret: u8, key: u8, name: &str) -> Reply {
            let (secret_hash, key_hash) = ([secret; 32], [key; 32]);
            self.apply(
                1,
                Command::Join {
                    token: token.into(),
                    secret_hash,
                    key_hash,
                    profile: profile(name),
                    unix_ms: 0,
                },
            )
        }
    }

    fn profile(name: &str) -> NodeProfile {
        NodeProfile {
            name: name.into(),
            address: ([127, 0, 0, 1], 7400).into(),
            zone: None,
            region: None,
            labels: BTreeMap::new(),
            version: "0.1.0".into(),
            weight: 1024,
        }
    }

    fn refusal(reply: Reply) -> String {
        match reply {
            Reply::Refused(r) => format!("{:?}: {}", r.kind, r.message),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    fn create(id: &str, ttl_ms: u64, uses_max: u32) -> Command {
        Command::CreateToken { id: id.into(), secret_hash: [9; 32], ttl_ms, uses_max }
    }

    #[test]
    fn a_fleet_is_initialised_once() {
        let mut log = Log::new();
        let again = Command::Init {
            fleet: FleetId([8; 16]),
            authority: AuthorityRecord { certificate_pem: vec![], key_pem: vec![] },
            key_hash: [2; 32],
            profile: profile("b"),
            ring: RingShape::default(),
            unix_ms: 0,
        };
        assert!(refusal(log.apply(1, again)).starts_with("Conflict"));
        assert_eq!(log.state.fleet.as_ref().unwrap().id, FleetId([7; 16]));
    }

    #[test]
    fn every_fault_of_a_token_has_its_own_sentence() {
        let mut log = Log::new();
        log.apply(1, create("once", 1_000, 1));
        assert_eq!(refusal(log.join("none", 9, 2, "b")), "Denied: the token is not one of this fleet");
        assert_eq!(refusal(log.join("once", 8, 2, "b")), "Denied: the token is not one of this fleet");
        assert!(matches!(log.join("once", 9, 2, "b"), Reply::Admitted { node: NodeId(2), .. }));
        assert!(
            matches!(log.join("once", 9, 2, "b"), Reply::Admitted { node: NodeId(2), .. }),
            "a retried join neither needs nor uses the token again"
        );
        assert!(refusal(log.join("once", 9, 3, "c")).contains("as often as it may be"));
        log.apply(1, create("short", 10, 0));
        log.apply(20, Command::RevokeToken { id: "none".into() });
        assert!(refusal(log.join("short", 9, 3, "c")).contains("has expired"));
        log.apply(1, create("revoked", 1_000, 0));
        log.apply(1, Command::RevokeToken { id: "revoked".into() });
        assert!(refusal(log.join("revoked", 9, 3, "c")).contains("has been revoked"));
        assert!(refusal(log.apply(1, Command::RevokeToken { id: "x".into() })).starts_with("NotFound"));
        assert!(refusal(log.apply(1, create("long", u64::MAX, 0))).starts_with("Invalid"));
        assert_eq!(log.state.tokens.get("once").unwrap().state(log.state.time), TokenState::UsedUp);
    }

    #[test]
    fn a_refused_join_does_not_use_the_token_up() {
        let mut log = Log::new();
        log.apply(1, create("once", 10_000, 1));
        assert!(refusal(log.join("once", 9, 2, "a")).contains("is taken"));
        assert!(matches!(log.join("once", 9, 2, "b"), Reply::Admitted { .. }));
    }

    #[test]
    fn a_node_that_has_left_is_not_admitted_again_under_its_key() {
        let mut log = Log::new();
        log.apply(1, create("t", 10_000, 0));
        log.join("t", 9, 2, "b");
        log.apply(1, Command::StartLeaving { node: NodeId(2) });
        log.apply(1, Command::Remove { node: NodeId(2), left: true });
        assert!(refusal(log.join("t", 9, 2, "b")).contains("no longer in the fleet"));
    }

    fn order(availability: Availability) -> Box<NodeChange> {
        let note = AvailabilityNote { message: None, by: NodeId(1), unix_ms: 0 };
        let order = AvailabilityOrder { availability, note };
        Box::new(NodeChange { availability: Some(order), ..NodeChange::default() })
    }

    /// Nodes 1 to `count`.
    fn fleet(count: u8) -> Log {
        let mut log = Log::new();
        log.apply(1, create("t", 10_000, 0));
        for key in 2..=count {
            log.join("t", 9, key, &format!("host{}-x", key));
        }
        log
    }

    #[test]
    fn the_last_node_that_takes_work_neither_drains_nor_leaves_nor_is_removed() {
        let mut log = fleet(2);
        let drain = |node| Command::UpdateNode { node: NodeId(node), change: order(Availability::Draining) };
        assert_eq!(log.apply(1, drain(2)), Reply::Done);
        let remove = Command::Remove { node: NodeId(1), left: false };
        for command in [drain(1), Command::StartLeaving { node: NodeId(1) }, remove] {
            let refused = refusal(log.apply(1, command));
            assert!(refused.starts_with("Conflict: a is the last node that takes work"), "{refused}");
            assert!(refused.contains("longshore node update host2-x --availability active"), "{refused}");
        }
        // The drained one may go.
        assert_eq!(log.apply(1, Command::StartLeaving { node: NodeId(2) }), Reply::Done);
        assert_eq!(log.apply(1, Command::Remove { node: NodeId(2), left: true }), Reply::Done);
        assert!(refusal(log.apply(1, Command::StartLeaving { node: NodeId(1) })).contains("the only node"));
    }

    proptest! {
        /// Whatever is commanded about nodes, in whatever order, one of them takes new work.
        #[test]
        fn somebody_takes_new_work(commands in prop::collection::vec((1u64..=5, 0u8..6), 1..60)) {
            let mut log = fleet(5);
            for (node, what) in commands {
                let node = NodeId(node);
                let update = |availability| Command::UpdateNode { node, change: order(availability) };
                let _ = log.apply(1, match what {
                    0 => update(Availability::Active),
                    1 => update(Availability::Paused),
                    2 | 3 => update(Availability::Draining),
                    4 => Command::StartLeaving { node },
                    _ => Command::Remove { node, left: false },
                });
                prop_assert!(log.state.membership.members().any(NodeRecord::is_available));
            }
        }
    }

    #[test]
    fn a_snapshot_gives_the_same_state_back_and_a_newer_version_is_refused() {
        let mut log = Log::new();
        log.apply(1, create("t", 10_000, 0));
        log.join("t", 9, 2, "b");
        let mut bytes = log.state.snapshot();
        assert_eq!(ControlState::restore(&bytes).unwrap(), log.state);
        bytes[0] += 1;
        assert!(ControlState::restore(&bytes).unwrap_err().contains("run the newer longshore"));
        assert!(ControlState::restore(&[1]).is_err());
        assert!(ControlState::restore(&log.state.snapshot()[..20]).is_err());
    }

    #[test]
    fn the_authority_key_is_never_printed() {
        let log = Log::new();
        assert!(!format!("{:?}", log.state).contains("key_pem"));
    }
}
