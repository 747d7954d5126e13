//! What rules, loss, pauses and deaths do to what is sent.

use futures_util::FutureExt;
use futures_util::future::join_all;
use longshore_raft::consensus::inspect_wire::{acknowledge_append, grant_pre_vote};
use longshore_raft::transport::Replier;
use longshore_raft::transport::conformance::ask_until_answered;
use parking_lot::Mutex;

use super::*;
use crate::runtime::{global_ns, sleep_global};

const MEMORY: TransportKind = TransportKind::Memory;
const QUIC: TransportKind = TransportKind::Quic;

fn only(host: HostId) -> Hosts {
    Hosts::Only(vec![host])
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn no_reply(reply: &Result<Bytes, TransportError>, why: &str) -> bool {
    matches!(reply, Err(TransportError::NoReply { reason, .. }) if reason.contains(why))
}

/// All that was sent is accounted for.
fn assert_balanced(stats: NetworkStats, held_now: u64) {
    assert_eq!(stats.sent + stats.duplicated, stats.delivered + stats.dropped + held_now, "{stats:?}");
}

#[test]
fn a_rule_drops_one_way_and_stays_silent() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let (a, b) = (Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b]);
        world.fabric.add_rule(rule("cut", only(1), only(2), Verdict::Drop));
        let lost = nodes[0].asks_within(&nodes[1], Lane::Control, "x", ms(2_000)).await;
        assert!(no_reply(&lost, "timed out"), "silent until the timeout: {lost:?}");
        assert_eq!(b.seen(), 0);
        // The other way, the request arrives and its reply does not.
        let unanswered = nodes[1].asks_within(&nodes[0], Lane::Control, "y", ms(500)).await;
        assert!(no_reply(&unanswered, "timed out"), "{unanswered:?}");
        assert_eq!(a.seen(), 1);
        world.fabric.remove_rule("cut");
        assert_eq!(nodes[0].asks(&nodes[1], Lane::Control, "z").await.unwrap(), "z");
        assert_balanced(world.fabric.stats(), 0);
    });
}

#[test]
fn a_quic_connection_survives_a_short_cut_and_not_a_long_one() {
    traced(SEED, async || {
        let world = World::plain(QUIC);
        let (a, b) = (Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b]);
        assert_eq!(nodes[0].asks(&nodes[1], Lane::Control, "x").await.unwrap(), "x");
        world.fabric.add_rule(rule("cut", only(1), only(2), Verdict::Drop));
        let waits = nodes[0].asks(&nodes[1], Lane::Control, "y");
        sleep_global(ms(800)).await;
        world.fabric.heal();
        assert_eq!(waits.await.unwrap(), "y", "sent again by QUIC");
        world.fabric.add_rule(rule("cut", Hosts::All, Hosts::All, Verdict::Drop));
        let lost = nodes[0].asks(&nodes[1], Lane::Control, "z").await;
        assert!(no_reply(&lost, "connection lost"), "{lost:?}");
    });
}

#[test]
fn what_a_rule_held_arrives_in_order_when_it_goes() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let (a, b) = (Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b]);
        let lane = Lane::Append { key: 1 };
        // Strikes every other message: those between must wait all the same.
        let hold = Rule { chance_ppm: 500_000, ..rule("hold", only(1), only(2), Verdict::Hold) };
        world.fabric.add_rule(hold);
        let asked: Vec<_> = (0..20u8).map(|i| nodes[0].asks(&nodes[1], lane, vec![i])).collect();
        sleep_global(ms(1_000)).await;
        let before = b.seen();
        assert!(before < 20, "something is held");
        let held = world.fabric.stats().held;
        assert_eq!(held as usize + before, 20, "and all that follows on the lane");
        world.fabric.remove_rule("another");
        sleep_global(ms(100)).await;
        assert_eq!(b.seen(), before);
        world.fabric.remove_rule("hold");
        let last = nodes[0].asks(&nodes[1], lane, vec![20]);
        join_all(asked).await.into_iter().for_each(|reply| drop(reply.unwrap()));
        last.await.unwrap();
        let order: Vec<u8> = b.bodies().iter().map(|body| body[0]).collect();
        assert_eq!(order, (0..=20).collect::<Vec<_>>());
        assert_balanced(world.fabric.stats(), 0);
    });
}

