//! Nodes that are taken out of service: availability, draining, and what is refused to whom.

use std::time::Duration;

use longshore_node::api::types::{NodeAvailability, NodeRole};
use longshore_tests::{Fleet, eventually, eventually_value, machine};
use rustix::process::Signal;

/// How long a word in the fleet's record may take to have its effect, on a busy machine.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn an_operators_word_is_seen_at_every_peer_and_keeps_new_work_away() {
    let _machine = machine::share();
    let fleet = Fleet::with(2, "avail", |spec| {
        let (zone, region) = (format!("zone-{}", spec.name), "north");
        spec.with(["--zone", &zone, "--region", region, "--weight", "1024"])
    });
    let said = fleet.peers[0]
        .cli(["node", "update", "p2", "--availability", "pause", "-m", "slow disk", "--weight", "512"])
        .run();
    assert_eq!(said.ok(), "n2 (p2): paused; weight 512\n");
    fleet.peers[0].cli(["node", "update", "p2", "--zone", "z9", "--region", "south"]).run().ok();
    for peer in &fleet.peers {
        let view = peer.http().node("p2").expect("node");
        assert_eq!(view.availability.state, NodeAvailability::Paused);
        assert_eq!(view.availability.message.as_deref(), Some("slow disk"));
        assert_eq!(view.availability.by.as_deref(), Some("p1"));
        assert_eq!((view.weight, view.announced.weight), (512, 1024));
        assert_eq!((view.zone.as_deref(), view.announced.zone.as_deref()), (Some("z9"), Some("zone-p2")));
        assert_eq!(
            (view.region.as_deref(), view.announced.region.as_deref()),
            (Some("south"), Some("north"))
        );
        let listed = peer.cli(["node", "ls"]).run();
        assert!(listed.ok().lines().any(|line| line.contains("p2") && line.contains("paused")), "{listed}");
        // Named or asked itself: it takes nothing new.
        let pull = peer.cli(["op", "pull", "nothing/here:1", "--on", "p2", "--detach"]).run();
        pull.fails(1, &["p2 is paused", "longshore node update p2 --availability active"], &[]);
    }
    eventually_value("the ring to go by the operator's word", EFFECT_TIMEOUT, || {
        let ring = fleet.ring()?;
        let p2 = ring.nodes.iter().find(|node| node.name == "p2").ok_or("p2 is not in the ring")?;
        let seen = (p2.weight, p2.zone.as_deref());
        if seen == (512, Some("z9")) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let back = [
        "node",
        "update",
        "p2",
        "--availability",
        "active",
        "--weight",
        "auto",
        "--zone",
        "",
        "--region",
        "",
    ];
    let said = fleet.peers[1].cli(back).run();
    assert_eq!(said.ok(), "n2 (p2): active; weight 1024; zone zone-p2; region north\n");
    fleet.peers[0].cli(["op", "pull", "nothing/here:1", "--on", "p2", "--detach"]).run().ok();
}

#[test]
fn two_people_who_drain_each_others_node_do_not_both_succeed() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(2, "duel");
    let drains: Vec<_> = [(0, "p2"), (1, "p1")]
        .map(|(asked, node)| fleet.peers[asked].cli(["node", "drain", node, "--detach"]).start())
        .into_iter()
        .map(|drain| drain.wait(EFFECT_TIMEOUT))
        .collect();
    let winner = drains.iter().position(|drain| drain.code == 0).expect("one of them succeeds");
    let (drained, left) = if winner == 0 { ("p2", "p1") } else { ("p1", "p2") };
    let way_out = format!("longshore node update {drained} --availability active");
    let last = format!("{left} is the last node that takes work: {drained} is being drained");
    drains[1 - winner].fails(1, &[&last, &way_out], &[]);

    // The one that is left leads, with the only vote; the drained one stays a member.
    let leader = fleet.index_of(left);
    eventually_value("the drained node to have handed over", EFFECT_TIMEOUT, || {
        let list = fleet.peers[leader].http().nodes().map_err(|error| error.to_string())?.nodes;
        let roles: Vec<(String, NodeRole)> = list.into_iter().map(|node| (node.name, node.role)).collect();
        let role = |name: &str| roles.iter().find(|(node, _)| node == name).map(|(_, role)| *role);
        let good = role(left) == Some(NodeRole::Leader) && role(drained) == Some(NodeRole::Learner);
        if good { Ok(()) } else { Err(format!("{roles:?}")) }
    });
    // It neither pauses, nor leaves, nor is it removed, whoever forces it.
    fleet.peers[leader].cli(["node", "update", "self", "--availability", "pause"]).run().fails(
        1,
        &[&last],
        &[],
    );
    fleet.peers[leader].cli(["leave", "--yes"]).run().fails(1, &[&last], &[]);
    let other = fleet.index_of(drained);
    let removal = fleet.peers[other].cli(["node", "rm", left, "--force", "--yes"]).run();
    removal.fails(1, &[left, "only vote of the fleet"], &["longshore node drain"]);
    // Draining what is drained is fine; and the drained one may leave.
    fleet.peers[leader].cli(["node", "drain", drained, "--detach"]).run().ok();
    fleet.peers[other].cli(["leave", "--yes"]).run().ok();
    assert_eq!(fleet.peers[other].wait_exit(EFFECT_TIMEOUT), 0, "{}", fleet.peers[other].stderr());
    fleet.peers[leader].cli(["node", "drain", left]).run().fails(1, &["only node of the fleet"], &[]);
}

