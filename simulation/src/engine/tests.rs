//! The engine of a host: what becomes of pulls and containers, whoever asked for them.

use longshore_model::container::ContainerSpec;
use longshore_node::docker::conformance::{BuildFixture, Fixture, builds_conform, conforms};
use longshore_node::docker::{NewContainer, OnProgress};
use longshore_raft::consensus::runtime::AsyncRuntime;

use super::*;
use crate::random;
use crate::runtime::{global_ns, run, spawn_in};

const IMAGE: &str = "registry.invalid/app:s1";
const STEP_MS: u64 = 100;

type Reports = Arc<Mutex<Vec<(u64, Seen)>>>;

fn context(name: &str) -> Arc<Context> {
    Context::new(name, Arc::new(HostClock::new(0, 0, 0)), random::stream(7, name))
}

fn engine(registry: &Arc<ImageRegistry>) -> (HostEngine, Reports) {
    let step = Latency::even(STEP_MS * 1_000, STEP_MS * 1_000);
    let reports = Reports::default();
    let sink = reports.clone();
    let on_seen = Arc::new(move |seen| sink.lock().push((global_ns() / 1_000_000, seen)));
    let shape = EngineShape { step, ..EngineShape::default() };
    (HostEngine::new(1, registry, &shape, random::stream(1, "engine h1"), on_seen), reports)
}

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn ignore() -> OnProgress {
    Arc::new(|_| {})
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Number, incarnation and (once it is over) whether it completed, of each pull.
fn pulls(reports: &Reports) -> Vec<(u64, u64, Option<bool>)> {
    let mut pulls = Vec::new();
    for (_, seen) in reports.lock().iter() {
        match seen {
            Seen::PullBegan { pull, incarnation, .. } => pulls.push((*pull, *incarnation, None)),
            Seen::PullEnded { pull, completed, .. } => {
                let begun = pulls.iter_mut().find(|begun| begun.0 == *pull).expect("it began");
                assert_eq!(begun.2.replace(*completed), None, "it ends once");
            }
            Seen::Engine { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    pulls
}

#[test]
fn builds_conform_and_are_reported_like_pulls() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        registry.publish("registry.invalid/small:1");
        let (engine, reports) = engine(&registry);
        let fixture = BuildFixture {
            base: parse("registry.invalid/small:1"),
            missing: parse("registry.invalid/none:1"),
        };
        builds_conform(engine.for_process(1, 1).as_ref(), &fixture).await;
        let completed = pulls(&reports).iter().filter(|build| build.2 == Some(true)).count();
        assert_eq!(completed, 3, "{:?}", pulls(&reports));
    });
}

#[test]
fn the_engine_conforms() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        registry.publish("registry.invalid/small:1");
        let (engine, reports) = engine(&registry);
        registry.publish("registry.invalid/large:1");
        let fixture = Fixture {
            image: parse("registry.invalid/small:1"),
            slow_image: parse("registry.invalid/large:1"),
            missing: parse("registry.invalid/none:1"),
        };
        conforms(&*engine.for_process(1, 1), &fixture).await;
        sleep_global(ms(100)).await;
        let pulls = pulls(&reports);
        assert_eq!(pulls.len(), 9);
        assert!(pulls.iter().all(|(_, _, ended)| ended.is_some()), "{pulls:?}");
        assert_eq!(pulls.iter().filter(|(_, _, ended)| *ended == Some(true)).count(), 6);
    });
}

#[test]
fn the_pulls_of_the_dead_end_after_a_moment_and_the_images_stay() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let process = context("process 1");
        let connection = engine.for_process(1, 1);
        let pull = async move { connection.pull(&parse(IMAGE), ignore()).await };
        let pulled = spawn_in(&process, pull);
        sleep_global(ms(150)).await;
        process.kill();
        assert!(pulled.await.is_err());
        assert_eq!(pulls(&reports), [(1, 1, None)], "the engine does not know yet");
        sleep_global(ms(60)).await;
        assert_eq!(pulls(&reports), [(1, 1, Some(false))]);

        let again = engine.for_process(1, 2).pull(&parse(IMAGE), ignore()).await.unwrap();
        assert_eq!(pulls(&reports)[1], (2, 2, Some(true)));
        let found = engine.for_process(1, 3).inspect_image(&parse(IMAGE)).await.unwrap();
        assert_eq!(found, Some(again));
        engine.forget_images();
        assert_eq!(engine.for_process(1, 3).inspect_image(&parse(IMAGE)).await.unwrap(), None);
    });
}

#[test]
fn a_paused_process_learns_of_its_pull_when_it_goes_on() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let process = context("process 1");
        let connection = engine.for_process(1, 1);
        let pull = async move {
            let pulled = connection.pull(&parse(IMAGE), ignore()).await;
            (pulled, global_ns() / 1_000_000)
        };
        let pulled = spawn_in(&process, pull);
        sleep_global(ms(50)).await;
        process.pause();
        sleep_global(ms(9_950)).await;
        assert_eq!(pulls(&reports), [(1, 1, Some(true))]);
        process.resume();
        let (pulled, at_ms) = pulled.await.unwrap();
        assert!(pulled.is_ok());
        assert_eq!(at_ms, 10_000);
    });
}