#[test]
fn two_rules_that_hold_one_lane_let_go_of_it_in_order() {
    for names in [["one", "two"], ["two", "one"]] {
        traced(SEED, async || {
            let world = World::plain(MEMORY);
            let b = Probe::echo();
            let nodes = world.fleet(&[&Probe::echo(), &b]);
            // About half meet the first rule, the rest the second.
            let half = Rule { chance_ppm: 500_000, ..rule("one", only(1), only(2), Verdict::Hold) };
            world.fabric.add_rule(half);
            world.fabric.add_rule(rule("two", only(1), only(2), Verdict::Hold));
            let asked: Vec<_> = (0..20u8).map(|i| nodes[0].asks(&nodes[1], Lane::Control, vec![i])).collect();
            for name in names {
                sleep_global(ms(100)).await;
                world.fabric.remove_rule(name);
            }
            join_all(asked).await.into_iter().for_each(|reply| drop(reply.unwrap()));
            let order: Vec<u8> = b.bodies().iter().map(|body| body[0]).collect();
            assert_eq!(order, (0..20).collect::<Vec<_>>());
        });
    }
}

#[test]
fn hosts_that_stay_broken_are_not_healed() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let probe = Probe::echo();
        let nodes = world.fleet(&[&probe, &probe, &probe]);
        world.fabric.add_rule(rule("all", Hosts::All, Hosts::All, Verdict::Hold));
        let healed = nodes[0].asks(&nodes[1], Lane::Control, "x");
        let broken = nodes[2].asks_within(&nodes[1], Lane::Control, "y", ms(500));
        sleep_global(ms(10)).await;
        world.fabric.heal_except(&[3]);
        assert_eq!(healed.await.unwrap(), "x");
        assert!(no_reply(&broken.await, "timed out"));
        world.fabric.heal();
        assert_eq!(nodes[2].asks(&nodes[1], Lane::Control, "z").await.unwrap(), "z");
    });
}

#[test]
fn doubled_requests_arrive_twice_and_in_place() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let (a, b) = (Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b]);
        world.fabric.add_rule(rule("twice", only(1), only(2), Verdict::Duplicate));
        let asked = (0..10u8).map(|i| nodes[0].asks(&nodes[1], Lane::Control, vec![i]));
        join_all(asked).await.into_iter().for_each(|reply| drop(reply.unwrap()));
        b.until("the last copy", |b| b.seen() == 20).await;
        let order: Vec<u8> = b.bodies().iter().map(|body| body[0]).collect();
        assert_eq!(order, (0..10).flat_map(|i| [i, i]).collect::<Vec<_>>());
        assert_eq!(world.fabric.stats().duplicated, 10);
    });
}

#[test]
fn lanes_overtake_each_other_and_keep_their_own_order() {
    traced(SEED, async || {
        let world = World::new(MEMORY, SEED, NetworkShape { reorder_ppm: 300_000, ..shape(0) }, vec![]);
        let (a, b) = (Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b]);
        let mut asked = Vec::new();
        for i in 0..50u8 {
            for key in 0..4 {
                asked.push(nodes[0].asks(&nodes[1], Lane::Append { key }, vec![key as u8, i]));
            }
            sleep_global(ms(1)).await;
        }
        join_all(asked).await.into_iter().for_each(|reply| drop(reply.unwrap()));
        let bodies = b.bodies();
        for key in 0..4u8 {
            let of_key: Vec<u8> = bodies.iter().filter(|b| b[0] == key).map(|b| b[1]).collect();
            assert_eq!(of_key, (0..50).collect::<Vec<_>>(), "key {key}");
        }
        assert!(bodies.windows(2).any(|two| two[0][1] > two[1][1]), "lanes go at their own pace");
        assert!(world.fabric.stats().reordered > 50);
    });
}

