//! Tests of what a request may ask for, and of whom.

use longshore_raft::model::membership::{
    Availability, AvailabilityNote, AvailabilityOrder, NodeChange, NodeProfile,
};

use longshore_model::operations::placement::Miss;
use longshore_raft::model::detector::PeerState;

use super::*;

/// Two members: n1 and n2.
fn alder_and_birch() -> ControlState {
    let mut state = ControlState::default();
    for (key, name) in [(1, "alder"), (2, "birch")] {
        let profile = NodeProfile {
            name: name.into(),
            address: ([127, 0, 0, 1], 7400).into(),
            zone: None,
            region: None,
            labels: Default::default(),
            version: "0.1.0".into(),
            weight: 1024,
        };
        state.membership.admit([key; 32], profile, 0).unwrap();
    }
    state
}

#[test]
fn a_node_that_leaves_gets_no_new_work_not_even_its_own() {
    let mut state = alder_and_birch();
    assert_eq!(named(NodeId(2), &state, "self").unwrap(), NodeId(2));
    assert_eq!(named(NodeId(1), &state, "birch").unwrap(), NodeId(2));
    state.membership.set_standing(NodeId(2), Standing::Leaving).unwrap();
    for (me, name) in [(2, "self"), (2, "birch"), (1, "birch")] {
        let refused = named(NodeId(me), &state, name).unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict, "{refused}");
        assert!(refused.message.contains("birch is leaving"), "{refused}");
    }
    assert_eq!(named(NodeId(1), &state, "cedar").unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn a_node_that_is_paused_or_drained_gets_no_new_work() {
    let mut state = alder_and_birch();
    for (availability, word) in [(Availability::Paused, "paused"), (Availability::Draining, "being drained")]
    {
        let note = AvailabilityNote { message: None, by: NodeId(1), unix_ms: 0 };
        let availability = Some(AvailabilityOrder { availability, note });
        let change = NodeChange { availability, ..NodeChange::default() };
        state.membership.update(NodeId(2), change).unwrap();
        for (me, name) in [(2, "self"), (1, "birch"), (1, "n2")] {
            let refused = named(NodeId(me), &state, name).unwrap_err();
            let says =
                format!("birch is {word}: `longshore node update birch --availability active` ends that");
            assert_eq!((refused.code, refused.message), (ErrorCode::Conflict, says));
        }
        let birch = state.membership.get(NodeId(2)).unwrap();
        assert_eq!(unable(PeerState::Alive, birch, true), Some(Miss::Unfit(format!("is {word}"))));
    }
    assert_eq!(named(NodeId(2), &state, "alder").unwrap(), NodeId(1));
}

#[test]
fn a_request_that_contradicts_itself_is_refused() {
    let pull = Action::Pull { images: vec!["nginx".into()] };
    let request = |strategy| OperationRequest::new(pull.clone(), strategy);
    let on = vec!["alder".to_owned(), "birch".to_owned()];
    let cases = [
        (OperationRequest { on: on.clone(), ..request(Strategy::Local) }, "one node"),
        (OperationRequest { on: on.clone(), zones: on.clone(), ..request(Strategy::Replicated) }, "either"),
        (OperationRequest { on: on.clone(), replicas: Some(1), ..request(Strategy::Replicated) }, "either"),
        (
            OperationRequest { replicas: Some(1), ..request(Strategy::Distributed) },
            "replicated strategy only",
        ),
        (OperationRequest { replicas: Some(0), ..request(Strategy::Replicated) }, "one replica at least"),
        (OperationRequest { in_turn: true, ..request(Strategy::Replicated) }, "distributed strategy only"),
        (
            OperationRequest { preferred_zone: Some("a".into()), ..request(Strategy::Replicated) },
            "nothing to prefer",
        ),
        (
            OperationRequest { on: on.clone(), capabilities: on.clone(), ..request(Strategy::Replicated) },
            "either",
        ),
        (OperationRequest { capabilities: vec![String::new()], ..request(Strategy::Local) }, "not a cap"),
        (OperationRequest { labels: vec!["=x".into()], ..request(Strategy::Replicated) }, "not a label"),
        (OperationRequest { labels: vec!["x".into(); 65], ..request(Strategy::Replicated) }, "64 labels"),
    ];
    for (request, why) in cases {
        let refused = Wanted::of(&request).unwrap_err();
        assert!(refused.code == ErrorCode::Invalid && refused.message.contains(why), "{why}: {refused}");
    }
    assert!(Wanted::of(&OperationRequest { on, ..request(Strategy::Distributed) }).is_ok());
}
