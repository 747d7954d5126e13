//! Whether nodes take new work, as operators want it, and the rule that one of them always does.
//!
//! Invariant: no command leaves a fleet without a member that is available ([`NodeRecord::is_available`]). The log decides it, so that of two
//! people who drain each other's node the second is refused. Must never: look at who is alive, which the log does not know.

use bincode::{Decode, Encode};

use super::{Membership, MembershipError, NodeRecord, Standing};
use crate::model::ids::NodeId;

/// Most bytes of the message with an order about a node's availability.
pub const MESSAGE_BYTES_MAX: usize = 256;
/// Most nodes that a refusal names.
const NAMED_MAX: usize = 4;

/// Whether a node takes new work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub enum Availability {
    #[default]
    Active,
    /// Gets no new work; what it has goes on, and what it leads it leads on.
    Paused,
    /// Gets no new work; what it has ends or moves, and others lead instead of it. It keeps its data.
    Draining,
}

impl Availability {
    /// For a sentence: `birch is <this>`.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Draining => "being drained",
        }
    }
}

/// Who last said what a node's availability is to be, and why; for people only.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AvailabilityNote {
    pub message: Option<String>,
    /// The node that took the order, and its wall clock.
    pub by: NodeId,
    pub unix_ms: u64,
}

/// An order about a node's availability.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct AvailabilityOrder {
    pub availability: Availability,
    pub note: AvailabilityNote,
}

impl NodeRecord {
    /// Whether it takes new work, as far as the record tells. Whether it is alive is another matter.
    pub fn is_available(&self) -> bool {
        self.standing == Standing::Active && self.availability == Availability::Active
    }

    /// Whether what it does and leads is to go to others, because it is drained or leaves.
    pub fn is_draining(&self) -> bool {
        match self.standing {
            Standing::Active => self.availability == Availability::Draining,
            Standing::Leaving => true,
            Standing::Left | Standing::Removed => false,
        }
    }

    /// Why it takes no new work, for a sentence that begins with its name; `None` if it does.
    pub fn unavailable(&self) -> Option<&'static str> {
        match (self.standing, self.availability) {
            (Standing::Active, Availability::Active) => None,
            (Standing::Active, other) => Some(other.in_words()),
            (Standing::Leaving, _) => Some("leaving"),
            (Standing::Left | Standing::Removed, _) => Some("no longer in the fleet"),
        }
    }
}

impl AvailabilityOrder {
    pub(super) fn check(&self) -> Result<(), MembershipError> {
        let printable = |message: &String| {
            message.len() <= MESSAGE_BYTES_MAX && !message.chars().any(|c: char| c.is_control())
        };
        if self.note.message.as_ref().is_none_or(printable) {
            return Ok(());
        }
        let text = format!("a message has at most {MESSAGE_BYTES_MAX} bytes, all of them printable");
        Err(MembershipError::Update(text))
    }

    /// The same again changes nothing, but for a message.
    pub(super) fn carry_out(self, node: &mut NodeRecord) {
        if node.availability != self.availability || self.note.message.is_some() {
            node.availability = self.availability;
            node.availability_note = Some(self.note);
        }
    }
}

impl Membership {
    /// Refuses if nobody would be left to take new work without `id`. Fine for a node that takes none now.
    ///
    /// # Errors
    /// [`MembershipError::LastAvailable`].
    pub fn check_spared(&self, id: NodeId) -> Result<(), MembershipError> {
        let Some(node) = self.get(id).filter(|node| node.is_available()) else { return Ok(()) };
        let others: Vec<&NodeRecord> = self.members().filter(|other| other.id != id).collect();
        if others.iter().any(|other| other.is_available()) {
            return Ok(());
        }
        Err(MembershipError::LastAvailable(last_available(node, &others)))
    }
}