#[test]
fn zones_are_far_apart() {
    traced(SEED, async || {
        let zone = |name: &str| Some(name.to_owned());
        let shape = NetworkShape {
            near: Latency::even(1_000, 1_000),
            far: Latency::even(40_000, 40_000),
            ..NetworkShape::default()
        };
        let world = World::new(MEMORY, SEED, shape, vec![zone("a"), zone("a"), zone("b")]);
        let probe = Probe::echo();
        let nodes = world.fleet(&[&probe, &probe, &probe]);
        let before = global_ns();
        nodes[0].asks(&nodes[1], Lane::Control, "x").await.unwrap();
        assert_eq!((global_ns() - before) / 1_000_000, 2);
        nodes[0].asks(&nodes[2], Lane::Control, "x").await.unwrap();
        assert_eq!((global_ns() - before) / 1_000_000, 82);
        let slow = Verdict::Delay { latency: Latency::even(100_000, 100_000) };
        world.fabric.add_rule(rule("slow", only(1), Hosts::All, slow));
        nodes[0].asks(&nodes[1], Lane::Control, "x").await.unwrap();
        assert_eq!((global_ns() - before) / 1_000_000, 184, "and a rule makes one way slow");
    });
}

#[test]
fn a_message_lost_by_chance_is_noticed_soon() {
    traced(SEED, async || {
        let world = World::new(MEMORY, SEED, shape(1_000_000), vec![]);
        let probe = Probe::echo();
        let nodes = world.fleet(&[&probe, &probe]);
        let before = global_ns();
        let lost = nodes[0].asks(&nodes[1], Lane::Control, "x").await;
        assert!(no_reply(&lost, "the stream broke"), "{lost:?}");
        assert_eq!((global_ns() - before) / 1_000_000, 300);
        assert_balanced(world.fabric.stats(), 0);
    });
}

fn a_paused_process_answers_when_it_resumes(kind: TransportKind) {
    traced(SEED, async || {
        let world = World::plain(kind);
        let (a, b) = (Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b]);
        nodes[0].asks(&nodes[1], Lane::Control, vec![99]).await.unwrap();
        nodes[1].context.pause();
        let asked: Vec<_> = (0..10u8).map(|i| nodes[0].asks(&nodes[1], Lane::Control, vec![i])).collect();
        let asked = join_all(asked).shared();
        sleep_global(ms(1_000)).await;
        assert_eq!(b.seen(), 1, "it does not run");
        assert!(asked.clone().now_or_never().is_none());
        nodes[1].context.resume();
        // Right behind it, before the process has had its turn.
        let next = nodes[0].asks(&nodes[1], Lane::Control, vec![10]);
        asked.await.into_iter().for_each(|reply| drop(reply.unwrap()));
        next.await.unwrap();
        let order: Vec<u8> = b.bodies().iter().skip(1).map(|body| body[0]).collect();
        assert_eq!(order, (0..=10).collect::<Vec<_>>());
    });
}

#[test]
fn a_paused_process_answers_when_it_resumes_memory() {
    a_paused_process_answers_when_it_resumes(MEMORY);
}

#[test]
fn a_paused_process_answers_when_it_resumes_quic() {
    a_paused_process_answers_when_it_resumes(QUIC);
}

/// Requests that are not answered yet, with the context that each came in.
type Kept = Arc<Mutex<Vec<(String, Replier)>>>;

/// Keeps what it is asked.
fn keeper() -> (Arc<Probe>, Kept) {
    let held = Kept::default();
    let keep = held.clone();
    let probe = Probe::new(move |_, _, _, replier| {
        keep.lock().push((crate::runtime::current().name().to_owned(), replier));
    });
    (probe, held)
}