#[test]
fn pulls_behave_as_they_are_told() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let connection = engine.for_process(1, 1);
        let image = parse(IMAGE);

        engine.set_pulls(PullBehaviour::Fails { after_steps: 2 });
        let failed = connection.pull(&image, ignore()).await.unwrap_err();
        assert!(matches!(failed, EngineError::RegistryUnavailable { .. }), "{failed:?}");

        engine.set_pulls(PullBehaviour::Hangs { after_steps: 2 });
        let hanging = SimRuntime::timeout(ms(60_000), connection.pull(&image, ignore())).await;
        assert!(hanging.is_err());
        tokio::task::yield_now().await;
        assert_eq!(pulls(&reports)[1], (2, 1, Some(false)), "a live process closes its connection");

        engine.set_pulls(PullBehaviour::Crashes { after_steps: 2 });
        let crashed = connection.pull(&image, ignore()).await.unwrap_err();
        assert!(matches!(crashed, EngineError::Interrupted { .. }), "{crashed:?}");
        let begun = pulls(&reports).len();
        assert!(connection.pull(&image, ignore()).await.is_err() && connection.info().await.is_err());
        assert_eq!(pulls(&reports).len(), begun, "an engine that is down begins nothing");

        engine.heal();
        engine.set_pulls(PullBehaviour::Slow { step: Latency::even(5_000_000, 5_000_000) });
        let (slow, ()) = tokio::join!(biased; connection.pull(&image, ignore()), async {
            sleep_global(ms(7_000)).await;
            engine.down();
        });
        assert!(matches!(slow, Err(EngineError::Interrupted { .. })), "{slow:?}");
        engine.heal();
        assert!(connection.pull(&image, ignore()).await.is_ok());
        let ends: Vec<_> = pulls(&reports).into_iter().map(|(_, _, ended)| ended).collect();
        assert_eq!(ends, [Some(false), Some(false), Some(false), Some(false), Some(true)]);
    });
}

/// What was told of the engine, and of containers: that one started, or ended.
fn told(reports: &Reports) -> Vec<String> {
    let told = reports.lock();
    let told = told.iter().filter_map(|(_, seen)| match seen {
        Seen::Engine { condition, .. } => Some(format!("{condition:?}")),
        Seen::ContainerStarted { name, .. } => Some(format!("{name} started")),
        Seen::ContainerEnded { .. } => Some("ended".to_owned()),
        _ => None,
    });
    told.collect()
}

fn container(name: &str) -> NewContainer {
    NewContainer { name: name.to_owned(), spec: ContainerSpec::of(parse(IMAGE)), labels: BTreeMap::new() }
}

#[test]
fn calls_behave_as_they_are_told() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let connection = engine.for_process(1, 1);
        connection.pull(&parse(IMAGE), ignore()).await.unwrap();
        let a = connection.create(&container("a")).await.unwrap();

        engine.set_calls(CallBehaviour::Fails { effect: true }, 100);
        assert!(connection.start(&a).await.is_err());
        assert_eq!(told(&reports), ["Unreliable", "a started"], "it says that it failed, and did it");

        engine.set_calls(CallBehaviour::Hangs { effect: false }, 100);
        let (hung, ()) = tokio::join!(biased; connection.stop(&a, Some(ms(0))), async {
            sleep_global(ms(100_000)).await;
            engine.set_calls(CallBehaviour::Works, 0);
        });
        assert!(matches!(hung, Err(EngineError::Interrupted { .. })), "{hung:?}");
        assert!(global_ns() >= 100_000_000_000, "it was let go when calls work again");
        assert_eq!(told(&reports)[2..], ["Slow", "Well"]);

        engine.set_calls(CallBehaviour::Slow { each: Latency::even(4_000_000, 4_000_000) }, 100);
        let begun = global_ns();
        connection.stop(&a, Some(ms(0))).await.unwrap();
        assert!(global_ns() - begun >= 8_000_000_000);
        assert_eq!(told(&reports)[4..], ["Slow", "ended"]);

        engine.set_calls(CallBehaviour::LosesReply, 0);
        connection.start(&a).await.unwrap();
        engine.set_calls(CallBehaviour::Crashes { effect: false }, 100);
        assert!(connection.remove(&a, true).await.is_err() && connection.info().await.is_err());
        engine.heal();
        let back = connection.inspect_container(&a).await.unwrap().expect("it was not removed");
        assert!(!back.state.is_up(), "a starting engine ends what ran on without it");
    });
}

#[test]
fn containers_do_not_outlive_the_power_of_their_host() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let connection = engine.for_process(1, 1);
        connection.pull(&parse(IMAGE), ignore()).await.unwrap();
        let a = connection.create(&container("a")).await.unwrap();
        connection.start(&a).await.unwrap();
        engine.lose_power();
        assert!(connection.info().await.is_err());
        assert_eq!(told(&reports), ["a started", "ended", "Unreliable"]);
        engine.up();
        assert_eq!(told(&reports)[3..], ["Well"]);
    });
}