/// Says which nodes there are besides, and what to do.
fn last_available(node: &NodeRecord, others: &[&NodeRecord]) -> String {
    let name = &node.profile.name;
    if others.is_empty() {
        return format!(
            "{name} is the only node of the fleet: nobody else could take its work; add a node first"
        );
    }
    let state = |other: &&NodeRecord| {
        format!("{} is {}", other.profile.name, other.unavailable().unwrap_or("active"))
    };
    let mut states: Vec<String> = others.iter().take(NAMED_MAX).map(state).collect();
    if others.len() > NAMED_MAX {
        states.push(format!("{} more are not active", others.len() - NAMED_MAX));
    }
    let what_to_do = match others.iter().find(|other| other.standing == Standing::Active) {
        Some(other) => {
            format!("run `longshore node update {} --availability active` first", other.profile.name)
        }
        None => "add a node first".to_owned(),
    };
    format!("{name} is the last node that takes work: {}; {what_to_do}", states.join(", "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::profile;
    use super::super::{NodeChange, Override};
    use super::*;

    fn fleet(names: &[&str]) -> Membership {
        let mut membership = Membership::default();
        for (key, name) in names.iter().enumerate() {
            membership.admit([key as u8; 32], profile(name), 0).unwrap();
        }
        membership
    }

    fn order(availability: Availability, message: Option<&str>) -> NodeChange {
        let note = AvailabilityNote { message: message.map(str::to_owned), by: NodeId(1), unix_ms: 7 };
        NodeChange { availability: Some(AvailabilityOrder { availability, note }), ..NodeChange::default() }
    }

    fn set(membership: &mut Membership, node: u64, availability: Availability) -> Result<(), String> {
        let done = membership.update(NodeId(node), order(availability, None));
        done.map(drop).map_err(|error| error.to_string())
    }

    use Availability::*;

    #[test]
    fn two_people_who_drain_each_others_node_do_not_both_succeed() {
        let mut m = fleet(&["alder", "birch"]);
        assert_eq!(set(&mut m, 1, Draining), Ok(()));
        let refused = set(&mut m, 2, Draining).unwrap_err();
        assert_eq!(
            refused,
            "birch is the last node that takes work: alder is being drained; run `longshore node update alder \
             --availability active` first"
        );
        assert_eq!(set(&mut m, 2, Paused), Err(refused));
        assert!(m.get(NodeId(2)).unwrap().is_available());
        // What was done before is fine again; and the other way round it works once the first is back.
        assert_eq!(set(&mut m, 1, Draining), Ok(()));
        assert_eq!(set(&mut m, 1, Active), Ok(()));
        assert_eq!(set(&mut m, 2, Draining), Ok(()));
        assert!(m.get(NodeId(2)).unwrap().is_draining() && !m.get(NodeId(1)).unwrap().is_draining());
    }

    #[test]
    fn the_refusal_says_who_is_left_and_what_to_do() {
        let mut m = fleet(&["alder"]);
        assert!(set(&mut m, 1, Draining).unwrap_err().ends_with("add a node first"));
        let mut m = fleet(&["alder", "birch", "cedar", "elm", "fir", "hazel"]);
        m.set_standing(NodeId(2), Standing::Leaving).unwrap();
        for node in 3..=6 {
            set(&mut m, node, Paused).unwrap();
        }
        assert_eq!(
            set(&mut m, 1, Draining).unwrap_err(),
            "alder is the last node that takes work: birch is leaving, cedar is paused, elm is paused, fir is paused, 1 more \
             are not active; run `longshore node update cedar --availability active` first"
        );
        let mut m = fleet(&["alder", "birch"]);
        m.set_standing(NodeId(2), Standing::Leaving).unwrap();
        assert!(set(&mut m, 1, Paused).unwrap_err().ends_with("birch is leaving; add a node first"));
    }

    #[test]
    fn the_note_is_of_the_last_order_that_said_something() {
        let mut m = fleet(&["alder", "birch"]);
        assert_eq!(m.get(NodeId(1)).unwrap().availability_note, None);
        m.update(NodeId(1), order(Draining, Some("new disk"))).unwrap();
        m.update(NodeId(1), order(Draining, None)).unwrap();
        let note = m.get(NodeId(1)).unwrap().availability_note.clone().unwrap();
        assert_eq!((note.message.as_deref(), note.unix_ms), (Some("new disk"), 7));
        m.update(NodeId(1), order(Paused, None)).unwrap();
        assert_eq!(m.get(NodeId(1)).unwrap().availability_note.as_ref().unwrap().message, None);
        for bad in ["x".repeat(MESSAGE_BYTES_MAX + 1), "a\nb".to_owned()] {
            let refused = m.update(NodeId(1), order(Active, Some(&bad))).unwrap_err();
            assert!(refused.to_string().contains("at most 256 bytes"), "{refused}");
        }
        m.update(NodeId(1), order(Active, Some(&"x".repeat(MESSAGE_BYTES_MAX)))).unwrap();
    }

    #[test]
    fn a_change_that_is_refused_in_part_changes_nothing() {
        let mut m = fleet(&["alder"]);
        let change = NodeChange { weight: Some(Override::Set(7)), ..order(Draining, None) };
        assert!(m.update(NodeId(1), change).is_err());
        assert_eq!(m.get(NodeId(1)).unwrap().weight(), 1024);
    }

    proptest! {
        /// Whatever people order, in whatever order it reaches the log, somebody takes new work.
        #[test]
        fn somebody_is_always_available(orders in prop::collection::vec((1u64..=5, 0u8..3), 1..60)) {
            let mut m = fleet(&["alder", "birch", "cedar", "elm", "fir"]);
            for (node, what) in orders {
                let before = m.clone();
                let availability = [Active, Paused, Draining][usize::from(what)];
                let done = set(&mut m, node, availability);
                prop_assert!(m.members().any(NodeRecord::is_available));
                match done {
                    Ok(()) => prop_assert_eq!(m.get(NodeId(node)).unwrap().availability, availability),
                    Err(_) => prop_assert_eq!(before, m.clone()),
                }
            }
        }
    }
}