fn handlers_run_in_their_own_process(kind: TransportKind) {
    traced(SEED, async || {
        let world = World::plain(kind);
        let (probe, held) = keeper();
        let nodes = world.fleet(&[&Probe::echo(), &probe]);
        drop(nodes[0].asks(&nodes[1], Lane::Control, "x"));
        probe.until("the request", |p| p.seen() == 1).await;
        assert_eq!(held.lock()[0].0, "h2");
    });
}

#[test]
fn handlers_run_in_their_own_process_memory() {
    handlers_run_in_their_own_process(MEMORY);
}

#[test]
fn handlers_run_in_their_own_process_quic() {
    handlers_run_in_their_own_process(QUIC);
}

#[test]
fn the_dead_get_nothing_and_answer_nothing() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let (probe, held) = keeper();
        let nodes = world.fleet(&[&Probe::echo(), &probe]);
        let waits = nodes[0].asks_within(&nodes[1], Lane::Control, "x", ms(3_000));
        probe.until("the request", |p| p.seen() == 1).await;
        // A message of the dying is still delivered; what arrives for it is not.
        let last_words = nodes[1]
            .context
            .enter(|| nodes[1].transport.request(NodeId(1), Lane::Control, "last words".into(), ms(1_000)));
        world.kill(2, &nodes[1]);
        drop(last_words);
        let late = nodes[0].asks_within(&nodes[1], Lane::Heartbeat, "y", ms(500)).await;
        assert!(no_reply(&late, "timed out"), "{late:?}");
        assert_eq!(probe.seen(), 1);
        // An answer that a destructor gives is not sent.
        nodes[1].context.enter(|| held.lock().clear());
        let unanswered = waits.await;
        assert!(no_reply(&unanswered, "timed out"), "{unanswered:?}");
    });
}

#[test]
fn a_message_of_a_process_that_died_still_arrives() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let probe = Probe::echo();
        let nodes = world.fleet(&[&Probe::echo(), &probe]);
        drop(nodes[0].asks(&nodes[1], Lane::Control, "last words"));
        world.kill(1, &nodes[0]);
        probe.until("it", |p| p.seen() == 1).await;
    });
}

#[test]
fn a_reply_does_not_reach_a_process_that_started_since() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let (probe, held) = keeper();
        let nodes = world.fleet(&[&Probe::echo(), &probe]);
        drop(nodes[0].asks(&nodes[1], Lane::Control, "from the first"));
        probe.until("the request", |p| p.seen() == 1).await;
        world.kill(1, &nodes[0]);
        let again = world.start_on(1, 1, Probe::echo());
        again.context.enter(|| again.transport.set_peers(vec![(NodeId(2), Fabric::address(2))], vec![]));
        // Both are the first requests of their processes.
        let second = again.asks(&nodes[1], Lane::Control, "from the second");
        probe.until("both", |p| p.seen() == 2).await;
        let (_, replier) = held.lock().remove(0);
        nodes[1].context.enter(|| replier.reply("to the first".into()));
        sleep_global(ms(100)).await;
        let (_, replier) = held.lock().remove(0);
        nodes[1].context.enter(|| replier.reply("to the second".into()));
        assert_eq!(second.await.unwrap(), "to the second");
    });
}

#[test]
fn another_node_at_the_same_address_is_not_taken_for_the_old_one() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let nodes = world.fleet(&[&Probe::echo(), &Probe::echo()]);
        world.kill(2, &nodes[1]);
        let stranger = Probe::echo();
        let _node = world.start_on(2, 7, stranger.clone());
        let lost = nodes[0].asks_within(&nodes[1], Lane::Control, "x", ms(500)).await;
        assert!(no_reply(&lost, "timed out"), "{lost:?}");
        assert_eq!(stranger.seen(), 0);
    });
}