#[test]
fn a_drain_is_followed_until_nothing_is_left_and_not_ended_by_ctrl_c_or_its_deadline() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "drain");
    fleet.ring_settles();
    let leader = fleet.leader();
    let name = fleet.peers[leader].name().to_owned();

    // The leader of everything: it hands over.
    let done = fleet.peers[leader].cli(["node", "drain", "self", "-m", "new disk"]).run();
    assert_eq!(done.ok(), format!("{name} is drained: nothing is open on it\n"));
    eventually_value("another to lead, in every group", EFFECT_TIMEOUT, || {
        let role = fleet.peers[leader].http().node(&name).map_err(|error| error.to_string())?.role;
        let ring = fleet.ring()?;
        let leads = ring.nodes.iter().find(|node| node.name == name).map(|node| node.leaders);
        let led: u32 = ring.nodes.iter().map(|node| node.leaders).sum();
        let good = role == NodeRole::Voter && leads == Some(0) && led == ring.group_count;
        if good { Ok(()) } else { Err(format!("{role:?}, leads {leads:?} of {led}")) }
    });
    let keeps = fleet.ring().expect("ring").nodes.into_iter().find(|node| node.name == name).expect("p");
    assert_eq!(keeps.replicas, 32, "its replicas stay");
    fleet.peers[leader].cli(["node", "update", "self", "--availability", "active"]).run().ok();

    // Work for a node that is away stays open.
    let away = fleet.follower();
    let away_name = fleet.peers[away].name().to_owned();
    fleet.peers[away].kill9();
    fleet.settle_as(2, None);
    let asked = fleet.leader();
    let pull = ["op", "pull", "nothing/here:1", "--on", &away_name, "--detach"];
    fleet.peers[asked].cli(pull).run().ok();
    let late = fleet.peers[asked].cli(["node", "drain", &away_name, "--deadline", "2s"]).run();
    let open = format!("1 part of operations is open on {away_name}");
    let stays = format!("{away_name} stays drained");
    late.fails(1, &["the deadline of 2s has passed", &open, &stays], &["--availability active"]);

    let drain = fleet.peers[asked].cli(["node", "drain", &away_name]).start();
    eventually("what is open to be told", EFFECT_TIMEOUT, || drain.stderr().contains(&open));
    drain.signal(Signal::INT);
    let stopped = drain.wait(EFFECT_TIMEOUT);
    assert_eq!(stopped.code, 130, "{stopped}");
    assert!(stopped.stderr.contains("The drain goes on"), "{stopped}");
    let view = fleet.peers[asked].http().node(&away_name).expect("node");
    assert_eq!(view.availability.state, NodeAvailability::Draining);

    // It comes back, and its work ends (it has no engine): then the drain has.
    let drain = fleet.peers[asked].cli(["node", "drain", &away_name]).start();
    fleet.peers[away].restart();
    let done = drain.wait(EFFECT_TIMEOUT);
    assert_eq!(done.ok(), format!("{away_name} is drained: nothing is open on it\n"));
    assert_eq!(fleet.peers[asked].http().node_work(&away_name).expect("work").open, 0);
}

#[test]
fn a_node_is_removed_by_force_and_what_that_loses_is_listed() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(2, "force");
    // Each group has one replica: with its node it is lost.
    let ring = fleet.ring_settles();
    let (leader, other) = (fleet.leader(), fleet.follower());
    let name = fleet.peers[other].name().to_owned();
    let held = |group: &&longshore_node::api::types::PlacementView| group.members == [name.as_str()];
    let lost: Vec<&str> = ring.groups.iter().filter(held).map(|group| group.group.as_str()).collect();
    assert!(!lost.is_empty(), "the other node holds something");
    fleet.peers[leader].cli(["node", "rm", &name, "--yes"]).run().fails(1, &["is alive"], &["--force"]);
    fleet.peers[leader].cli(["node", "rm", &name, "--force"]).run().fails(2, &["by force"], &["--yes"]);
    let removed = fleet.peers[leader].cli(["node", "rm", &name, "--force", "--yes"]).run();
    assert!(removed.ok().contains(&format!("lost for good: what {} held", lost.join(", "))), "{removed}");
    assert_ne!(fleet.peers[other].wait_exit(EFFECT_TIMEOUT), 0, "it was told");
    fleet.settle();
    fleet.peers[leader].http().set_label("self", "after", "removal").expect("the rest takes changes");
}
