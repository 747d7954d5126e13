//! Tests of what is known of nodes: whose word counts, and for how long.

use futures_util::FutureExt as _;
use longshore_raft::consensus::runtime::TokioRuntime;
use tokio::time::advance;

use super::super::probe::FixedHost;
use super::*;

type Known = Loads<TokioRuntime>;

fn names(texts: &[&str]) -> Vec<ImageName> {
    let mut names: Vec<ImageName> = texts.iter().map(|text| ImageName::of(&text.parse().unwrap())).collect();
    names.sort_unstable();
    names
}

fn load(running: u32) -> Load {
    let node = Known::new(NodeId(9), false);
    node.take_host(FixedHost::half_free().0);
    node.set_running(running);
    node.own_report().unwrap().load
}

fn stamp(incarnation: u64, number: u64) -> Stamp {
    Stamp { incarnation, number }
}

#[tokio::test(start_paused = true)]
async fn the_latest_word_of_each_node_counts_and_not_for_long() {
    let loads = Known::new(NodeId(1), true);
    let other = NodeId(2);
    let running = || loads.of(other).map(|seen| seen.load.running);
    let say = |incarnation, number, running| {
        let message = Message::Load { stamp: stamp(incarnation, number), load: load(running), images: 0 };
        loads.receive(other, &wire::encode(&message)).unwrap();
    };
    assert_eq!(running(), None);
    say(1, 5, 3);
    say(1, 4, 9);
    assert_eq!(running(), Some(3), "what overtook another stands");
    say(2, 1, 4);
    assert_eq!(running(), Some(4), "a later start of the node counts anew");
    advance(KEPT - Duration::from_millis(1)).await;
    assert_eq!(loads.of(other).map(|seen| seen.age), Some(KEPT - Duration::from_millis(1)));
    advance(Duration::from_millis(1)).await;
    assert_eq!(running(), None, "too old");
    say(2, 2, 5);
    assert_eq!(running(), Some(5));
    loads.retain(|node| node != other);
    assert_eq!(running(), None);
    assert!(loads.receive(other, &[0xD8, 9]).is_err());
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_is_not_taken_from_anybody() {
    let loads = Known::new(NodeId(1), false);
    let mad = Load { running: u32::MAX, memory_free_bytes: u64::MAX, disk_free_bytes: u64::MAX, ..load(0) };
    let message = Message::Load { stamp: stamp(1, 1), load: mad, images: 0 };
    loads.receive(NodeId(2), &wire::encode(&message)).unwrap();
    assert_eq!(loads.of(NodeId(2)).unwrap().load, mad.bounded());
    assert_ne!(mad.bounded(), mad);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_started_anew_is_known_at_once() {
    let loads = Known::new(NodeId(1), true);
    let other = NodeId(2);
    let say = |incarnation, number| {
        let message = Message::Load { stamp: stamp(incarnation, number), load: load(0), images: 0 };
        loads.receive(other, &wire::encode(&message)).unwrap();
        (loads.start_of(other), loads.stirred().now_or_never().is_some())
    };
    assert_eq!(loads.start_of(other), None);
    assert_eq!(say(1, 0), (Some(1), true));
    assert_eq!(say(1, 1), (Some(1), false));
    assert_eq!(say(2, 0), (Some(2), true), "it is looked at whom to tell");
    assert_eq!(say(1, 9), (Some(2), false), "what came late is of the start before");
    loads.retain(|node| node != other);
    assert_eq!((loads.start_of(other), say(2, 1)), (None, (Some(2), true)));
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_know_the_images_asks_for_them() {
    let loads = Known::new(NodeId(1), true);
    let other = NodeId(2);
    let mut number = 0;
    let mut say = |message: fn(Stamp, Vec<ImageName>) -> Message, names: &[ImageName]| {
        number += 1;
        loads.receive(other, &wire::encode(&message(stamp(1, number), names.to_vec()))).unwrap()
    };
    let report: fn(Stamp, Vec<ImageName>) -> Message =
        |stamp, names| Message::Load { stamp, load: load(0), images: ImageName::hash_of(&names) };
    let images: fn(Stamp, Vec<ImageName>) -> Message = |stamp, names| Message::Images { stamp, names };
    let (first, second) = (names(&["a", "b:1"]), names(&["a"]));
    let asked = names(&["b:1", "a", "c"]);
    assert_eq!(say(report, &first)[..], [WANTS_IMAGES]);
    assert_eq!(loads.has(other, &asked), [false; 3], "not told yet");
    assert!(say(images, &first).is_empty() && say(report, &first).is_empty());
    let has = |asked: &[ImageName]| loads.has(other, asked).iter().filter(|has| **has).count();
    assert_eq!((has(&asked), has(&first), has(&[])), (2, 2, 0));
    assert_eq!(loads.of(other).unwrap().images, Some(2));
    assert_eq!(say(report, &second)[..], [WANTS_IMAGES]);
    say(images, &second);
    assert_eq!(has(&asked), 1);
    advance(KEPT).await;
    assert_eq!(has(&asked), 0, "nothing is known of it any more");
}

#[tokio::test(start_paused = true)]
async fn this_node_is_what_its_parts_say() {
    let loads = Known::new(NodeId(1), true);
    let seen = || loads.of(NodeId(1));
    loads.set_running(2);
    assert_eq!((seen(), loads.own_report()), (None, None), "the host was not asked yet");
    let host = FixedHost::half_free().0;
    loads.take_host(host);
    let busy = || seen().unwrap().load.cpu_busy;
    assert_eq!(busy(), 250);
    loads.take_host(HostSample { cpu_busy: 1_000, ..host });
    assert_eq!(busy(), 437, "a moment says little");
    let engine = || seen().unwrap().load.engine_ms;
    assert_eq!((seen().unwrap().load.running, engine()), (2, None));
    let ms = Duration::from_millis;
    loads.engine_answered(ms(40), Path::new("/var/lib/docker"));
    loads.engine_answered(ms(80), Path::new("/var/lib/docker"));
    assert_eq!((engine(), loads.engine_root()), (Some(50), EngineRoot::At("/var/lib/docker".into())));
    loads.engine_answered(ms(50), Path::new(""));
    assert_eq!(loads.engine_root(), EngineRoot::Elsewhere);
    loads.engine_silent();
    assert_eq!(engine(), None);
    loads.take_own_images(names(&["a"]));
    assert_eq!(loads.has(NodeId(1), &names(&["a"])), [true]);
    assert_eq!(loads.own_report().unwrap().images, ImageName::hash_of(&names(&["a"])));
    advance(KEPT).await;
    assert_eq!((seen(), loads.own_report()), (None, None), "a host that does not answer");
}