#[test]
fn a_panic_in_a_handler_is_that_node_s_own() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let bomb = Probe::new(|_, _, _, _| panic!("on purpose"));
        let nodes = world.fleet(&[&Probe::echo(), &bomb, &Probe::echo()]);
        let refused = nodes[0].asks(&nodes[1], Lane::Control, "x").await;
        assert!(matches!(refused, Err(TransportError::Refused { .. })), "{refused:?}");
        assert_eq!(nodes[0].asks(&nodes[2], Lane::Control, "x").await.unwrap(), "x");
    });
}

#[test]
fn quic_gets_through_heavy_loss() {
    traced(SEED, async || {
        let bad = NetworkShape { duplicate_ppm: 50_000, reorder_ppm: 50_000, ..shape(100_000) };
        let world = World::new(QUIC, SEED, bad, vec![]);
        let (a, b) = (Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b]);
        ask_until_answered(&nodes[0].transport, NodeId(2), "connect").await;
        let before = b.seen();
        let lane = Lane::Append { key: 0 };
        let asked = (0..300u32).map(|i| nodes[0].asks(&nodes[1], lane, i.to_be_bytes().to_vec()));
        join_all(asked).await.into_iter().for_each(|reply| drop(reply.unwrap()));
        let seen = b.bodies()[before..].to_vec();
        assert_eq!(seen, (0..300u32).map(|i| Bytes::from(i.to_be_bytes().to_vec())).collect::<Vec<_>>());
        let stats = world.fabric.stats();
        assert!(stats.dropped > 0 && stats.duplicated > 0 && stats.reordered > 0, "{stats:?}");
    });
}

#[test]
fn a_quic_node_that_was_killed_comes_back() {
    traced(SEED, async || {
        let world = World::plain(QUIC);
        let nodes = world.fleet(&[&Probe::echo(), &Probe::echo()]);
        assert_eq!(nodes[0].asks(&nodes[1], Lane::Control, "one").await.unwrap(), "one");
        world.kill(2, &nodes[1]);
        let probe = Probe::echo();
        let again = world.start_on(2, 2, probe.clone());
        again.context.enter(|| again.transport.set_peers(vec![(NodeId(1), Fabric::address(1))], vec![]));
        assert_eq!(again.asks(&nodes[0], Lane::Control, "back").await.unwrap(), "back");
        assert_eq!(nodes[0].asks(&again, Lane::Control, "two").await.unwrap(), "two");
    });
}

/// To replica 7 of the control group: a pre-vote request, and an append request without entries after an entry of term 5.
const PRE_VOTE: &[u8] = &[0xC1, 0, 0, 1, 7, 1, 1, 5, 2, 0, 0, 0];
const APPEND: &[u8] = &[0xC1, 0, 0, 1, 7, 0, 9, 5, 2, 1, 1, 5, 40, 0, 0];

#[test]
fn tampering_forges_what_it_should_and_nothing_else() {
    traced(SEED, async || {
        let world = World::plain(MEMORY);
        let refuses = Probe::new(|_, _, _, replier| replier.refuse("never"));
        let nodes = world.fleet(&[&Probe::echo(), &refuses]);
        let ask = |body| nodes[0].asks(&nodes[1], Lane::Control, body);
        let refused = |reply: Result<Bytes, _>| matches!(reply, Err(TransportError::Refused { .. }));
        world.fabric.set_tamper(Some(Tamper::GrantPreVotes));
        assert_eq!(ask(PRE_VOTE).await.unwrap(), grant_pre_vote(PRE_VOTE).unwrap());
        assert!(refused(ask(APPEND).await));
        assert_eq!(refuses.seen(), 2, "both arrived");
        world.fabric.set_tamper(Some(Tamper::ForgeAppendSuccess));
        assert_eq!(ask(APPEND).await.unwrap(), acknowledge_append(APPEND).unwrap());
        assert_eq!(refuses.seen(), 2, "an append request is swallowed");
        assert!(refused(ask(PRE_VOTE).await));
        world.fabric.set_tamper(None);
        assert!(refused(ask(APPEND).await));
    });
}
